"""Two processes under gloo train the model that one process trains on the batches of both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

SCRIPT = """
import sys, torch
sys.path.insert(0, sys.argv[3])
from lightning_fabric import Fabric
from safetensors.torch import save_file
from test_model import PIXELS, SMALL, batch_for
from worldmodel import ModelConfig, WorldModel
from worldmodel.trainer import OptimizerConfig, Trainer

devices = int(sys.argv[1])
torch.set_num_threads(1)
fabric = Fabric(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto")
fabric.launch()
torch.manual_seed(0)
losses = dict(decoder=0.0)  # it draws frames from its own batch
model = WorldModel(PIXELS, ModelConfig(**SMALL, losses=losses))
model.decoder.requires_grad_(False)
# without bfloat16, whose rounding depends on the batch size
import worldmodel.precision as precision
precision.native_bfloat16 = lambda device: False
trainer = Trainer(fabric, model, OptimizerConfig(learning_rate=1e-3, matrix_rate=1e-2, warmup=1), 3)
for step in range(3):
    whole = batch_for(PIXELS, windows=8, seed=step)
    part = 8 // fabric.world_size
    mine = {k: v[fabric.global_rank * part:(fabric.global_rank + 1) * part] for k, v in whole.items()}
    trainer.update(mine, torch.Generator().manual_seed(step))
if fabric.is_global_zero:
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, sys.argv[2])
"""


def test_two_processes_train_the_same_model_as_one(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    tests = str(Path(__file__).parent)
    trained = {}
    for devices in (1, 2):
        out = tmp_path / f"{devices}.safetensors"
        command = [sys.executable, str(script), str(devices), str(out), tests]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr[-2000:]
        trained[devices] = load_file(out)
    for name, value in trained[1].items():
        # Adam's first steps are of the size of the learning rate whatever the gradient: rounding can turn a tiny one.
        difference = (value - trained[2][name]).abs()
        assert difference.mean() < 3e-5, (name, difference.mean())
    moved = torch.cat([(trained[1][n] - trained[2][n]).flatten().abs() for n in trained[1]])
    assert (moved > 1e-4).float().mean() < 0.02
