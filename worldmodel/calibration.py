"""Does a world model know when it is wrong? The disagreement of its transition heads against the real error of its
dreams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel.data import EpisodeStore
from worldmodel.diagnostics import open_loop
from worldmodel.provenance import whole_file

QUANTILES = 5  # groups of windows, from those that the heads agree about to those that they don't
NOMINAL = {1: 0.683, 2: 0.954}  # share of a normal distribution within so many standard deviations


@dataclass
class Foreseen:
    """How wrong dreams were expected to be, and how wrong they were, in units of the latent.

    Attributes:
        predicted: standard deviation that the heads give each of P numbers h steps ahead, `[B, H, P]`: the root of the
            sum of the steps' variances, as if the steps' errors were independent.
        error: what is dreamt less what was encoded, `[B, H, P]`.
        alive: bool `[B, H]`, false behind an episode's end.
    """

    predicted: np.ndarray
    error: np.ndarray
    alive: np.ndarray


def foresee(
    model, store: EpisodeStore, context: int = 8, horizon: int = 15, windows: int = 256, seed: int = 0
) -> Foreseen:
    """Dream held-out episodes under their own actions, and keep what the heads disagreed about.

    Args:
        model: a `WorldModel` with more than one transition head.
        context: frames that the model sees before it dreams.
        horizon: steps of open loop, H.
        windows: B, drawn from the held-out split.
        seed: of the draw.

    Raises:
        ValueError: there is one head, which agrees with itself, or no held-out episode.
    """
    if model.config.ensemble < 2:
        raise ValueError(
            "this model has one transition head, which always agrees with itself: train with model.ensemble=3"
        )
    seen = open_loop(model, store, context, horizon, windows, seed)
    variance = torch.stack([members.var(0, unbiased=False) for members in seen.dream.members], 1)  # [B, H, N, D]
    error = seen.dream.latents[:, 1:] - seen.latents[:, context:]
    parts = (variance.cumsum(1).sqrt().flatten(2), error.flatten(2), seen.alive > 0)
    return Foreseen(*(part.cpu().numpy() for part in parts))


def pooled(parts: Sequence[Foreseen]) -> Foreseen:
    """Several draws of windows as one."""
    keys = ("predicted", "error", "alive")
    return Foreseen(*(np.concatenate([getattr(part, key) for part in parts]) for key in keys))


def calibration(foreseen: Foreseen, quantiles: int = QUANTILES) -> list[dict[str, Any]]:
    """For each of the H horizons, what the disagreement says of the error; both as root mean squares over the P
    numbers.

    Returns:
        `horizon` (steps), `windows` (alive there), `spearman` (rank correlation of disagreement and error over windows:
        1 if the heads order windows by how wrong the dream will be, 0 if they know nothing; None where either never
        changes), `predicted`, `error` (root mean squares over windows), `scale` (error / predicted: above 1 for heads
        that are too sure), `quantiles` (of windows by disagreement, the mean `predicted` and `error` of each group, as
        in Guo et al. 2017, figure 1, for a regression), `coverage` (share of numbers whose error is within 1 and 2
        predicted standard deviations; of a calibrated normal distribution `NOMINAL`).

    Raises:
        ValueError: at some horizon there are fewer windows than quantiles.
    """
    report = []
    for step in range(foreseen.predicted.shape[1]):
        alive = foreseen.alive[:, step]
        if alive.sum() < quantiles:
            raise ValueError(
                f"{alive.sum()} windows of the held-out episodes are {step + 1} steps long, and {quantiles} are "
                "needed: ask for more windows, a shorter horizon, or collect longer episodes"
            )
        predicted, error = foreseen.predicted[alive, step], foreseen.error[alive, step]
        spread, wrong = (np.sqrt(np.square(part).mean(1, dtype=np.float64)) for part in (predicted, error))
        groups = np.array_split(np.argsort(spread, kind="stable"), quantiles)
        overall = [float(np.sqrt(np.square(part).mean())) for part in (spread, wrong)]
        report.append(
            {
                "horizon": step + 1,
                "windows": int(alive.sum()),
                "spearman": spearman(spread, wrong),
                "predicted": overall[0],
                "error": overall[1],
                "scale": overall[1] / overall[0] if overall[0] else None,
                "quantiles": [{"predicted": spread[group].mean(), "error": wrong[group].mean()} for group in groups],
                "coverage": {str(k): float((np.abs(error) <= k * predicted).mean()) for k in NOMINAL},
            }
        )
    return report


def spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    """Spearman's rank correlation of two vectors `[n]`, ties sharing their mean rank (Spearman 1904); None where either
    is constant."""
    ranks = [_ranks(np.asarray(values)) for values in (x, y)]
    if any(rank.std() == 0 for rank in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """From 1 on; equal values have the mean of their ranks."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[which]


def draw_calibration(report: list[dict[str, Any]], path: str | Path, title: str = "") -> Path:
    """Draw a report as a PNG: rank correlation by horizon, error by quantile of disagreement, coverage by horizon."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: no global state, and no window system
    correlation, error, coverage = figure.subplots(1, 3)
    steps = [at["horizon"] for at in report]
    ranked = [np.nan if at["spearman"] is None else at["spearman"] for at in report]
    correlation.plot(steps, ranked, color="#d1495b", marker="o", markersize=3)
    correlation.set(xlabel="steps of open loop", ylabel="Spearman: disagreement and error", ylim=(min(0, *ranked), 1))
    shown = report[:: max(1, len(report) // 4)]
    for number, at in enumerate(shown):
        points = np.array([[group["predicted"], group["error"]] for group in at["quantiles"]])
        shade = 0.3 + 0.7 * number / max(1, len(shown) - 1)
        error.plot(*points.T, marker="o", markersize=3, color="#30638e", alpha=shade, label=f"{at['horizon']} steps")
    highest = max(group["error"] for at in shown for group in at["quantiles"])
    error.plot([0, highest], [0, highest], color="#8d96a3", linewidth=0.8, linestyle="--")
    error.set(xlabel="predicted standard deviation, by quantile", ylabel="error")
    error.legend(fontsize=7, frameon=False)
    for k, color in zip(NOMINAL, ("#66a182", "#edae49"), strict=True):
        coverage.plot(steps, [at["coverage"][str(k)] for at in report], color=color, label=f"within {k} predicted")
        coverage.axhline(NOMINAL[k], color=color, linewidth=0.8, linestyle="--")
    coverage.set(xlabel="steps of open loop", ylabel="share of errors", ylim=(0, 1))
    coverage.legend(fontsize=7, frameon=False)
    for axis in (correlation, error, coverage):
        axis.grid(alpha=0.25, linewidth=0.5)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7)
    if title:
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")
    return Path(path)
