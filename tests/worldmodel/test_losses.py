"""The losses of windows that episodes are too short for."""

from __future__ import annotations

import pytest
import torch
from test_model import PIXELS, SMALL, STATE, batch_for

from worldmodel import ModelConfig, WorldModel
from worldmodel.losses import align_end, missing_steps


def shortened(interface, steps: list[int], fill: int) -> dict[str, torch.Tensor]:
    """Windows of which row i has `steps[i]` real transitions; what lies behind them is drawn with the seed `fill`."""
    batch, other = batch_for(interface, len(steps)), batch_for(interface, len(steps), seed=fill)
    for row, real in enumerate(steps):
        batch["valid"][row, real:] = 0
        for key, value in other.items():
            if key != "valid":
                begin = real + 1 if value.shape[1] == batch["valid"].shape[1] + 1 else real
                batch[key][row, begin:] = value[row, begin:]
        batch["terminated"][row, real - 1] = 1.0
        batch["terminated"][row, real:] = 0.0
    return batch


@pytest.mark.parametrize("interface", [PIXELS, STATE], ids=["pixels", "state"])
def test_what_stands_in_the_padding_changes_no_loss_and_no_gradient(interface):
    found = []
    for fill in (1, 2):
        torch.manual_seed(0)
        model = WorldModel(interface, ModelConfig(**SMALL)).train()
        losses = model(shortened(interface, [6, 5, 2, 1], fill), torch.Generator().manual_seed(0))
        losses["loss"].backward()
        found.append((losses, [p.grad for p in model.parameters()]))
    (first, first_gradients), (second, second_gradients) = found
    for name in first:
        torch.testing.assert_close(first[name], second[name], msg=lambda text, name=name: f"{name}: {text}")
    for one, two in zip(first_gradients, second_gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_short_episodes_train_the_open_loop():
    """A window of 6 transitions with an open loop of 3: an episode of 4 ends where the open loop is."""
    torch.manual_seed(0)
    model = WorldModel(STATE, ModelConfig(**SMALL))
    losses = model(shortened(STATE, [4, 4, 4, 4], 1), torch.Generator().manual_seed(0))
    assert losses["open_loop"] > 0
    model.zero_grad()
    torch.manual_seed(0)
    full = WorldModel(STATE, ModelConfig(**SMALL))
    again = full(shortened(STATE, [1, 1, 1, 1], 1), torch.Generator().manual_seed(0))
    assert again["open_loop"] == 0 and torch.isfinite(again["loss"])  # nothing to imagine from a single transition


def test_rows_are_shifted_by_what_they_miss():
    valid = torch.tensor([[1.0, 1, 1], [1, 0, 0]])
    missing = missing_steps(valid)
    assert missing.tolist() == [0, 2]
    frames, steps = torch.arange(8).view(2, 4), torch.arange(6).view(2, 3)
    frames, steps = align_end(missing, frames, steps)
    assert frames.tolist() == [[0, 1, 2, 3], [4, 4, 4, 5]]
    assert steps.tolist() == [[0, 1, 2], [3, 3, 3]]


def test_a_whole_window_is_as_it_was():
    values = torch.randn(3, 5, 2)
    (same,) = align_end(missing_steps(torch.ones(3, 4)), values)
    torch.testing.assert_close(same, values, rtol=0, atol=0)


def test_sigreg_sees_the_rows_that_are_drawn_from_all_episodes():
    def regulariser(batch):
        torch.manual_seed(0)
        model = WorldModel(STATE, ModelConfig(**SMALL)).train()
        return model(batch, torch.Generator().manual_seed(0))["sigreg"].item()

    recent = torch.tensor([True, True, False, False])
    batch = batch_for(STATE, 4) | {"reference": {"state": batch_for(STATE, 8, seed=5)["state"][:, 0]}}
    other = {key: value.clone() for key, value in batch.items() if key != "reference"} | {
        "reference": batch["reference"]
    }
    other["state"][:2] += 3.0
    assert regulariser(batch) != pytest.approx(regulariser(other), rel=0.01)
    assert regulariser(batch | {"recent": ~recent}) != pytest.approx(regulariser(other | {"recent": ~recent}), rel=0.01)
