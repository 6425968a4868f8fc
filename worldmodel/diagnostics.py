"""Whether a world model is any good: open loop against the data, with the controls that catch a lazy one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.data import EpisodeStore, WindowSampler
from worldmodel.imagination import Trajectory, imagine
from worldmodel.transformer import Memory

HORIZONS = (1, 5, 10, 15)


@dataclass
class OpenLoop:
    """Windows of held-out episodes, and what a model dreams of their ends.

    Attributes:
        batch: of `WindowSampler`, on the model's device.
        latents, beliefs: of all their frames, `[B, context + H, N, ...]`.
        memory: after the first `context` frames.
        dream: H steps from there under the episodes' own actions.
        alive: `[B, H]`, 0 behind an episode's end.
    """

    batch: dict[str, Tensor]
    latents: Tensor
    beliefs: Tensor
    memory: Memory
    dream: Trajectory
    alive: Tensor


@torch.no_grad()
def open_loop(model, store: EpisodeStore, context: int, horizon: int, windows: int, seed: int) -> OpenLoop:
    """Dream the last `horizon` steps of windows of held-out episodes, after `context` frames that are seen."""
    training = model.training
    model.eval()
    sampler = WindowSampler(store, context + horizon - 1, windows, seed=seed, split="held_out")
    batch = {key: value.to(model.device) for key, value in sampler.sample().items()}
    latents = torch.cat([model.encode(part) for part in _parts(model.seen(batch))])
    beliefs, cache = model.observe_window(latents, batch["previous_action"])
    memory = model.belief.remember(cache, latents[:, :context], beliefs[:, :context])
    dream = imagine(model, memory, batch["action"][:, context - 1 :], horizon)
    model.train(training)
    return OpenLoop(batch, latents, beliefs, memory, dream, batch["valid"][:, context - 1 :])


@torch.no_grad()
def open_loop_report(
    model, store: EpisodeStore, context: int = 8, horizon: int = 15, windows: int = 128, seed: int = 0
) -> dict[str, float]:
    """Measure the model on held-out episodes.

    Args:
        context: frames that the model sees before it dreams.
        horizon: steps of open loop.
        windows: drawn from the held-out split.

    Returns:
        for h in `HORIZONS` up to `horizon`:
        `latent_error_h`: squared error of the latent h steps ahead, in units of its variance;
        `repeat_error_h`: the same for "nothing changes", the baseline;
        `shuffled_error_h`: the same with the actions of another episode: not larger for a model that ignores actions;
        `reward_r2_h`: share of the rewards' variance explained h steps ahead (1 is perfect, 0 the mean);
        `state_r2_h`: the same for the simulator's state where it is recorded;
        and `probe_r2`: how well the simulator's state (else the `state` input) can be read linearly from latent and
        belief, on windows that the reading was not fitted on.
    """
    seen = open_loop(model, store, context, horizon, windows, seed)
    batch, latents, beliefs, dream, alive = seen.batch, seen.latents, seen.beliefs, seen.dream, seen.alive
    training = model.training
    model.eval()
    target = latents[:, context:]
    shuffled = imagine(model, seen.memory, dream.actions.roll(1, 0), horizon)
    scale = latents.flatten(0, 1).var(0).mean().clamp_min(1e-6)

    def error(guess: Tensor) -> Tensor:
        squared = (guess - target).square().mean((-1, -2)) / scale
        return (squared * alive).sum(0) / alive.sum(0).clamp_min(1)

    curves = {
        "latent_error": error(dream.latents[:, 1:]),
        "repeat_error": error(latents[:, context - 1 : context].expand_as(target)),
        "shuffled_error": error(shuffled.latents[:, 1:]),
        "reward_r2": r2(dream.rewards[..., None], batch["reward"][:, context - 1 :, None], alive),
    }
    if model.state_readout is not None:
        read = model.read_state(dream.beliefs[:, 1:], dream.latents[:, 1:])
        curves["state_r2"] = r2(read, batch["privileged"][:, context:], alive)
    report = {f"{name}_{h}": float(curve[h - 1]) for name, curve in curves.items() for h in HORIZONS if h <= horizon}
    known = "privileged" if "privileged" in batch else "state" if "state" in batch else None
    if known:
        features = model.features(beliefs, latents)
        report["probe_r2"] = _linear_probe(features[:, context - 1 :], batch[known][:, context - 1 :])
    model.train(training)
    return report


def _parts(seen: dict[str, Tensor], rows: int = 32):
    """Observations, a few windows at a time: pictures take memory in the convolutions."""
    for start in range(0, len(next(iter(seen.values()))), rows):
        yield {key: value[start : start + rows] for key, value in seen.items()}


def r2(guess: Tensor, truth: Tensor, alive: Tensor) -> Tensor:
    """Share of variance explained per step, `[H]`, averaged over the dimensions that vary; inputs `[B, H, P]`."""
    weight = alive[..., None] / alive.sum(0).clamp_min(1)[:, None]
    mean = (truth * weight).sum(0)
    variance = ((truth - mean).square() * weight).sum(0)
    missed = ((guess - truth).square() * weight).sum(0)
    varies = variance > 1e-8
    return ((1 - missed / variance.clamp_min(1e-8)) * varies).sum(-1) / varies.sum(-1).clamp_min(1)


def _linear_probe(features: Tensor, state: Tensor, ridge: float = 1e-2) -> float:
    """R2 of a ridge regression fitted on the first half of the windows and measured on the second."""
    half = len(features) // 2
    x = torch.cat([features, torch.ones_like(features[..., :1])], -1).double()
    fit, test = x[:half].flatten(0, 1), x[half:].flatten(0, 1)
    y, truth = state[:half].flatten(0, 1).double(), state[half:].flatten(0, 1).double()
    gram = fit.T @ fit + ridge * len(fit) * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device) / x.shape[-1]
    read = test @ torch.linalg.solve(gram, fit.T @ y)
    return float(r2(read[:, None], truth[:, None], torch.ones(len(truth), 1, device=truth.device)).mean())
