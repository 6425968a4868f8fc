"""Where imagination starts from: memories of real histories, encoded once and used for many updates."""

from __future__ import annotations

import numpy as np
import torch

from worldmodel.data import EpisodeStore, WindowSampler
from worldmodel.interface import SEMANTIC
from worldmodel.losses import align_end, missing_steps
from worldmodel.transformer import Memory

ENCODED = 128  # histories that are encoded at once
SHORTENED = 0.25  # share of the histories that are cut to a random length: episodes begin without a past


@torch.no_grad()
def start_memories(
    model, store: EpisodeStore, count: int, seed: int, recent_fraction: float = 0.0, recent_episodes: int = 0
) -> Memory:
    """Memories of `count` moments in the training episodes, each with the history that a policy would have there."""
    window = model.config.window
    sampler = WindowSampler(
        store, max(window - 1, 1), count, seed, recent_fraction=recent_fraction, recent_episodes=recent_episodes
    )
    generator = torch.Generator().manual_seed(seed)
    batch = sampler.sample()
    seen = model.seen(batch)
    latents = _encoded(model, seen)
    missing, frames = missing_steps(batch["valid"].to(model.device)), latents.shape[1]
    latents, previous = align_end(missing, latents, batch["previous_action"].to(model.device))
    longest = torch.where(
        torch.rand(count, generator=generator) < SHORTENED,
        torch.randint(1, frames + 1, (count,), generator=generator),
        frames,
    ).to(model.device)
    age = torch.arange(frames, device=model.device)
    valid = (age >= missing[:, None]) & (age >= frames - longest[:, None])
    first = valid & ~torch.cat([torch.zeros_like(valid[:, :1]), valid[:, :-1]], 1)
    shortened = first & (longest < frames)[:, None]
    previous = previous.masked_fill(shortened[..., None], 0.0)  # as at an episode's start
    beliefs, cache = model.observe_window(latents, previous, valid)
    return model.belief.remember(cache, latents, beliefs, valid)


@torch.no_grad()
def memories_at(model, store: EpisodeStore, episodes: np.ndarray, steps: np.ndarray) -> Memory:
    """Memories of B moments, `steps` of `episodes` (int `[B]`), each with the last frames before it that the model's
    window holds, where the episode has so many.

    Raises:
        StoreDamaged, FeaturesMissing: an episode can't be read.
    """
    window, keys = model.config.window, model.interface.observation_keys()
    rows: list[dict[str, np.ndarray]] = []
    for episode, step in zip(episodes.tolist(), steps.tolist(), strict=True):
        before = max(0, step - window)  # one frame more than is seen: an action lies between it and the first of these
        part = store.read(episode, before, step)
        count = min(window, step + 1)
        action = np.concatenate([np.zeros((1, part["action"].shape[1]), np.float32), part["action"]])
        row = {key: part[key][-count:] for key in keys} | {"previous": action[-count:]}
        if model.semantics is not None and store.features is not None:
            read = store.features.read(episode, step + 1 - count, step + 1)
            row[SEMANTIC] = store.features.tokens(read)
        rows.append(row)
    padded = {key: torch.from_numpy(np.stack([_after_zeros(row[key], window) for row in rows])) for key in rows[0]}
    counts = torch.tensor([len(row["previous"]) for row in rows], device=model.device)
    valid = torch.arange(window, device=model.device) >= window - counts[:, None]
    previous = padded.pop("previous").to(model.device)
    latents = _encoded(model, padded)
    beliefs, cache = model.observe_window(latents, previous, valid)
    return model.belief.remember(cache, latents, beliefs, valid)


def _encoded(model, frames: dict[str, torch.Tensor]) -> torch.Tensor:
    """The latents `[B, T, N, D]` of histories of frames `[B, T, ...]`, a few at a time."""
    parts = (
        {key: value[i : i + ENCODED].to(model.device) for key, value in frames.items()}
        for i in range(0, len(next(iter(frames.values()))), ENCODED)
    )
    return torch.cat([model.encode(part) for part in parts])


def _after_zeros(rows: np.ndarray, length: int) -> np.ndarray:
    """Rows `[n, ...]` as the last of `length`, zeros before them."""
    return np.concatenate([np.zeros((length - len(rows), *rows.shape[1:]), rows.dtype), rows])
