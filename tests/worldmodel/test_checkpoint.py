"""Checkpoints come back bit for bit, replace each other whole, and say what is wrong with them."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from worldmodel.checkpoint import (
    CheckpointError,
    find_checkpoint,
    follow,
    load_module,
    load_optimizer,
    point,
    read_meta,
    save_checkpoint,
)


def trained(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    module = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        module(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
    return module, optimizer


def test_weights_and_optimizer_come_back_bit_for_bit(tmp_path):
    module, optimizer = trained(0)
    folder = save_checkpoint(tmp_path / "checkpoints" / "00003", {"m": module}, {"m": optimizer}, {"note": "x"})
    other, its_optimizer = trained(1)
    load_module(folder, "m", other)
    load_optimizer(folder, "m", its_optimizer)
    for net, opt in ((module, optimizer), (other, its_optimizer)):
        opt.zero_grad()
        net(torch.ones(1, 3)).sum().backward()
        opt.step()
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters()))
    assert read_meta(folder)["note"] == "x"


def test_run_folder_means_its_best_then_its_last(tmp_path):
    module, optimizer = trained(0)
    parent = tmp_path / "checkpoints"
    for step in (1, 2, 3):
        save_checkpoint(parent / f"{step:05d}", {"m": module}, {"m": optimizer}, {})
        if step == 1:
            assert find_checkpoint(tmp_path).name == "00001"
            point(parent / "best", parent / "00001")
    assert find_checkpoint(tmp_path).name == "00001"
    assert find_checkpoint(parent / "last").name == "00003"
    save_checkpoint(parent / "00004", {"m": module}, {"m": optimizer}, {})
    assert sorted(p.name for p in parent.iterdir() if p.name.isdigit()) == ["00001", "00003", "00004"]


def test_a_missing_checkpoint_names_those_nearby(tmp_path):
    module, optimizer = trained(0)
    save_checkpoint(tmp_path / "run" / "checkpoints" / "00001", {"m": module}, {"m": optimizer}, {})
    with pytest.raises(CheckpointError, match="run/checkpoints/00001"):
        find_checkpoint(tmp_path / "rum")


def test_a_failed_save_leaves_the_former_checkpoint(tmp_path):
    module, optimizer = trained(0)
    parent = tmp_path / "checkpoints"
    save_checkpoint(parent / "00001", {"m": module}, {"m": optimizer}, {})
    with pytest.raises(TypeError):
        save_checkpoint(parent / "00002", {"m": module}, {"m": optimizer}, {"not json": object()})
    assert [p.name for p in parent.iterdir() if p.is_dir() and not p.is_symlink()] == ["00001"]
    assert follow(parent / "last").name == "00001"


def test_damage_and_other_shapes_are_named(tmp_path):
    module, optimizer = trained(0)
    folder = save_checkpoint(tmp_path / "checkpoints" / "1", {"m": module}, {"m": optimizer}, {})
    with pytest.raises(CheckpointError, match=r"weight is \(2, 3\) and should be \(5, 3\)"):
        load_module(folder, "m", nn.Linear(3, 5))
    (folder / "m.safetensors").write_bytes((folder / "m.safetensors").read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="use an earlier checkpoint"):
        load_module(folder, "m", nn.Linear(3, 2))
    meta = json.loads((folder / "checkpoint.json").read_text())
    (folder / "checkpoint.json").write_text(json.dumps(meta | {"format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        read_meta(folder)
