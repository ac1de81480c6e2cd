"""StyleGAN2's generator (Karras et al. 2020), open at every resolution.

Resolutions go 4, 8, ... size. At each there are features and, on top of the coarser resolutions' sum, an image of any
number of channels. Two things can be done on the way: scale and shift half of the features between the two
convolutions of a resolution (`FeatureTransform`, InvertAvatar section 3.2), and replace what came out of it (`edit`,
section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.synthesis.style_layers import StyleConv, ToOutput


@dataclass(frozen=True)
class StyleGeneratorConfig:
    """Sizes are powers of two."""

    size_px: int = 256
    style_dim: int = 512
    channel_base: int = 32768  # channels x side, as long as that is not more than `max_channels`
    max_channels: int = 512
    noise: Literal["fresh", "stored"] = "fresh"
    """In training: new noise every time, or what the checkpoint holds. Afterwards always the latter."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """4, 8, ... size."""
        return tuple(4 * 2**level for level in range(self.size_px.bit_length() - 2))

    @property
    def num_styles(self) -> int:
        """Two per resolution: 14 at 256 px."""
        return 2 * len(self.sizes)

    def channels(self, size_px: int) -> int:
        """Of the features of this resolution."""
        return min(self.channel_base // size_px, self.max_channels)


@dataclass(frozen=True)
class Level:
    """What a generator has at one resolution."""

    feats: Float[Tensor, "batch channel size size"]
    image: Float[Tensor, "batch out size size"] | None  # the sum over all resolutions up to this one


@dataclass(frozen=True)
class FeatureTransform:
    """CS-SFT: of a resolution's features, after its first convolution, the second half becomes x (1 + scale) + shift.

    The size of the tensors says which resolution is meant; zeros change nothing.
    """

    scale: Float[Tensor, "batch half size size"]
    shift: Float[Tensor, "batch half size size"]

    def __call__(self, x: Float[Tensor, "batch channel size size"]) -> Float[Tensor, "batch channel size size"]:
        """The first half stays."""
        kept, half = x.chunk(2, dim=1)
        return torch.cat([kept, half * (1 + self.scale) + self.shift], 1)


Edit = Callable[[Level], Level]


class StyleGenerator(nn.Module):
    """See the head of this file."""

    def __init__(
        self, config: StyleGeneratorConfig, out_dim: int, *, num_constants: int = 1, last_px: int = 0, image_px: int = 0
    ):
        """`num_constants`: kinds of images that the same layers make, each from a constant of its own. Where finer
        features or images are not needed: `last_px`, the last resolution, and `image_px`, the last with an image."""
        super().__init__()
        self.config = config
        self.sizes = tuple(size for size in config.sizes if size <= (last_px or config.size_px))
        dims = [config.channels(size) for size in self.sizes]
        self.constants = nn.Parameter(torch.randn(num_constants, dims[0], 4, 4))
        self.first = StyleConv(dims[0], dims[0], config.style_dim)
        self.first_output = ToOutput(dims[0], out_dim, config.style_dim)
        pairs = list(zip(dims, dims[1:], strict=False))
        self.grow = nn.ModuleList(StyleConv(coarse, fine, config.style_dim, upsample=True) for coarse, fine in pairs)
        self.refine = nn.ModuleList(StyleConv(fine, fine, config.style_dim) for _, fine in pairs)
        with_image = [size <= (image_px or config.size_px) for size in self.sizes]
        self.outputs = nn.ModuleList(ToOutput(fine, out_dim, config.style_dim) for fine in dims[1 : sum(with_image)])
        for number, size in enumerate([4, *(size for size in self.sizes[1:] for _ in range(2))]):
            self.register_buffer(f"noise{number}", torch.randn(1, 1, size, size))

    def forward(
        self,
        styles: Float[Tensor, "batch layer style"],
        *,
        constant: int = 0,
        transforms: Sequence[FeatureTransform] = (),
        edit: Edit | None = None,
    ) -> tuple[Level, ...]:
        """One level per resolution, from 4 px on. Raw values; no activation on the images.

        `edit` may replace the features and the image of a level before the next one is made from them.
        """
        batch = len(styles)
        by_size = {transform.scale.shape[-1]: transform for transform in transforms}
        assert by_size.keys() <= set(self.sizes), "a transform of a resolution that there is not"
        own = styles.unbind(1)
        x = self.first(self.constants[constant].expand(batch, -1, -1, -1), own[0], self._noise(0, batch))
        level = Level(x, self.first_output(x, own[1]))
        levels = [level]
        for number, size in enumerate(self.sizes[1:]):
            first, second, output = own[2 * number + 1 : 2 * number + 4]
            x = self.grow[number](level.feats, first, self._noise(2 * number + 1, batch))
            if size in by_size:
                x = by_size[size](x)
            x = self.refine[number](x, second, self._noise(2 * number + 2, batch))
            image = self.outputs[number](x, output, level.image) if number < len(self.outputs) else None
            level = Level(x, image)
            level = edit(level) if edit else level
            levels.append(level)
        return tuple(levels)

    def _noise(self, number: int, batch: int) -> Float[Tensor, "_ 1 height width"]:
        stored = getattr(self, f"noise{number}")
        if self.training and self.config.noise == "fresh":
            return torch.randn(batch, *stored.shape[1:], dtype=stored.dtype, device=stored.device)
        return stored
