"""What a world model sees and dreams along one recorded episode."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from policies.rollout import Episode
from policies.video import View
from worldmodel.imagination import imagine


@torch.no_grad()
def observed(model, episode: Episode) -> tuple[Tensor, Tensor, list, Tensor]:
    """Latents `[1, T + 1, N, D]`, beliefs `[1, T + 1, N, W]` and their cache, and actions `[1, T, A]` of an episode."""
    keys, length = model.interface.observation_keys(), len(episode["reward"])
    frames = {key: torch.as_tensor(episode[key]).to(model.device) for key in keys}
    parts = [{key: value[i : i + 128] for key, value in frames.items()} for i in range(0, length + 1, 128)]
    latents = torch.cat([model.encode(part) for part in parts])[None]
    actions = torch.as_tensor(episode["action"], dtype=torch.float32).to(model.device)[None]
    previous = torch.cat([torch.zeros_like(actions[:, :1]), actions], 1)
    beliefs, cache = model.observe_window(latents, previous)
    return latents, beliefs, cache, actions


@torch.no_grad()
def model_view(model, episode: Episode, open_loop_step: np.ndarray) -> View:
    """The reconstruction of every frame, and the dream under the episode's own actions.

    Args:
        model: a `WorldModel`.
        episode: of T actions.
        open_loop_step: int `[T + 1]`, how many steps ahead of the last observed frame each frame is imagined; 0 where
            the model sees it. Every dream starts from the real history.
    """
    training = model.training
    model.eval()
    length = len(episode["reward"])
    latents, beliefs, cache, actions = observed(model, episode)

    dreamt = latents.clone()
    reward = model.transition(beliefs[0, :-1], latents[0, :-1], actions[0]).reward
    starts = np.flatnonzero(open_loop_step[1:] == 1) + 1
    for start in starts:
        steps = 1
        while start + steps <= length and open_loop_step[start + steps] == steps + 1:
            steps += 1
        memory = model.belief.remember(cache, latents[:, :start], beliefs[:, :start])
        dream = imagine(model, memory, actions[:, start - 1 : start - 1 + steps], steps)
        dreamt[:, start : start + steps] = dream.latents[:, 1:]
        reward[start - 1 : start - 1 + steps] = dream.rewards[0]

    def pictures(of: torch.Tensor) -> dict[str, np.ndarray]:
        if model.decoder is None:
            return {}
        parts = [model.decode(of[0, i : i + 128]) for i in range(0, length + 1, 128)]
        return {key: torch.cat([part[key] for part in parts]).cpu().numpy() for key in model.interface.cameras}

    state = model.decode_state(dreamt[0]).cpu().numpy() if model.interface.state_dim else None
    view = View(pictures(latents), pictures(dreamt), reward.cpu().numpy(), state)
    model.train(training)
    return view
