"""One optimizer step at a time, for the world model or its behaviour, on any device and number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Diverged(FloatingPointError):
    """Training gave NaN, infinity or a loss out of all proportion; the message says at which update."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Of AdamW.

    Attributes:
        learning_rate: after the warm-up.
        warmup: updates.
        final_rate: at the end of a cosine, as a share of `learning_rate`; 1 keeps it constant.
        weight_decay: of matrices; norms and biases have none.
        clip: of the gradients' norm.
    """

    learning_rate: float = 1e-3
    warmup: int = 100
    final_rate: float = 0.2
    weight_decay: float = 1e-3
    clip: float = 5.0

    def rate(self, update: int, progress: float) -> float:
        """Learning rate at `update`, a share `progress` of the schedule: linear warm-up, then a cosine to `final_rate`."""
        cosine = self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * progress))
        return self.learning_rate * min(1.0, (update + 1) / max(1, self.warmup)) * cosine


class Trainer:
    """Optimizes the parameters of one module by the `loss` that it returns.

    Args:
        fabric: a `lightning_fabric.Fabric`; places the module, sets precision, averages gradients over processes.
        module: called with what `update` is given, returns a dict of scalars.
        config: of the optimizer.
        total_updates: of the whole run, for the cosine.
        loss: the entry (or the sum of entries) to minimise.
    """

    LIMIT = 1e4  # losses start near ten; none that comes here comes back

    def __init__(
        self, fabric, module: nn.Module, config: OptimizerConfig, total_updates: int, loss: tuple[str, ...] = ("loss",)
    ):
        self.fabric, self.config, self.total, self.loss = fabric, config, total_updates, loss
        self.updates = 0
        parameters = [p for p in module.parameters() if p.requires_grad]
        matrices = [p for p in parameters if p.ndim > 1]
        others = [p for p in parameters if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        self.module, self.optimizer = fabric.setup(module, optimizer)

    @property
    def progress(self) -> float:
        """Share of the schedule that is done; 1 after its end."""
        return min(1.0, self.updates / max(1, self.total))

    def update(self, *inputs, after: Callable[[], None] | None = None) -> dict[str, Tensor]:
        """One step; returns the module's scalars, detached, with `gradient_norm`.

        Raises:
            Diverged: the loss or the gradient is not finite, or the loss is beyond `LIMIT`; parameters are untouched.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(self.updates, self.progress)
        scalars = self.module(*inputs)
        loss = sum(scalars[name] for name in self.loss)
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(
            self.module, self.optimizer, max_norm=self.config.clip, error_if_nonfinite=False
        )
        value, norm_value = torch.stack([loss.detach().float(), norm.float()]).tolist()
        if not (math.isfinite(value) and math.isfinite(norm_value)) or abs(value) > self.LIMIT:
            raise Diverged(f"loss {value:.4g} and gradient norm {norm_value:.4g} at update {self.updates}")
        self.optimizer.step()
        self.updates += 1
        if after is not None:
            after()
        return {**{name: v.detach() for name, v in scalars.items()}, "gradient_norm": norm.detach()}
