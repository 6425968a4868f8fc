"""Rewrite the README's table of results from `results/*.json`: `python -m scripts.results`."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- results: made by `python -m scripts.results` -->", "<!-- end of results -->"


def table(folder: Path) -> str:
    """A Markdown table of every claim in `folder`, those that miss their bar included."""
    rows = ["| what | measured | bar | met | command |", "|---|---|---|---|---|"]
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text())
        interval = result["interval"]
        low, high = interval.get("low"), interval.get("high")
        spread = "" if low is None else f" ({number(low)} to {number(high)})"
        sign = "≥" if result.get("higher_is_better", True) else "≤"
        bar = "" if result["bar"] is None else f"{sign} {number(result['bar'])}"
        met = {None: "", True: "yes", False: "**no**"}[result["met"]]
        claim = f"[{result['claim']}](results/{path.name})"
        rows.append(f"| {claim} | {number(result['mean'])}{spread} | {bar} | {met} | `{result['command']}` |")
    return "\n".join(rows)


def number(value: float) -> str:
    """Three digits that count, as people write them."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def with_table(readme: str, folder: Path) -> str:
    """The README with its table made anew.

    Raises:
        ValueError: the marks between which it stands are missing.
    """
    if BEGIN not in readme or END not in readme:
        raise ValueError(f"README.md needs the lines {BEGIN!r} and {END!r}: the table stands between them")
    before, rest = readme.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{table(folder)}\n{END}{rest.split(END, 1)[1]}"


def main() -> None:
    """Rewrite README.md."""
    path = ROOT / "README.md"
    path.write_text(with_table(path.read_text(), ROOT / "results"))
    print(f"{path.name}: {len(list((ROOT / 'results').glob('*.json')))} results")


if __name__ == "__main__":
    main()
