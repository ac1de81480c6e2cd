"""StyleGAN2's layers against their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional

from gpavatar.synthesis.style_layers import (
    ModulatedConv,
    ResBlock,
    StyleConv,
    StyleMlp,
    ToOutput,
    leaky,
    literal_modulated_conv,
    quick,
    resized,
    to_colour,
)


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_scaling_the_input_is_scaling_the_kernel(kernel, demodulate, generator):
    conv = ModulatedConv(5, 4, kernel, 6, demodulate).double()
    x = torch.randn(3, 5, 7, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    style = torch.randn(3, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    fast, slow = conv(x, style), literal_modulated_conv(conv, x, style)
    torch.testing.assert_close(fast, slow)
    inputs = [x, style, *conv.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(fast.square().sum(), inputs), torch.autograd.grad(slow.square().sum(), inputs)
    )
    assert torch.autograd.gradcheck(conv, (x[:1, :, :3, :3], style[:1]))


def test_demodulation_gives_unit_variance(generator):
    conv = ModulatedConv(64, 64, 3, 8)
    y = conv(torch.randn(2, 64, 32, 32, generator=generator), 10 * torch.randn(2, 8, generator=generator))
    assert float(y[..., 2:-2, 2:-2].std()) == pytest.approx(1, abs=0.05)


def test_style_forgets_the_length_of_its_code(generator):
    mlp = StyleMlp(8, 3)
    code = torch.randn(4, 8, generator=generator)
    torch.testing.assert_close(mlp(5 * code), mlp(code), rtol=1e-4, atol=1e-5)


def test_noise_counts_as_its_strength_says(generator):
    conv = StyleConv(3, 4, 5, upsample=True)
    x, style = torch.randn(1, 3, 4, 4, generator=generator), torch.randn(1, 5, generator=generator)
    noise = torch.randn(1, 1, 8, 8, generator=generator)
    torch.testing.assert_close(conv(x, style, noise), conv(x, style, 0 * noise))
    torch.nn.init.constant_(conv.noise_strength, 0.3)
    quiet = functional.leaky_relu(conv.conv(resized(x, 2.0), style) * 2**0.5 + 0.3 * noise, 0.2)
    torch.testing.assert_close(conv(x, style, noise), quiet)


@pytest.mark.parametrize("size", [2, 4, 9])
def test_one_picture_without_gradients_is_drawn_quickly_and_the_same(size, generator):
    """Large pictures have their kernels modulated, and results are overwritten: nothing of the input is."""
    x, style = torch.randn(1, 3, size, size, generator=generator), torch.randn(1, 5, generator=generator)
    noise, coarser = torch.randn(1, 1, 2 * size, 2 * size, generator=generator), torch.randn(1, 2, size, size)
    conv, output, block = StyleConv(3, 4, 5, upsample=True), ToOutput(4, 2, 5), ResBlock(4, 3, 0.5)
    for parameter in (conv.noise_strength, conv.bias, output.bias):
        torch.nn.init.constant_(parameter, 0.3)

    def drawn():
        grown = conv(x, style, noise)
        return grown, conv(x, style, None), output(grown, style, coarser), block(grown)

    wanted, before = drawn(), x.clone()
    with torch.no_grad():
        assert quick(x) and not quick(x.expand(2, -1, -1, -1))
        assert conv.conv.prefers_kernel(resized(x, 2.0)) == (size > 2)
        torch.testing.assert_close(drawn(), wanted)
    torch.testing.assert_close(x, before, rtol=0, atol=0)


def test_output_adds_to_the_coarser_sum(generator):
    layer = ToOutput(3, 2, 5)
    x, style = torch.randn(1, 3, 8, 8, generator=generator), torch.randn(1, 5, generator=generator)
    coarser = torch.randn(1, 2, 4, 4, generator=generator)
    torch.testing.assert_close(layer(x, style, coarser) - layer(x, style), resized(coarser, 2.0))


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_res_block_is_its_definition(factor, generator):
    block = ResBlock(3, 5, factor)
    x = torch.randn(2, 3, 8, 8, generator=generator)
    wanted = leaky(block.second(resized(leaky(block.first(x)), factor))) + block.skip(resized(x, factor))
    assert wanted.shape[-1] == 8 * factor
    torch.testing.assert_close(block(x), wanted)


def test_halving_is_the_mean_of_four_pixels(generator):
    x = torch.randn(1, 2, 6, 6, generator=generator)
    torch.testing.assert_close(resized(x, 0.5), functional.avg_pool2d(x, 2))


def test_widened_colours_reach_black_and_white():
    raw = torch.tensor([-100.0, 0.0, 100.0])
    torch.testing.assert_close(to_colour(raw, False), torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(to_colour(raw, True), torch.tensor([-0.001, 0.5, 1.001]))
