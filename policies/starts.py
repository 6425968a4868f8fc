"""Where imagination starts from: memories of real histories, encoded once and used for many updates."""

from __future__ import annotations

import torch

from worldmodel.data import EpisodeStore, WindowSampler
from worldmodel.losses import align_end, missing_steps
from worldmodel.transformer import Memory

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
    latents = torch.cat(
        [
            model.encode({key: value[i : i + 128].to(model.device) for key, value in seen.items()})
            for i in range(0, count, 128)
        ]
    )
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
