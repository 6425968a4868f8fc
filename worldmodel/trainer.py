"""One optimizer step at a time, for the world model or its behaviour, on any device and number of processes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from worldmodel.checkpoint import load_optimizer
from worldmodel.muon import Muon


class Diverged(FloatingPointError):
    """Training gave NaN, infinity or a loss out of all proportion; the message says at which update."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Of AdamW, and of Muon where hidden layers have it.

    Attributes:
        learning_rate: of AdamW, after the warm-up.
        matrix_rate: of Muon, likewise, for the layers that a module names as its `HIDDEN`; None: AdamW learns these too.
        warmup: updates.
        final_rate: at the end of a cosine, as a share of both rates; 1 keeps them constant.
        weight_decay: of AdamW's matrices; norms and biases have none.
        clip: of the gradients' norm.
    """

    learning_rate: float = 1e-3
    matrix_rate: float | None = 1e-2
    warmup: int = 100
    final_rate: float = 0.2
    weight_decay: float = 1e-3
    clip: float = 5.0

    def share(self, update: int, progress: float) -> float:
        """Of the rates, at `update`, a share `progress` of the schedule: linear warm-up, then a cosine to `final_rate`."""
        cosine = self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * progress))
        return min(1.0, (update + 1) / max(1, self.warmup)) * cosine


class Trainer:
    """Optimizes the parameters of one module by the `loss` that it returns.

    Args:
        fabric: a `lightning_fabric.Fabric`; places the module, sets precision, averages gradients over processes.
        module: called with what `update` is given, returns a dict of scalars. Its `HIDDEN`, a regular expression, names the
            layers whose matrices Muon learns; without one there are none.
        config: of the optimizers.
        total_updates: of the whole run, for the cosine.
        loss: the entry (or the sum of entries) to minimise.

    Attributes:
        optimizers: by what their names in a checkpoint add to the module's.
    """

    LIMIT = 1e4  # losses start near ten; none that comes here comes back

    def __init__(
        self, fabric, module: nn.Module, config: OptimizerConfig, total_updates: int, loss: tuple[str, ...] = ("loss",)
    ):
        self.fabric, self.config, self.total, self.loss = fabric, config, total_updates, loss
        self.updates = 0
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        matrices = {}
        if config.matrix_rate is not None and hasattr(module, "HIDDEN"):
            hidden = re.compile(rf"({module.HIDDEN})\.weight")
            matrices = {name: p for name, p in trained.items() if hidden.fullmatch(name)}
        rest = [p for name, p in trained.items() if name not in matrices]
        decayed = {"params": [p for p in rest if p.ndim > 1], "weight_decay": config.weight_decay}
        plain = {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0}
        optimizers = {"": torch.optim.AdamW([decayed, plain], lr=config.learning_rate, fused=True)}
        if matrices:
            optimizers[".matrices"] = Muon(matrices.values(), lr=config.matrix_rate)
        self._rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in optimizers.items()}
        self.module, *wrapped = fabric.setup(module, *optimizers.values())
        self.optimizers = dict(zip(optimizers, wrapped, strict=True))

    def named_optimizers(self, module: str) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by their names in a checkpoint."""
        return {f"{module}{part}": optimizer for part, optimizer in self.optimizers.items()}

    def restore(self, folder: Path, module: str, updates: int) -> None:
        """Go on after so many `updates`, with the optimizers of a checkpoint.

        Raises:
            CheckpointError: one can't be read.
        """
        for name, optimizer in self.named_optimizers(module).items():
            load_optimizer(folder, name, optimizer)
        self.updates = updates

    @property
    def progress(self) -> float:
        """Share of the schedule that is done; 1 after its end."""
        return min(1.0, self.updates / max(1, self.total))

    def update(self, *inputs, after: Callable[[], None] | None = None) -> dict[str, Tensor]:
        """One step; returns the module's scalars, detached, with `gradient_norm`.

        Raises:
            Diverged: the loss or the gradient is not finite, or the loss is beyond `LIMIT`; parameters are untouched.
        """
        share = self.config.share(self.updates, self.progress)
        for name, optimizer in self.optimizers.items():
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = self._rates[name] * share
        scalars = self.module(*inputs)
        loss = sum(scalars[name] for name in self.loss)
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(
            self.module, self.optimizers[""], max_norm=self.config.clip, error_if_nonfinite=False
        )
        value, norm_value = torch.stack([loss.detach().float(), norm.float()]).tolist()
        if not (math.isfinite(value) and math.isfinite(norm_value)) or abs(value) > self.LIMIT:
            raise Diverged(f"loss {value:.4g} and gradient norm {norm_value:.4g} at update {self.updates}")
        for optimizer in self.optimizers.values():
            optimizer.step()
        self.updates += 1
        if after is not None:
            after()
        return {**{name: v.detach() for name, v in scalars.items()}, "gradient_norm": norm.detach()}
