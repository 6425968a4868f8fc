"""The losses of the world model, from one batch of windows."""

from __future__ import annotations

from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.encoder import picture_to_input
from worldmodel.imagination import imagine
from worldmodel.interface import BLOBS, SEMANTIC
from worldmodel.sigreg import sigreg

TINY = 1e-6  # keeps logarithms of probabilities finite


def world_model_losses(
    model, batch: dict[str, Tensor], generator: torch.Generator | None = None, sigreg_boost: float = 1.0
) -> dict[str, Tensor]:
    """All terms, weighted in `loss`.

    Args:
        model: a `WorldModel`.
        batch: of `WindowSampler.sample`: observations `[B, T + 1, ...]`, `action [B, T, A]`, `previous_action
            [B, T + 1, A]`, `reward [B, T]`, `terminated [B, T]`, `valid [B, T]`; and, where there are such, `reference`:
            observations `[R, ...]` of frames drawn one by one, by which latents are standardised, and `recent [B]`, rows
            drawn from the newest episodes alone, which are not of their distribution: SIGReg sees the others.
        generator: of SIGReg's projections and the decoder's choice of frames.
        sigreg_boost: what the weight of SIGReg is multiplied by.

    Returns:
        scalars: `loss` (carries the gradient), and per term `latent`, `open_loop`, `sigreg`, `reward`, `terminal`,
        and where they apply `privileged`, `blobs`, `semantic`, `decoder`.

    Raises:
        ValueError: the window is too short for the open loop.
        KeyError: the batch does not bring what the model is trained on.
    """
    config = model.config
    length, steps = batch["action"].shape[1], config.open_loop
    if length < steps + 1:
        raise ValueError(f"training.window={length} must be longer than model.open_loop={steps}")
    missing, time = missing_steps(batch["valid"]), torch.arange(length + 1, device=batch["valid"].device)
    real = time <= length - missing[:, None]
    latents = model.encode(batch, batch.get("reference"), real)
    recent = batch.get("recent")
    typical = real if recent is None or recent.all() else real & ~recent[:, None]
    terms = {"sigreg": sigreg(latents[typical].flatten(0, 1), generator)}
    if config.losses.decoder or config.losses.reconstruction:
        terms["decoder"] = _decoder_loss(model, latents, batch, real, generator)

    # Short episodes end where the others do, so that the open loop, which is the window's end, has something to predict.
    known = time >= missing[:, None]
    valid = known[:, :-1].to(latents.dtype)
    names = ("previous_action", "action", "reward", "terminated")
    latents, previous, action, reward, terminated = align_end(missing, latents, *(batch[name] for name in names))
    goes_on = 1 - terminated
    beliefs, cache = model.observe_window(latents[:, :-1], previous[:, :-1], known[:, :-1])
    here, after = latents[:, :-1], latents[:, 1:]

    one = model.transition(beliefs.flatten(0, 1), here.flatten(0, 1), action.flatten(0, 1))
    terms["latent"] = _mean((one.members - after.flatten(0, 1)).square().mean((0, -1, -2)).view_as(valid), valid)
    reward_error = (one.reward.view_as(valid) - reward) / model.transition.reward_scale
    terminal = F.binary_cross_entropy_with_logits(one.continue_logit.view_as(valid), goes_on, reduction="none")

    first = length - steps - 1  # the last frame that the open loop sees
    memory = model.belief.remember(cache, latents[:, : first + 1], beliefs[:, : first + 1], known[:, : first + 1])
    dream = imagine(model, memory, action[:, first:], steps + 1, beliefs="before")
    dreamt = valid[:, first + 1 :] * known[:, first : first + 1]
    terms["open_loop"] = _mean((dream.latents[:, 2:] - after[:, first + 1 :]).square().mean((-1, -2)), dreamt)
    open_reward = (dream.rewards[:, 1:] - reward[:, first + 1 :]) / model.transition.reward_scale
    terms["reward"] = _mean(reward_error.square(), valid) + _mean(open_reward.square(), dreamt)
    alive = dream.continues[:, 1:].clamp(TINY, 1 - TINY)
    lives = goes_on[:, first + 1 :]
    open_terminal = -(lives * alive.log() + (1 - lives) * (1 - alive).log())  # torch's own stops at NaN, before we can
    terms["terminal"] = _mean(terminal, valid) + _mean(open_terminal, dreamt)

    for name, readout in (("privileged", model.state_readout), (BLOBS, model.blob_readout)):
        if readout is not None and getattr(config.losses, name):
            if name not in batch:
                raise KeyError(f"{name}: this model is trained on it, and the batch brings none (policies.scales.see_blobs)")
            (state,) = align_end(missing, batch[name])
            errors = readout.errors(model.features(beliefs, here), here, state[:, :-1])
            terms[name] = sum(w * _mean(error, valid) for w, error in zip((config.losses.positions, 1.0), errors))

    if model.semantic_head is not None and config.losses.semantic:
        (semantic,) = align_end(missing, batch[SEMANTIC])
        terms["semantic"] = _mean(_semantic_error(model, latents, semantic), known.to(latents.dtype))
        ahead = _semantic_error(model, dream.latents[:, 2:], semantic[:, first + 2 :])
        terms["semantic"] = terms["semantic"] + _mean(ahead, dreamt)

    weights = asdict(config.losses)
    weights["sigreg"] *= sigreg_boost
    loss = sum(weights[name] * value for name, value in terms.items())
    return {"loss": loss, **{name: value.detach() for name, value in terms.items()}}


def missing_steps(valid: Tensor) -> Tensor:
    """How many transitions at the end of each window are padding: int64 `[B]` of `valid [B, T]`."""
    return valid.shape[1] - valid.sum(1).long()


def align_end(missing: Tensor, *windows: Tensor) -> tuple[Tensor, ...]:
    """Shift every row of `windows [B, ...]` by its `missing [B]` steps, so that padding comes first; there the first
    entry repeats."""
    rows = torch.arange(len(missing), device=missing.device)[:, None]
    shifted = []
    for window in windows:
        index = torch.arange(window.shape[1], device=missing.device) - missing[:, None]
        shifted.append(window[rows, index.clamp_min(0)])
    return tuple(shifted)


def _mean(error: Tensor, valid: Tensor) -> Tensor:
    """The mean of `error [B, T]` over real transitions; padding does not count."""
    return (error * valid).sum() / valid.sum().clamp_min(1.0)


def _semantic_error(model, latents: Tensor, semantic: Tensor) -> Tensor:
    """Squared error of the semantic tokens `[B, T, K, E]` as read from latents `[B, T, N, D]`, in units of their
    variance: `[B, T]`."""
    target = (semantic - model.semantic_mean) / model.semantic_std
    return (model.semantic_head(latents.flatten(-2)) - target.clamp(-10, 10)).square().mean((-1, -2))


def _decoder_loss(
    model, latents: Tensor, batch: dict[str, Tensor], real: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Mean squared error of a few decoded frames, and states where there are any; their gradient reaches the encoder
    only as far as `losses.reconstruction` lets it."""
    config, flat = model.config, latents.flatten(0, 1)
    frames = real.flatten().nonzero().flatten()
    count = min(config.decoder_frames, len(frames))
    chosen = frames[torch.randint(len(frames), (count,), generator=generator, device=flat.device)]
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
