"""Adam with a rate per layer against StyleGAN's equalised layers."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import nn

from gpavatar.synthesis.equalised import equalised_groups, unit_normal

STEPS, LR = 20, 0.01


class EqualisedLinear(nn.Module):
    """The twin: a weight of unit variance, multiplied by 1/√inputs when it is used."""

    def __init__(self, plain: nn.Linear):
        super().__init__()
        self.gain = plain.in_features**-0.5
        self.stored = nn.Parameter(plain.weight.detach() / self.gain)
        self.bias = nn.Parameter(plain.bias.detach().clone())

    def forward(self, x):
        return functional.linear(x, self.stored * self.gain, self.bias)


def test_a_rate_per_layer_is_an_equalised_layer(generator):
    torch.manual_seed(0)
    plain = nn.Sequential(unit_normal(nn.Linear(9, 16)), nn.LeakyReLU(0.2), unit_normal(nn.Linear(16, 2))).double()
    twin = nn.Sequential(EqualisedLinear(plain[0]), plain[1], EqualisedLinear(plain[2]))
    x, y = (torch.randn(32, dim, generator=generator, dtype=torch.float64) for dim in (9, 2))
    options = {"betas": (0.0, 0.99), "eps": 1e-15}
    optimizers = [torch.optim.Adam(equalised_groups(plain, LR), **options)]
    optimizers.append(torch.optim.Adam(twin.parameters(), lr=LR, **options))
    before = plain[0].weight.detach().clone()
    for _ in range(STEPS):
        for net, optimizer in zip((plain, twin), optimizers, strict=True):
            optimizer.zero_grad()
            functional.mse_loss(net(x), y).backward()
            optimizer.step()
    assert (plain[0].weight - before).abs().max() > 0.03
    torch.testing.assert_close(plain[0].weight, twin[0].stored * twin[0].gain)
    torch.testing.assert_close(plain(x), twin(x))


def test_every_parameter_has_one_rate_and_a_slow_network_is_slow():
    net = nn.ModuleDict({"mapping": nn.Linear(4, 3), "conv": nn.Conv2d(2, 5, 3)})
    groups = equalised_groups(net, 1.0, lambda name: 0.01 if name.startswith("mapping") else 1.0)
    rates = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == 4
    expected = {net.mapping.weight: 0.005, net.mapping.bias: 0.01, net.conv.weight: 18**-0.5, net.conv.bias: 1.0}
    assert all(abs(rates[parameter] - rate) < 1e-12 for parameter, rate in expected.items())


def test_outputs_are_as_large_as_inputs(generator):
    torch.manual_seed(0)
    conv = unit_normal(nn.Conv2d(32, 64, 3, padding=1))
    y = conv(torch.randn(2, 32, 16, 16, generator=generator))
    assert abs(float(y[..., 1:-1, 1:-1].std().detach()) - 1) < 0.05 and not conv.bias.any()
