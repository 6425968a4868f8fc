"""Latents are standardised by running statistics: a frame's latent does not depend on the batch it comes in."""

from __future__ import annotations

import torch

from worldmodel.encoder import YOUNG, Standardize


def test_a_batch_that_is_unlike_the_rest_is_not_pulled_to_zero_mean_and_unit_variance():
    torch.manual_seed(0)
    layer = Standardize(3)
    for _ in range(YOUNG + 1):
        layer(torch.randn(64, 1, 3) * torch.tensor([1.0, 2.0, 5.0]) + torch.tensor([0.0, 1.0, -3.0]))
    unlike = torch.randn(64, 1, 3) * torch.tensor([0.6, 1.2, 3.0]) + torch.tensor([1.0, 3.0, 2.0])
    while_training = layer(unlike)
    layer.eval()
    assert torch.allclose(while_training, layer(unlike), atol=1e-5)
    assert (while_training.mean((0, 1)) > 0.5).all()


def test_the_first_batch_is_standardised_by_itself():
    x = torch.randn(64, 2, 3) * 4 + 7
    assert torch.allclose(Standardize(3)(x).mean((0, 1)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(Standardize(3)(x).std((0, 1), correction=0), torch.ones(3), atol=1e-3)


def test_gradients_cannot_move_the_mean_or_the_scale_of_a_batch():
    x = torch.randn(32, 1, 3, requires_grad=True)
    layer = Standardize(3)
    (layer(x) * torch.randn(32, 1, 3)).sum().backward()
    assert torch.allclose(x.grad.sum((0, 1)), torch.zeros(3), atol=1e-4)
    assert torch.allclose((x.grad * (x - x.mean((0, 1)))).sum((0, 1)), torch.zeros(3), atol=1e-3)
