"""A whole world model gives the same on Triton's kernels as on plain torch, and runs on them where it should."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from worldmodel import Interface, ModelConfig, WorldModel, imagine
from worldmodel.kernels import chosen
from worldmodel.kernels.jit import launching_with

INTERFACE = Interface(
    cameras={"image": (32, 32, 3)}, action_dim=2, privileged_dim=5, privileged_positions=3
)  # of a cartpole
BACKENDS = ("torch", "interpret")


def make(tokens: int, window: int = 4) -> WorldModel:
    torch.manual_seed(0)
    config = ModelConfig(
        latent_tokens=tokens, latent_dim=8, width=48, layers=2, heads=3, kv_heads=1, window=window, ensemble=2,
        head_width=32, channels=(8, 8, 8), feature_width=32, open_loop=3,
    )  # fmt: skip
    model = WorldModel(INTERFACE, config)
    model.transition.heads.last.data.normal_(std=0.1)  # zero at the start, where any two trajectories would agree
    return model


def batch_of(rows: int = 3, steps: int = 6) -> dict:
    generator = torch.Generator().manual_seed(1)
    action = torch.rand(rows, steps, 2, generator=generator) * 2 - 1
    valid = torch.ones(rows, steps)
    valid[0, 4:] = 0  # a short episode
    return {
        "image": torch.randint(0, 256, (rows, steps + 1, 32, 32, 3), dtype=torch.uint8, generator=generator),
        "privileged": torch.randn(rows, steps + 1, 5, generator=generator),
        "action": action,
        "previous_action": torch.cat([torch.zeros(rows, 1, 2), action], 1),
        "reward": torch.rand(rows, steps, generator=generator),
        "terminated": torch.zeros(rows, steps),
        "valid": valid,
    }


def memory_of(model: WorldModel, rows: int = 2, frames: int = 5):
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(rows, frames, model.config.latent_tokens, 8, generator=generator)
    beliefs, cache = model.observe_window(latents, torch.randn(rows, frames, 2, generator=generator))
    return model.belief.remember(cache, latents, beliefs)


@pytest.mark.parametrize("tokens", [1, 4])
def test_losses_and_every_gradient_agree(tokens, monkeypatch):
    # Where convolutions are in bfloat16, two gradients that differ in the last bit of float32 are rounded apart by 2^-8.
    monkeypatch.setattr("worldmodel.precision.native_bfloat16", lambda device: False)
    results = {}
    for backend in BACKENDS:
        model = make(tokens)
        with chosen(backend):
            losses = model(batch_of(), torch.Generator().manual_seed(3))
            losses["loss"].backward()
        gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        results[backend] = {**{name: loss.detach() for name, loss in losses.items()}, **gradients}
    assert results["torch"].keys() == results["interpret"].keys()
    for name, expected in results["torch"].items():
        assert torch.allclose(
            results["interpret"][name], expected, rtol=1e-3, atol=1e-5 * (1 + expected.abs().max())
        ), name


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("candidates", [1, 5])
def test_imagined_trajectories_agree(tokens, candidates, window):
    model = make(tokens, window).eval().requires_grad_(False)
    actions = torch.rand(2 * candidates, 6, 2, generator=torch.Generator().manual_seed(4)) * 2 - 1
    with torch.no_grad():
        dreams = {}
        for backend in BACKENDS:
            with chosen(backend):
                dreams[backend] = imagine(model, memory_of(model), actions, 6, candidates)
    for name in ("latents", "beliefs", "rewards", "continues"):
        got, expected = (getattr(dreams[backend], name) for backend in reversed(BACKENDS))
        assert torch.allclose(got, expected, atol=2e-5), name


@pytest.mark.parametrize("tokens", [1, 4])
def test_frames_taken_in_one_by_one_agree(tokens):
    model = make(tokens).eval()
    batch = batch_of(steps=8)
    memories = {}
    with torch.no_grad():
        for backend in BACKENDS:
            with chosen(backend):
                memory = model.start(3)
                for t in range(9):
                    if t == 5:
                        memory = memory.forget(torch.tensor([False, True, False]))
                    memory = model.observe({"image": batch["image"][:, t]}, batch["previous_action"][:, t], memory)
                memories[backend] = memory
    for name in ("keys", "values", "belief"):
        got, expected = (getattr(memories[backend], name) for backend in reversed(BACKENDS))
        assert torch.allclose(got, expected, atol=2e-5), name
    assert torch.equal(memories["interpret"].valid, memories["torch"].valid)


def test_gradients_through_imagined_steps_agree():
    model = make(1).eval().requires_grad_(False)
    gradients = []
    for backend in BACKENDS:
        actions = (torch.linspace(-1, 1, 2 * 4 * 2).view(2, 4, 2)).requires_grad_()
        with chosen(backend):
            dream = imagine(model, memory_of(model), actions, 4)
            (dream.rewards.sum() + dream.beliefs.square().sum()).backward()
        gradients.append(actions.grad)
    assert gradients[0].abs().min() > 0
    assert torch.allclose(*gradients, atol=1e-4)


def test_every_path_of_the_model_runs_on_its_kernel():
    launched = Counter()

    def counting(kernel, grid, arguments, options):
        launched[kernel.__name__] += 1
        kernel.jit[grid](*arguments, **options)

    def run(work) -> set[str]:
        launched.clear()
        with chosen("interpret"), launching_with(counting):
            work()
        return set(launched)

    one, four = make(1), make(4)
    norm = {"residual_norm_forward", "residual_norm_backward"}
    axial = {"axial_attention_forward", "axial_attention_backward"}
    trained = run(lambda: one(batch_of(), torch.Generator().manual_seed(3))["loss"].backward())
    assert trained >= norm | axial
    trained = run(lambda: four(batch_of(), torch.Generator().manual_seed(3))["loss"].backward())
    assert trained >= norm and any("block_causal" in name and "forward" not in name for name in trained)
    with torch.no_grad():
        memory = memory_of(one)
        assert "decode_attention_forward" in run(lambda: imagine(one, memory, torch.zeros(2, 3, 2), 3))
        assert "shared_prefix_attention_forward" in run(lambda: imagine(one, memory, torch.zeros(8, 3, 2), 3, 4))
