"""The optimizers: which learns what, at which rate, and what is kept of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from test_model import PIXELS, SMALL, batch_for

from worldmodel import ModelConfig, WorldModel
from worldmodel.muon import Muon, orthogonal
from worldmodel.trainer import OptimizerConfig, Trainer


def trainer(config: OptimizerConfig, updates: int = 10) -> tuple[WorldModel, Trainer]:
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    torch.manual_seed(0)
    model = WorldModel(PIXELS, ModelConfig(**SMALL))
    return model, Trainer(fabric, model, config, updates)


def learned(optimizer) -> list[torch.nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def test_muon_learns_the_hidden_layers_matrices_and_adam_everything_else():
    model, both = trainer(OptimizerConfig(matrix_rate=0.01))
    adam, muon = (set(map(id, learned(both.optimizers[part]))) for part in ("", ".matrices"))
    names = {name for name, p in model.named_parameters() if id(p) in muon}
    blocks = {f"belief.blocks.{i}.{way}ward.weight" for i in range(2) for way in ("in", "out")}
    assert names == blocks | {
        "encoder.hidden.weight",
        "transition.heads.first.weight",
        "transition.heads.second.weight",
    }
    assert adam | muon == set(map(id, model.parameters())) and not adam & muon
    assert list(both.named_optimizers("model")) == ["model", "model.matrices"]
    assert list(trainer(OptimizerConfig(matrix_rate=None))[1].named_optimizers("model")) == ["model"]


def test_both_rates_warm_up_and_come_down_together():
    config = OptimizerConfig(learning_rate=1e-3, matrix_rate=1e-2, warmup=4, final_rate=0.5)
    _, both = trainer(config, updates=8)
    shares = []
    for update in range(12):
        both.update(batch_for(PIXELS, seed=update), torch.Generator().manual_seed(update))
        rates = [both.optimizers[part].param_groups[0]["lr"] for part in ("", ".matrices")]
        assert rates[1] == pytest.approx(10 * rates[0])
        shares.append(rates[0] / config.learning_rate)
    assert shares[0] == pytest.approx(0.25) and max(shares) < 1.0
    assert shares[4] == pytest.approx(0.75)  # half the cosine is done
    assert shares[8:] == pytest.approx([0.5] * 4)


def test_muons_step_is_as_large_as_its_rate_says_whatever_the_gradients_are():
    model, both = trainer(OptimizerConfig(matrix_rate=0.01, warmup=1, final_rate=1.0))
    weight = model.transition.heads.second.weight
    both.update(batch_for(PIXELS), torch.Generator().manual_seed(0))  # what follows that layer begins at zero
    before = weight.detach().clone()
    both.update(batch_for(PIXELS), torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(weight.detach() - before)
    expected = 0.01 * max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
    assert 0.6 * expected < values.median() < 1.3 * expected


@pytest.mark.parametrize("shape", [(6, 6), (4, 12), (12, 4)])
def test_orthogonal_leaves_singular_values_near_one(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.5 and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    cosine = F.cosine_similarity(orthogonal(matrix).flatten(), (left @ right).flatten(), dim=0)
    assert cosine > 0.97


def test_muon_is_torchs_own_but_for_its_precision():
    torch.manual_seed(0)
    start, gradients = torch.randn(12, 4), torch.randn(5, 12, 4)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizers = (
        Muon([ours], lr=0.02, momentum=0.95, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.02, momentum=0.95, weight_decay=0.1),
    )
    for gradient in gradients:
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    moved = (ours - start).norm()
    assert (ours - theirs).norm() < 0.03 * moved  # bfloat16's digits
    with pytest.raises(ValueError, match="is not a matrix"):
        Muon([torch.nn.Parameter(torch.zeros(3))])
