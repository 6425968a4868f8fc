"""The losses of the world model, from one batch of windows."""

from __future__ import annotations

from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.encoder import picture_to_input
from worldmodel.imagination import imagine
from worldmodel.sigreg import sigreg


def world_model_losses(model, batch: dict[str, Tensor], generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """All terms, weighted in `loss`.

    Args:
        model: a `WorldModel`.
        batch: of `WindowSampler.sample`: observations `[B, T + 1, ...]`, `action [B, T, A]`, `previous_action
            [B, T + 1, A]`, `reward [B, T]`, `terminated [B, T]`, `valid [B, T]`; and, where there are such, `reference`:
            observations `[R, ...]` of frames drawn one by one, by which latents are standardised.
        generator: of SIGReg's projections and the decoder's choice of frames.

    Returns:
        scalars: `loss` (carries the gradient), and per term `latent`, `open_loop`, `sigreg`, `reward`, `terminal`,
        and where they apply `privileged`, `decoder`.

    Raises:
        ValueError: the window is too short for the open loop.
    """
    config, action = model.config, batch["action"]
    length, steps = action.shape[1], config.open_loop
    if length < steps + 1:
        raise ValueError(f"training.window={length} must be longer than model.open_loop={steps}")
    valid = batch["valid"]
    latents = model.encode(batch, batch.get("reference"))
    beliefs, cache = model.observe_window(latents[:, :-1], batch["previous_action"][:, :-1])
    here, after = latents[:, :-1], latents[:, 1:]

    one = model.transition(beliefs.flatten(0, 1), here.flatten(0, 1), action.flatten(0, 1))
    terms = {
        "latent": _mean((one.members - after.flatten(0, 1)).square().mean((0, -1, -2)).view_as(valid), valid),
        "sigreg": sigreg(latents.flatten(0, 2), generator),
    }
    reward_error = (one.reward.view_as(valid) - batch["reward"]) / model.transition.reward_scale
    terms["terminal"] = _mean(
        F.binary_cross_entropy_with_logits(
            one.continue_logit.view_as(valid), 1 - batch["terminated"], reduction="none"
        ),
        valid,
    )

    first = length - steps - 1  # the last frame that the open loop sees
    memory = model.belief.remember(cache, latents[:, : first + 1], beliefs[:, : first + 1])
    dream = imagine(model, memory, action[:, first:], steps + 1, beliefs="before")
    seen = valid[:, first + 1 :]
    terms["open_loop"] = _mean((dream.latents[:, 2:] - after[:, first + 1 :]).square().mean((-1, -2)), seen)
    open_reward = (dream.rewards[:, 1:] - batch["reward"][:, first + 1 :]) / model.transition.reward_scale
    terms["reward"] = _mean(reward_error.square(), valid) + _mean(open_reward.square(), seen)

    if model.position_head is not None and config.losses.privileged:
        terms["privileged"] = _privileged_loss(model, latents, beliefs, batch["privileged"], valid)
    if config.losses.decoder or config.losses.reconstruction:
        terms["decoder"] = _decoder_loss(model, latents, batch, generator)

    weights = asdict(config.losses)
    loss = sum(weights[name] * value for name, value in terms.items())
    return {"loss": loss, **{name: value.detach() for name, value in terms.items()}}


def _mean(error: Tensor, valid: Tensor) -> Tensor:
    """The mean of `error [B, T]` over real transitions; padding does not count."""
    return (error * valid).sum() / valid.sum().clamp_min(1.0)


def _privileged_loss(model, latents: Tensor, beliefs: Tensor, state: Tensor, valid: Tensor) -> Tensor:
    """Positions are read linearly from the latent, velocities from latent and belief: a picture shows no velocity."""
    target = ((state - model.privileged_mean) / model.privileged_std).clamp(-10, 10)[:, :-1]
    positions = model.interface.privileged_positions
    loss = _mean((model.position_head(latents[:, :-1].flatten(-2)) - target[..., :positions]).square().mean(-1), valid)
    if model.velocity_head is not None:
        read = model.velocity_head(model.features(beliefs, latents[:, :-1]))
        loss = loss + _mean((read - target[..., positions:]).square().mean(-1), valid)
    return loss


def _decoder_loss(model, latents: Tensor, batch: dict[str, Tensor], generator: torch.Generator | None) -> Tensor:
    """Mean squared error of a few decoded frames, and states where there are any; their gradient reaches the encoder
    only as far as `losses.reconstruction` lets it."""
    config, flat = model.config, latents.flatten(0, 1)
    count = min(config.decoder_frames, flat.shape[0])
    chosen = torch.randint(flat.shape[0], (count,), generator=generator, device=flat.device)
    picked = flat[chosen]
    share = config.losses.reconstruction
    picked = picked.detach() + share * (picked - picked.detach()) if share else picked.detach()
    errors = []
    for key, picture in model.decoder(picked).items() if model.decoder is not None else ():
        target = picture_to_input(batch[key].flatten(0, 1)[chosen]).permute(0, 2, 3, 1).float()
        errors.append((picture - target).square().mean())
    if model.state_decoder is not None:
        target = (batch["state"].flatten(0, 1)[chosen] - model.encoder.state_mean) / model.encoder.state_std
        errors.append((model.state_decoder(picked) - target.clamp(-10, 10)).square().mean())
    return torch.stack(errors).mean()
