"""Layers of StyleGAN2 (Karras et al. 2020) with bilinear resampling, as GFPGAN's decoder uses them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

SLOPE = 0.2  # of every leaky ReLU


def leaky(x: Tensor) -> Tensor:
    """x where positive, else 0.2 x."""
    return functional.leaky_relu(x, SLOPE)


def quick(x: Tensor) -> bool:
    """Whether a picture is drawn by itself, without gradients: then memory is what takes time, and results of one's
    own are overwritten."""
    return len(x) == 1 and not torch.is_grad_enabled()


def leaky_over(x: Tensor) -> Tensor:
    """`leaky` of something that nobody else needs."""
    return functional.leaky_relu_(x, SLOPE) if quick(x) else leaky(x)


def resized(
    x: Float[Tensor, "batch channel height width"], factor: float
) -> Float[Tensor, "batch channel height2 width2"]:
    """Bilinear; by ½ this is the mean of 2 × 2 pixels."""
    return functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def to_colour(raw: Tensor, widened: bool) -> Tensor:
    """Any number -> a colour in (0, 1); `widened`: in (−0.001, 1.001), so that black and white can be reached."""
    colour = raw.sigmoid()
    return colour * 1.002 - 0.001 if widened else colour


class StyleMlp(nn.Module):
    """A code of length √n -> the style that all layers share: w = MLP(z / rms(z))."""

    def __init__(self, dim: int, depth: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(depth))
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, a=SLOPE, nonlinearity="leaky_relu")
            nn.init.zeros_(layer.bias)

    def forward(self, code: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Any code; only its direction matters."""
        style = code * torch.rsqrt(code.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            style = leaky(layer(style))
        return style


class ModulatedConv(nn.Module):
    """A convolution whose input channels the style scales: y_o = d_o Σ_i k_oi * (s_i x_i), s = A w + b.

    Demodulation d_o = 1 / √(Σ_i,taps (k_oi s_i)²) brings every output to unit variance, or is 1. Scaling input and
    output instead of the kernel is the same and needs no kernel per batch entry; `literal_modulated_conv` is the twin.
    """

    def __init__(self, in_dim: int, out_dim: int, kernel: int, style_dim: int, demodulate: bool = True):
        super().__init__()
        self.modulation = nn.Linear(style_dim, in_dim)
        nn.init.kaiming_normal_(self.modulation.weight, nonlinearity="linear")
        nn.init.ones_(self.modulation.bias)
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim, kernel, kernel) / math.sqrt(in_dim * kernel**2))
        self.demodulate = demodulate

    def forward(
        self, x: Float[Tensor, "batch in height width"], style: Float[Tensor, "batch style"]
    ) -> Float[Tensor, "batch out height width"]:
        """The size stays."""
        scale = self.modulation(style)
        x = functional.conv2d(x * scale[..., None, None], self.weight, padding=self.weight.shape[-1] // 2)
        if not self.demodulate:
            return x
        precise = torch.promote_types(x.dtype, torch.float32)  # squares of half precision would overflow
        power = scale.to(precise).square() @ self.weight.to(precise).square().sum((2, 3)).T
        return x * torch.rsqrt(power + 1e-8).to(x.dtype)[..., None, None]

    def prefers_kernel(self, x: Tensor) -> bool:
        """Whether fewer numbers are touched where the kernel is modulated, not the picture."""
        return quick(x) and x[0, 0].numel() > self.weight[:, 0].numel()

    def by_kernel(self, x: Tensor, style: Tensor, bias: Tensor, gain: float = 1.0) -> Tensor:
        """gain · y + bias, of one picture."""
        kernel = self.modulated(style)[0] * gain
        return functional.conv2d(x, kernel, bias, padding=self.weight.shape[-1] // 2)

    def modulated(self, style: Float[Tensor, "batch style"]) -> Float[Tensor, "batch out in kernel kernel"]:
        """One modulated and demodulated kernel per batch entry."""
        kernels = self.weight * self.modulation(style)[:, None, :, None, None]
        if not self.demodulate:
            return kernels
        power = kernels.to(torch.promote_types(kernels.dtype, torch.float32)).square().sum((2, 3, 4), keepdim=True)
        return kernels * torch.rsqrt(power + 1e-8).to(kernels.dtype)


def literal_modulated_conv(
    conv: ModulatedConv, x: Float[Tensor, "batch in height width"], style: Float[Tensor, "batch style"]
) -> Float[Tensor, "batch out height width"]:
    """The slow twin of `ModulatedConv`: one modulated and demodulated kernel per batch entry."""
    padding, pairs = conv.weight.shape[-1] // 2, zip(x, conv.modulated(style), strict=True)
    return torch.cat([functional.conv2d(one[None], kernel, padding=padding) for one, kernel in pairs])


class StyleConv(nn.Module):
    """Upsampling if asked, modulated convolution, noise, bias, leaky ReLU."""

    def __init__(self, in_dim: int, out_dim: int, style_dim: int, upsample: bool = False):
        super().__init__()
        self.conv = ModulatedConv(in_dim, out_dim, 3, style_dim)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(out_dim))
        self.upsample = upsample

    def forward(
        self,
        x: Float[Tensor, "batch in height width"],
        style: Float[Tensor, "batch style"],
        noise: Float[Tensor, "#batch 1 height2 width2"] | None,
    ) -> Float[Tensor, "batch out height2 width2"]:
        """`noise` has the size of the output; None: no noise."""
        x = resized(x, 2.0) if self.upsample else x
        if self.conv.prefers_kernel(x):
            x = self.conv.by_kernel(x, style, self.bias, math.sqrt(2))
            return leaky_over(x if noise is None else x.add_(self.noise_strength * noise))
        x = self.conv(x, style) * math.sqrt(2)
        if noise is not None:
            x = x + self.noise_strength * noise
        return leaky(x + self.bias[:, None, None])


class ToOutput(nn.Module):
    """One level's share of the output image: a modulated 1 × 1 convolution on top of the coarser levels' sum."""

    def __init__(self, in_dim: int, out_dim: int, style_dim: int):
        super().__init__()
        self.conv = ModulatedConv(in_dim, out_dim, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(out_dim))

    def forward(
        self,
        x: Float[Tensor, "batch in height width"],
        style: Float[Tensor, "batch style"],
        coarser: Float[Tensor, "batch out height2 width2"] | None = None,
    ) -> Float[Tensor, "batch out height width"]:
        """`coarser` is the sum so far, at half the size."""
        if self.conv.prefers_kernel(x):
            own = self.conv.by_kernel(x, style, self.bias)
        else:
            own = self.conv(x, style) + self.bias[:, None, None]
        return own if coarser is None else own + resized(coarser, 2.0)


class ResBlock(nn.Module):
    """Two convolutions with a change of size between them, and a 1 × 1 skip; `factor` ½ or 2."""

    def __init__(self, in_dim: int, out_dim: int, factor: float):
        super().__init__()
        self.first = nn.Conv2d(in_dim, in_dim, 3, padding=1)
        self.second = nn.Conv2d(in_dim, out_dim, 3, padding=1)
        self.skip = nn.Conv2d(in_dim, out_dim, 1, bias=False)
        self.factor = factor

    def forward(self, x: Float[Tensor, "batch in height width"]) -> Float[Tensor, "batch out height2 width2"]:
        """Half or twice the size."""
        inner = leaky_over(self.second(resized(leaky_over(self.first(x)), self.factor)))
        # The 1 × 1 convolution and the resampling commute: the former at the smaller of the two sizes.
        skip = resized(self.skip(x), self.factor) if self.factor > 1 else self.skip(resized(x, self.factor))
        return inner.add_(skip) if quick(x) else inner + skip
