"""Draws a run's curves.png from its metrics.jsonl: one small picture per question.

The names of the metrics say where they go:

    <whose>_return                  over updates, env steps and wall time
    <what>_error_<k>                k steps of open loop: newest line, by horizon, `latent` (the model) beside its baselines
    <what>_r2_<k>                   k steps of open loop: over updates, one line per horizon
    probe_r2                        the simulator's state read from latent and belief, over updates
    imagined_reward, real_reward    over the actor's horizon from the same moments, over updates
    model/<name>, behavior/<name>   what the updates report, losses first of all: one panel each, over updates
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from worldmodel.metrics import read_metrics
from worldmodel.provenance import whole_file

COLUMNS = 3
HORIZON = re.compile(r"(?P<what>\w+)_(?P<kind>error|r2)_(?P<steps>\d+)$")
RETURN = re.compile(r"(?P<whose>\w+)_return$")
UPDATE = re.compile(r"(model|behavior)/.+")
MODEL_COLOR, OTHER_COLORS = "#d1495b", ("#30638e", "#8d96a3", "#66a182", "#edae49")

Series = dict[str, tuple[list[float], list[float]]]  # label to x and y


def draw_curves(metrics: str | Path, path: str | Path, title: str = "") -> Path | None:
    """Draw what `metrics` (a metrics.jsonl) holds into the PNG `path`, and return it; None, and no picture, where it
    holds nothing to draw. Written in one move."""
    panels = _panels(read_metrics(metrics))
    if not panels:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.7 * rows + 0.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: no global state, and no window system
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, **panel)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")
    return Path(path)


def _panels(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The panels that the lines have data for: returns first, then what explains them."""
    keys = sorted({key for line in lines for key in line})
    returns = {match["whose"]: key for key in keys if (match := RETURN.match(key))}
    panels = []
    for x, label, unit in (("step", "updates", 1), ("env_steps", "env steps", 1), ("seconds", "minutes", 1 / 60)):
        series = {name: _over(lines, key, x, unit) for name, key in returns.items()}
        panels.append({"title": "return", "series": series, "x_label": label, "marks": True})
    panels += _open_loop_panels(lines, keys)
    rewards = {name: _over(lines, f"{name}_reward") for name in ("imagined", "real")}
    panels.append({"title": "reward over the actor's horizon", "series": rewards})
    probe = {"probe": _over(lines, "probe_r2")}
    panels.append({"title": "state read from latent and belief, R2", "series": probe, "y_range": (0, 1)})
    for key in (key for key in keys if UPDATE.match(key)):
        panels.append({"title": key, "series": {key: _over(lines, key)}, "log": True})
    for panel in panels:
        panel["series"] = {name: points for name, points in panel["series"].items() if points[0]}
    return [panel for panel in panels if panel["series"]]


def _open_loop_panels(lines: list[dict[str, Any]], keys: list[str]) -> list[dict[str, Any]]:
    """Errors by horizon beside their baselines, and R2 over updates by horizon."""
    found: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for key in keys:
        if match := HORIZON.match(key):
            found[match["kind"], match["what"]][int(match["steps"])] = key
    newest = {key: line[key] for line in lines for key in line if line[key] is not None}
    errors: Series = {}
    panels = []
    for (kind, what), by_horizon in found.items():
        horizons = sorted(by_horizon)
        if kind == "error":
            points = [(float(steps), newest[by_horizon[steps]]) for steps in horizons if by_horizon[steps] in newest]
            errors["model" if what == "latent" else what] = ([x for x, _ in points], [y for _, y in points])
        else:
            series = {f"{steps} steps": _over(lines, by_horizon[steps]) for steps in horizons}
            title = f"open loop: {what.replace('_', ' ')} R2"
            panels.append({"title": title, "series": series, "y_range": (0, 1), "ordered": True})
    title = "open loop: error of the latent, newest"
    return [*panels, {"title": title, "series": errors, "x_label": "steps imagined", "marks": True, "y_min": 0.0}]


def _over(lines: list[dict[str, Any]], key: str, x: str = "step", unit: float = 1) -> tuple[list[float], list[float]]:
    """The points of one metric, without its gaps."""
    points = [(line[x] * unit, line[key]) for line in lines if line.get(key) is not None]
    return [point[0] for point in points], [point[1] for point in points]


def _draw(
    axis,
    title: str,
    series: Series,
    x_label: str = "updates",
    log: bool = False,
    marks: bool = False,
    ordered: bool = False,
    y_range: tuple[float, float] | None = None,
    y_min: float | None = None,
) -> None:
    """One panel. `ordered` series (horizons) share one colour that fades; others have their own, `model` first."""
    others = iter(OTHER_COLORS * len(series))
    for index, (name, (x, y)) in enumerate(series.items()):
        fade = 1.0 - 0.75 * index / max(1, len(series) - 1) if ordered else 1.0
        color = MODEL_COLOR if ordered or len(series) == 1 or name == "model" else next(others)
        marker = "o" if marks and len(x) <= 40 else None
        axis.plot(x, y, label=name, color=color, alpha=fade, linewidth=1.4, marker=marker, markersize=3)
    values = [value for _, y in series.values() for value in y]
    if log and min(values) > 0 and max(values) > 10 * min(values):
        axis.set_yscale("log")
    if y_range is not None:  # R2: the useful range, and below it only as far as the lines go
        axis.set_ylim(max(min(y_range[0], min(values)), -1.0) - 0.03, y_range[1] + 0.03)
    if y_min is not None:
        axis.set_ylim(bottom=y_min)
    axis.set_title(title, fontsize=9, loc="left")
    axis.set_xlabel(x_label, fontsize=8)
    axis.tick_params(labelsize=7, which="both")
    axis.xaxis.get_major_locator().set_params(nbins=5)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, linewidth=0.5)
    if len(series) > 1 or title == "return":
        axis.legend(fontsize=7, frameon=False)
