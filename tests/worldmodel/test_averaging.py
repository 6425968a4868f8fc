"""Moving averages of weights forget where they began, and calm what wanders."""

import torch
from torch import nn

from worldmodel.averaging import follow


def with_weight(value: float) -> nn.Linear:
    layer = nn.Linear(3, 2)
    for parameter in layer.parameters():
        nn.init.constant_(parameter, value)
    return layer


def test_the_average_moves_by_the_rate():
    average, module = with_weight(0.0), with_weight(1.0)
    follow(average, module, 0.25)
    torch.testing.assert_close(average.weight, torch.full((2, 3), 0.25))
    follow(average, module, 0.25)
    torch.testing.assert_close(average.bias, torch.full((2,), 0.4375))
    torch.testing.assert_close(module.weight, torch.ones(2, 3))


def test_the_first_updates_forget_the_beginning():
    average, module = with_weight(100.0), with_weight(1.0)
    for updates in range(1, 61):
        follow(average, module, 0.01, updates)
    assert (average.weight - 1).abs().max() < 0.01  # at a rate of .01 more than half of it would still be there


def test_the_average_of_wandering_weights_is_closer_to_their_middle():
    generator = torch.Generator().manual_seed(0)
    average, module = with_weight(0.0), with_weight(0.0)
    for updates in range(1, 1001):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        follow(average, module, 0.01, updates)
    assert average.weight.abs().mean() < 0.2 < module.weight.abs().mean()


def test_buffers_and_gradients_are_left_alone():
    average, module = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    module.running_mean.fill_(5.0)
    average.requires_grad_(False)
    follow(average, module, 0.5)
    assert average.running_mean.abs().sum() == 0 and average.weight.grad is None
