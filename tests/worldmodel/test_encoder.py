"""Latents are standardised by reference frames, so that a frame's latent does not depend on the batch it comes in."""

from __future__ import annotations

import torch

from worldmodel.encoder import OUTLIER, Standardize, compress_outliers

SCALE, MEAN = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0.0, 1.0, -3.0])


def reference() -> torch.Tensor:
    return torch.randn(4096, 1, 3, generator=torch.Generator().manual_seed(0)) * SCALE + MEAN


def unlike() -> torch.Tensor:
    """A batch that is far from the reference."""
    return torch.randn(64, 1, 3, generator=torch.Generator().manual_seed(1)) * 0.5 * SCALE + MEAN + SCALE


def test_without_a_reference_a_batch_is_standardised_by_itself():
    latent = Standardize(3)(unlike())
    assert torch.allclose(latent.mean((0, 1)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(latent.std((0, 1), correction=0), torch.ones(3), atol=1e-3)


def test_with_one_a_latent_is_the_same_in_any_batch_and_outside_training():
    layer, x = Standardize(3), unlike()
    latent = layer(x, reference())
    assert torch.allclose(latent[:10], layer(x[:10], reference()), atol=1e-4)
    assert torch.allclose(latent.mean((0, 1)), torch.ones(3), atol=0.25)
    assert torch.allclose(latent.std((0, 1)), torch.full((3,), 0.5), atol=0.1)
    layer.calibrate(reference())
    assert torch.allclose(latent, layer.eval()(x), atol=1e-4)


def test_gradients_never_move_the_mean_or_the_scale_of_a_batch():
    weights = torch.randn(64, 1, 3, generator=torch.Generator().manual_seed(2))
    for frames in (None, reference()):
        x = unlike().requires_grad_()
        (Standardize(3)(x, frames) * weights).sum().backward()
        assert x.grad.abs().max() > 0.01
        assert torch.allclose(x.grad.sum((0, 1)), torch.zeros(3), atol=1e-3)
        assert torch.allclose((x.grad * (x - x.mean((0, 1)))).sum((0, 1)), torch.zeros(3), atol=1e-2)


def test_outliers_are_compressed_and_nothing_else_changes():
    common = torch.linspace(-OUTLIER, OUTLIER, 11)
    assert torch.equal(compress_outliers(common), common)
    far = torch.tensor([OUTLIER + 1e-3, 100.0, -1e6], requires_grad=True)
    compressed = compress_outliers(far)
    compressed.sum().backward()
    assert OUTLIER < compressed[0] < compressed[1] < 10 and -20 < compressed[2] < -15
    assert torch.allclose(far.grad, 1 / (1 + far.detach().abs() - OUTLIER), rtol=1e-4)


def test_a_frame_of_a_place_that_no_reference_shows_does_not_run_away():
    """A dimension in which the reference frames hardly differ: the newcomer is thousands of their deviations off."""
    layer, flat = Standardize(3), reference() * torch.tensor([1.0, 1.0, 1e-3])
    x = unlike().requires_grad_()
    latent = layer(x, flat)
    latent.square().mean().backward()
    assert latent.abs().max() < 20 and x.grad.abs().max() < 10
    layer.calibrate(flat)
    assert torch.allclose(layer.eval()(x), latent, atol=1e-3)
