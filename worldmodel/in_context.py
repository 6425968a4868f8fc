"""Does the belief find out from its history how the world behaves now, without an update? Dreams of the same steps after
more and less of what came before them, and the factors of the dynamics read from the belief."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.diagnostics import HORIZONS, r2
from worldmodel.imagination import imagine

FOLDS = 4  # of the episodes that a probe is fitted on, for the choice of its strength
STRENGTHS = tuple(10.0**power for power in range(-4, 3))  # of the ridge, in units of the features' variance
ROWS = 256  # windows that are dreamt at once


@dataclass
class Windows:
    """Stretches of whole episodes as one model sees them: `context` frames, and `horizon` steps that it will dream.

    Attributes:
        latents: `[B, context + H, N, D]`.
        previous: `[B, context + H, A]`, the action that led to each frame.
        reward: `[B, H]`, of the steps that are dreamt.
        privileged: `[B, H, P]`, the simulator's state after each; None where it is not recorded.
        factors: float64 `[B, F]`, the logarithms of the episode's factors; F = 0 where nothing varies.
        names: of the F factors.
        episode: int `[B]`, which episode each comes from.
        context: frames before the first dreamt one.
    """

    latents: Tensor
    previous: Tensor
    reward: Tensor
    privileged: Tensor | None
    factors: Tensor
    names: list[str]
    episode: np.ndarray
    context: int


@torch.no_grad()
def cut(model, episodes: Sequence[dict], context: int, horizon: int) -> Windows:
    """Windows of `episodes` that begin `horizon` steps apart.

    Args:
        model: a `WorldModel`, in eval mode.
        episodes: of `policies.rollout`.
        context: frames before the first dreamt one.
        horizon: steps that are dreamt, H.

    Raises:
        ValueError: every episode is shorter than a window.
    """
    parts, keys = [], model.interface.observation_keys()
    names = sorted(episodes[0]["info"].get("dynamics", {}))
    for number, episode in enumerate(episodes):
        frames = {key: torch.as_tensor(episode[key]).to(model.device) for key in keys}
        latents = model.encode(frames)
        action = torch.as_tensor(episode["action"], dtype=torch.float32).to(model.device)
        previous = torch.cat([torch.zeros_like(action[:1]), action])
        reward = torch.as_tensor(episode["reward"]).to(model.device)
        state = torch.as_tensor(episode["privileged"]).to(model.device) if "privileged" in episode else None
        factors = torch.tensor([np.log(episode["info"]["dynamics"][name]) for name in names], dtype=torch.float64)
        for first in range(context, len(reward) + 2 - horizon, horizon):  # the first frame that is dreamt
            own, dreamt = slice(first - context, first + horizon), slice(first, first + horizon)
            steps = slice(first - 1, first - 1 + horizon)
            parts.append(
                (latents[own], previous[own], reward[steps], None if state is None else state[dreamt], factors, number)
            )
    if not parts:
        raise ValueError(
            f"no episode has the {context + horizon - 1} steps of {context} frames that are seen and {horizon} that are "
            "dreamt: give steps=, seen= or horizon= other numbers"
        )
    *tensors, episode = zip(*parts, strict=True)
    stacked = [None if column[0] is None else torch.stack(column) for column in tensors]
    return Windows(*stacked, names, np.array(episode), context)


@torch.no_grad()
def dream_after(model, windows: Windows, seen: int) -> tuple[dict[str, float], Tensor]:
    """Dream the last steps of all windows from the last `seen` frames before them.

    The dreamt steps are the same whatever is seen; what differs is how much of the history the belief knows.

    Returns:
        for what of `latent_error` (squared error of the latent, in units of its variance), `reward_r2` and `state_r2`
        (share of variance explained; the latter where the model reads a state): `<what>`, the mean over all steps,
        and `<what>_<h>`, h steps ahead, as in `worldmodel.diagnostics.open_loop_report`;
        and the beliefs before the dreams, their mean over tokens, `[B, W]`.

    Raises:
        ValueError: `seen` is not between 1 and the windows' context.
    """
    if not 1 <= seen <= windows.context:
        raise ValueError(f"{seen} frames seen: these windows have 1 to {windows.context} before what is dreamt")
    horizon = windows.reward.shape[1]
    target = windows.latents[:, windows.context :]
    dreamt, rewards, states, beliefs = [], [], [], []
    for begin in range(0, len(target), ROWS):
        own = slice(begin, begin + ROWS)
        latents, previous = windows.latents[own], windows.previous[own]
        past = slice(windows.context - seen, windows.context)
        believed, cache = model.observe_window(latents[:, past], previous[:, past])
        memory = model.belief.remember(cache, latents[:, past], believed)
        dream = imagine(model, memory, previous[:, windows.context :], horizon)
        dreamt.append(dream.latents[:, 1:])
        rewards.append(dream.rewards)
        beliefs.append(believed[:, -1].mean(-2))
        if model.state_readout is not None:
            states.append(model.read_state(dream.beliefs[:, 1:], dream.latents[:, 1:]))
    every = torch.ones_like(windows.reward)
    scale = windows.latents.flatten(0, 1).var(0).mean().clamp_min(1e-6)
    curves = {
        "latent_error": (torch.cat(dreamt) - target).square().mean((0, 2, 3)) / scale,
        "reward_r2": r2(torch.cat(rewards)[..., None], windows.reward[..., None], every),
    }
    if states and windows.privileged is not None:
        curves["state_r2"] = r2(torch.cat(states), windows.privileged, every)
    report = {name: float(curve.mean()) for name, curve in curves.items()}
    report |= {f"{name}_{h}": float(curve[h - 1]) for name, curve in curves.items() for h in HORIZONS if h <= horizon}
    return report, torch.cat(beliefs)


def probe(features: Tensor, factors: Tensor, episode: np.ndarray) -> list[float]:
    """How well factors can be read linearly: R2 of a ridge regression, fitted on the first half of the episodes and
    measured on the second. Its strength is chosen by cross-validation over episodes of the first half.

    Args:
        features: `[B, W]`.
        factors: `[B, F]`, the same throughout an episode.
        episode: int `[B]`.

    Returns:
        one R2 per factor; 1 is perfect, 0 the mean, below 0 worse than that.

    Raises:
        ValueError: there are fewer than 2 episodes for each of the folds.
    """
    numbers = np.unique(episode)
    if len(numbers) < 2 * FOLDS:
        raise ValueError(f"{len(numbers)} episodes: reading factors from beliefs takes at least {2 * FOLDS}")
    fitted = np.isin(episode, numbers[: len(numbers) // 2])
    x, y = features.double(), factors.double().to(features.device)
    mean, scale = x[fitted].mean(0), x[fitted].std(0).clamp_min(1e-6)
    x = (x - mean) / scale

    def missed(fit: np.ndarray, test: np.ndarray, strength: float) -> Tensor:
        """Squared errors `[B, F]` on `test`."""
        centre = y[fit].mean(0)
        gram = x[fit].T @ x[fit] / fit.sum() + strength * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        weight = torch.linalg.solve(gram, x[fit].T @ (y[fit] - centre) / fit.sum())
        return (x[test] @ weight + centre - y[test]).square()

    fold = episode % FOLDS
    losses = [
        sum(missed(fitted & (fold != own), fitted & (fold == own), strength).sum(0) for own in range(FOLDS))
        for strength in STRENGTHS
    ]
    best = torch.stack(losses).argmin(0).tolist()
    variance = (y[~fitted] - y[~fitted].mean(0)).square().mean(0).clamp_min(1e-12)
    return [
        float(1 - missed(fitted, ~fitted, STRENGTHS[choice])[:, factor].mean() / variance[factor])
        for factor, choice in enumerate(best)
    ]


def in_context_report(model, episodes: Sequence[dict], seen: Sequence[int], horizon: int) -> dict:
    """What a model's dreams gain from history, in these episodes.

    Args:
        seen: counts of frames that the belief knows before it dreams; the largest is the windows' context.

    Returns:
        `windows`, how many; `frames`: count to the measures of `dream_after` and, where dynamics vary, `probe`, factor to
        R2 (see `probe`); `gain`: the share of the latent error that all `seen` frames take away, against two.

    Raises:
        ValueError: the episodes are too short or too few.
    """
    training = model.training
    model.eval()
    windows, frames = cut(model, episodes, max(seen), horizon), {}
    for count in sorted({*seen, min(2, max(seen))}):
        frames[count], beliefs = dream_after(model, windows, count)
        if windows.names:
            read = probe(beliefs, windows.factors, windows.episode)
            frames[count]["probe"] = dict(zip(windows.names, read, strict=True))
    model.train(training)
    few, many = frames[min(2, max(seen))]["latent_error"], frames[max(seen)]["latent_error"]
    return {"windows": len(windows.episode), "frames": frames, "gain": 1 - many / max(few, 1e-12)}
