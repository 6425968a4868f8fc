"""What a run looks at on the way: does the real world pay what was imagined, and a short film."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from policies.agent import Agent
from policies.rollout import Episode
from policies.video import record
from policies.view import observed
from worldmodel.imagination import imagine

FILMED_STEPS = 100
EVERY = 25  # steps between two moments to imagine from


@torch.no_grad()
def imagined_against_real(agent: Agent, episodes: list[Episode]) -> dict[str, float]:
    """Reward over the actor's horizon: imagined from real moments of its own episodes, and what it then got.

    Returns:
        `imagined_reward`, `real_reward`, `imagined_reward_error` (mean absolute difference); nothing where all episodes
        are shorter than the horizon.
    """
    model, horizon = agent.model, agent.behavior.config.horizon
    imagined, real = [], []
    for episode in episodes:
        latents, beliefs, cache, _ = observed(model, episode)
        for t in range(0, len(episode["reward"]) - horizon + 1, EVERY):
            memory = model.belief.remember(cache, latents[:, : t + 1], beliefs[:, : t + 1])
            dream = imagine(model, memory, partial(agent.behavior.act, model), horizon)
            imagined.append(dream.rewards.sum().item())
            real.append(float(episode["reward"][t : t + horizon].sum()))
    if not real:
        return {}
    return {
        "imagined_reward": float(np.mean(imagined)),
        "real_reward": float(np.mean(real)),
        "imagined_reward_error": float(np.mean(np.abs(np.subtract(imagined, real)))),
    }


def film_beginning(agent: Agent, episode: Episode, path: Path, title: str) -> None:
    """A video of an episode's first steps, so that progress can be seen before the end."""
    short = {
        key: value[: FILMED_STEPS + (key not in ("action", "reward"))] if isinstance(value, np.ndarray) else value
        for key, value in episode.items()
    }
    title = f"{title}  return {episode['info']['return']:.0f}"
    record(agent.view, short, path, fps=agent.interface.fps, title=title)
