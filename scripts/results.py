"""Make what is shown of `results/*.json`: the tables in README.md and results/README.md, and each claim's learning curve
as PNG and CSV: `python -m scripts.results`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from scripts.adapt_methods import table as adaptation_table

ROOT = Path(__file__).parents[1]
BEGIN_PROFILE, BEGIN_ABLATIONS = "<!-- profile: made likewise -->", "<!-- ablations: made likewise -->"
BEGIN_ADAPTATION = "<!-- adaptation: made likewise -->"
BEGIN, END = "<!-- results: made by `python -m scripts.results` -->", "<!-- end of results -->"


def table(folder: Path) -> str:
    """A Markdown table of every claim in `folder`, those that miss their bar included."""
    rows = ["| what | measured | bar | met | command | see |", "|---|---|---|---|---|---|"]
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text())
        interval = result["interval"]
        low, high = interval.get("low"), interval.get("high")
        spread = "" if low is None else f" ({number(low)} to {number(high)})"
        sign = "≥" if result.get("higher_is_better", True) else "≤"
        bar = "" if result["bar"] is None else f"{sign} {number(result['bar'])}"
        met = {None: "", True: "yes", False: "**no**"}[result["met"]]
        claim = f"[{result['claim']}](results/{path.name})"
        rows.append(
            f"| {claim} | {number(result['mean'])}{spread} | {bar} | {met} | `{result['command']}` | {shown(path)} |"
        )
    return "\n".join(rows)


def shown(path: Path) -> str:
    """Links to the pictures and videos of a claim."""
    names = {
        f"curves/{path.stem}.png": "curve", f"gallery/{path.stem}.mp4": "video",
        f"gallery/{path.stem}_goals.mp4": "20 goals",
    }  # fmt: skip
    return " ".join(f"[{word}](results/{name})" for name, word in names.items() if (path.parent / name).exists())


def ablation_table(folder: Path) -> str:
    """A Markdown table of every row of `scripts.ablate`, the largest gain or loss first."""
    results = {path.stem: json.loads(path.read_text()) for path in (folder / "ablations").glob("*.json")}
    base = results["default"]["mean"] if "default" in results else 0.0
    rows = [
        "| change | why | reward R2 at 5 / 10 / 15 steps | state R2 at 10 | seconds | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in sorted(results.items(), key=lambda item: (item[0] != "default", item[1]["mean"] - base)):
        runs = result["runs"]
        rewards = " / ".join(average(runs, f"reward_r2_{steps}") for steps in (5, 10, 15))
        change = f"`{result['overrides']}`" if result["overrides"] else "none"
        why = result["claim"].split(": ")[1]
        seconds = f"{sum(run['train_seconds'] for run in runs) / len(runs):.0f}"
        rows.append(f"| {change} | {why} | {rewards} | {average(runs, 'state_r2_10')} | {seconds} | {len(runs)} |")
    return "\n".join(rows)


def average(runs: list[dict], key: str) -> str:
    """The mean over runs with the distance to the furthest, in hundredths."""
    values = [run[key] for run in runs if key in run]
    if not values:
        return ""
    mean = sum(values) / len(values)
    spread = f" ± {max(abs(value - mean) for value in values):.2f}" if len(values) > 1 else ""
    return f"{mean:.2f}{spread}"


def profile_table(folder: Path) -> str:
    """Where the wall time of the default job goes, averaged over its seeds."""
    runs = [run for run in json.loads((folder / "cartpole_swingup.json").read_text())["runs"] if run.get("seconds")]
    if not runs:
        return "No run of the default job that kept its times stands in `results/` yet."
    rows = ["| part | seconds | share |", "|---|---|---|"]
    total = sum(60 * run["minutes"] for run in runs) / len(runs)
    for part in runs[0]["seconds"]:
        seconds = sum(run["seconds"].get(part, 0.0) for run in runs) / len(runs)
        rows.append(f"| {part} | {seconds:.0f} | {seconds / total:.0%} |")
    rest = total - sum(sum(run["seconds"].values()) for run in runs) / len(runs)
    return "\n".join([*rows, f"| start of the process, checkpoints | {rest:.0f} | {rest / total:.0%} |"])


def draw_curve(path: Path) -> list[Path]:
    """`curves/<claim>.csv` and `.png` beside a claim's JSON: return over wall time and env steps, each seed, their mean
    and the range between them; nothing for a claim without a curve."""
    result = json.loads(path.read_text())
    runs = [run for run in result.get("runs", []) if run.get("curve")]
    if not runs:
        return []
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder = path.parent / "curves"
    folder.mkdir(exist_ok=True)
    lines = ["seed,minutes,env_steps,return"]
    lines += [f"{run['seed']},{p['minutes']},{p['env_steps']},{p['return']:.3f}" for run in runs for p in run["curve"]]
    (folder / f"{path.stem}.csv").write_text("\n".join(lines) + "\n")
    figure = Figure(figsize=(8, 3.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (key, label) in zip(
        figure.subplots(1, 2), (("minutes", "minutes of wall time"), ("env_steps", "env steps"))
    ):
        common = np.linspace(
            max(run["curve"][0][key] for run in runs), min(run["curve"][-1][key] for run in runs), 60
        )  # where all seeds have been
        values = np.stack(
            [np.interp(common, [p[key] for p in r["curve"]], [p["return"] for p in r["curve"]]) for r in runs]
        )
        for run in runs:
            axis.plot(
                [p[key] for p in run["curve"]], [p["return"] for p in run["curve"]], color="#8d96a3", linewidth=0.8
            )
        axis.fill_between(common, values.min(0), values.max(0), color="#d1495b", alpha=0.15, linewidth=0)
        axis.plot(common, values.mean(0), color="#d1495b", linewidth=1.8, label=f"mean of {len(runs)}")
        axis.set_xlabel(label, fontsize=8)
        axis.set_ylabel("validation return", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25, linewidth=0.5)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=7, frameon=False)
    figure.suptitle(path.stem, fontsize=10, x=0.01, ha="left")
    figure.savefig(folder / f"{path.stem}.png")
    return [folder / f"{path.stem}.csv", folder / f"{path.stem}.png"]


def number(value: float) -> str:
    """Three digits that count, as people write them."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def with_table(page: str, made: str, begin: str = BEGIN) -> str:
    """A page with the table after the mark `begin` replaced by `made`.

    Raises:
        ValueError: the marks between which it stands are missing.
    """
    if begin not in page or END not in page.split(begin, 1)[1]:
        raise ValueError(f"the page needs the lines {begin!r} and {END!r}: the table stands between them")
    before, rest = page.split(begin, 1)
    return f"{before}{begin}\n{made}\n{END}{rest.split(END, 1)[1]}"


def main() -> None:
    """Rewrite both pages and all curves."""
    folder = ROOT / "results"
    for path in sorted(folder.glob("*.json")):
        draw_curve(path)
    pages = {
        ROOT / "README.md": [(BEGIN, table(folder))],
        folder / "README.md": [
            (BEGIN_PROFILE, profile_table(folder)),
            (BEGIN_ABLATIONS, ablation_table(folder)),
            (BEGIN_ADAPTATION, adaptation_table(folder / "adaptation")),
        ],
    }
    for path, tables in pages.items():
        page = path.read_text()
        for begin, made in tables:
            page = with_table(page, made, begin)
        path.write_text(page)
    print(f"{len(list(folder.glob('*.json')))} results, {len(list(folder.glob('ablations/*.json')))} ablations")


if __name__ == "__main__":
    main()
