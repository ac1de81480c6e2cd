"""The U-Net with a StyleGAN2 decoder: sizes, noise, gradients."""

from __future__ import annotations

import pytest
import torch

from gpavatar.synthesis.style_unet import StyleUNet, StyleUNetConfig
from gpavatar.synthesis.upsampler import Upsampler, UpsamplerConfig

NARROW = {"style_dim": 8, "mlp_depth": 2, "width": 0.01}


@pytest.mark.parametrize(("in_size", "out_size", "given"), [(32, 16, 32), (16, 16, 16), (32, 32, 8), (8, 8, 8)])
def test_sizes(in_size, out_size, given, generator):
    net = StyleUNet(StyleUNetConfig(in_size, out_size, 4, 6, **NARROW))
    assert net(torch.randn(2, 4, given, given, generator=generator)).shape == (2, 6, out_size, out_size)


def test_full_width_has_the_paper_s_numbers():
    with torch.device("meta"):
        net = StyleUNet(StyleUNetConfig(512, 256, 3, 96))
    assert net.down[-1].second.weight.shape == (256, 256, 3, 3)
    assert net.decoder.grow[0].conv.weight.shape == (512, 512, 3, 3)
    assert net.decoder.refine[-1].conv.weight.shape == (64, 64, 3, 3)
    assert [tuple(getattr(net.decoder, f"noise{i}").shape[2:]) for i in (0, 1, 2, 12)] == [
        (4, 4),
        (8, 8),
        (8, 8),
        (256, 256),
    ]


def test_too_large_an_input_is_refused():
    with pytest.raises(ValueError, match="more than twice as large"):
        StyleUNet(StyleUNetConfig(64, 16, **NARROW))


def test_noise_is_fresh_in_training_only(generator):
    image = torch.rand(1, 3, 16, 16, generator=generator)
    for noise, varies in (("fresh", True), ("stored", False)):
        net = StyleUNet(StyleUNetConfig(16, 16, 3, 2, **NARROW, noise=noise))
        for name, parameter in net.named_parameters():
            if name.endswith("noise_strength"):
                torch.nn.init.constant_(parameter, 0.5)
        net.train()
        assert torch.equal(net(image), net(image)) != varies
        net.eval()
        assert torch.equal(net(image), net(image))


def test_every_parameter_learns(generator):
    net = StyleUNet(StyleUNetConfig(32, 16, 3, 2, **NARROW)).train()
    net(torch.rand(2, 3, 32, 32, generator=generator)).square().mean().backward()
    dead = [name for name, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert dead == []


def test_upsampler_gives_colours(generator):
    net = Upsampler(UpsamplerConfig(net=StyleUNetConfig(32, 32, 5, 3, **NARROW)))
    image = net(100 * torch.randn(1, 5, 8, 8, generator=generator))
    assert image.shape == (1, 3, 32, 32) and image.min() >= 0 and image.max() <= 1
