"""The cartpole of `worldmodel/CartpoleSwingup-v0` as a differentiable model: where learning fails with it, the model is
not to blame."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from torch import Tensor

from worldmodel.transition import Prediction

CART, POLE, CENTRE, GRAVITY, FORCE, DT, SUBSTEPS = 1.0, 0.1, 0.5, 9.81, 10.0, 0.01, 4
# About its centre, of a capsule 1 m long of radius 0.045 m; MuJoCo rounds its ends off, this does nearly the same.
INERTIA = POLE * (1.0 + 2 * 0.045) ** 2 / 12


def accelerations(
    cart_velocity: Tensor, angle: Tensor, angle_velocity: Tensor, action: Tensor
) -> tuple[Tensor, Tensor]:
    """Of cart and pole by Lagrange's equations; the angle is 0 upright."""
    cosine, sine = angle.cos(), angle.sin()
    mass, coupling, inertia = CART + POLE, POLE * CENTRE * cosine, INERTIA + POLE * CENTRE**2
    force = FORCE * action - 5e-4 * cart_velocity + POLE * CENTRE * angle_velocity.square() * sine
    torque = POLE * GRAVITY * CENTRE * sine - 2e-6 * angle_velocity
    determinant = mass * inertia - coupling.square()
    return (inertia * force - coupling * torque) / determinant, (mass * torque - coupling * force) / determinant


class TrueCartpole:
    """Imagines like a world model whose latent is the state (cart, angle, their velocities), `[R, 1, 4]`; the belief is
    empty. The rail has no end."""

    feature_dim = 5

    def __init__(self):
        self.transition = self
        self.belief = SimpleNamespace(begin=lambda memory, rows, steps: None)
        self.reward_scale = torch.ones(())

    def memory(self, states: Tensor) -> SimpleNamespace:
        """Of states `[B, 4]`."""
        return SimpleNamespace(latent=states[:, None], belief=states.new_zeros(len(states), 1, 1))

    def features(self, belief: Tensor, latent: Tensor) -> Tensor:
        """What the env observes, in units of about one: `[..., 5]`."""
        cart, angle, speed, spin = latent.squeeze(-2).unbind(-1)
        return torch.stack([cart, angle.cos(), angle.sin(), speed / 2, spin / 4], -1)

    def __call__(self, belief: Tensor, latent: Tensor, action: Tensor) -> Prediction:
        cart, angle, speed, spin = latent[:, 0].unbind(-1)
        force, reward = action[:, 0].clamp(-1, 1), 0.0
        for _ in range(SUBSTEPS):
            push, turn = accelerations(speed, angle, spin, force)
            speed, spin = speed + DT * push, spin + DT * turn
            cart, angle = cart + DT * speed, angle + DT * spin
            upright, gentle = (1 + angle.cos()) / 2, (5 - force.square()) / 5
            centred, slow = (1 + _closeness(cart, 2.0)) / 2, (1 + _closeness(spin, 5.0)) / 2
            reward = reward + upright * centred * gentle * slow
        latent = torch.stack([cart, angle, speed, spin], -1)[:, None]
        return Prediction(latent, latent[None], reward, torch.full_like(reward, 20.0))

    def step(self, belief: Tensor, latent: Tensor, action: Tensor, memory, tail):
        """See `WorldModel.step`."""
        return self(belief, latent, action), belief, tail


def broad_states(count: int, generator: torch.Generator) -> Tensor:
    """`[count, 4]`, drawn as the env's broad starts are."""
    cart, angle = (torch.rand(2, count, generator=generator) * 2 - 1) * torch.tensor([[1.5], [math.pi]])
    speed, spin = torch.randn(2, count, generator=generator) * torch.tensor([[1.5], [4.0]])
    return torch.stack([cart, angle, speed, spin], -1)


def _closeness(value: Tensor, margin: float) -> Tensor:
    return torch.exp(-0.5 * (value / margin).square() * (-2 * math.log(0.1)))
