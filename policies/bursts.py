"""Random actions that now and then take over from a policy, so that its model learns what actions do."""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 6.0  # that a burst lasts, in the mean
REACH = 1.3  # values beyond [-1, 1] are cut: full force is frequent


class Bursts:
    """Random actions, each held for a few steps: temporally extended epsilon-greedy (Dabney et al. 2021).

    What a policy does follows from what it sees, so in its own episodes a model can foretell what comes next without
    looking at the action, and learns little of what another action would do. A burst does not follow from anything.

    Args:
        rate: probability, at every step outside a burst, that one begins; it lasts `STEPS` in the mean, a geometric
            number.
        rows: of the vector env.
        action_dim, discrete: of the env.
        generator: everything drawn follows from it.

    Raises:
        ValueError: `rate` is no probability.
    """

    def __init__(self, rate: float, rows: int, action_dim: int, discrete: bool, generator: torch.Generator):
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"training.online.bursts={rate!r}: must be a probability, from 0 to 1")
        self.rate, self.discrete, self.generator = rate, discrete, generator
        self.held = torch.zeros(rows, action_dim, device=generator.device)
        self.running = torch.zeros(rows, dtype=torch.bool, device=generator.device)

    def end(self, mask: Tensor) -> None:
        """End those of the rows in `mask [B]`: their episodes are over."""
        self.running = self.running & ~mask

    def __call__(self, action: Tensor) -> Tensor:
        """`action [B, A]` of the policy, or of the burst in rows where one runs or begins."""
        draw = torch.rand(len(action), generator=self.generator, device=action.device)
        before = self.running
        self.running = torch.where(before, draw >= 1 / STEPS, draw < self.rate)
        drawn = torch.rand(action.shape, generator=self.generator, device=action.device)
        if self.discrete:
            drawn = torch.nn.functional.one_hot(drawn.argmax(-1), action.shape[-1]).to(action.dtype)
        else:
            drawn = ((2 * drawn - 1) * REACH).clamp(-1, 1)
        self.held = torch.where((self.running & ~before)[:, None], drawn, self.held)
        return torch.where(self.running[:, None], self.held, action)
