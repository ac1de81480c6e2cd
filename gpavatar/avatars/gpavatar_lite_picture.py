"""From what the rays found at low resolution to the picture at full size: the photos' own pixels, put into place.

The rays say for each photo where it is to be looked at (as a displacement d from the pixel itself) and how much it
counts; on the head the mesh says the same at full resolution. So the picture is sharp whatever the networks know, and
a small U-Net at half resolution mends it: a flow of the finished warp, a change of colour, a change of alpha. Its last
layer starts at zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from gpavatar.avatars.gpavatar_lite_warp import HIDDEN, SHARPNESS, OnMesh
from gpavatar.avatars.portrait_layers import smoothstep
from gpavatar.field.twin import Precision, choose_twin, has_bfloat16
from gpavatar.synthesis.style_layers import leaky

BELIEVED = (0.05, 0.3)  # cosines of the best view of a spot between which a photo begins to be believed
GRAZING = (0.0, 0.08)  # between which it is preferred to the mirrored other side
FLOW_PX = 8.0  # of a 256 px picture: longest flow
CORRECTIONS = 6  # flow (2), colour (3), alpha (1)


@dataclass(frozen=True)
class PictureConfig:
    """The U-Net's channels at 1/2, 1/4 and 1/8 of the size."""

    dims: tuple[int, int, int] = (32, 48, 64)
    blocks: int = 2
    """Residual blocks at the coarsest level."""


class Gathered(NamedTuple):
    """The photos looked at through displaced pixels, put together."""

    colour: Float[Tensor, "batch 3 size size"]  # [0, 1], not premultiplied
    alpha: Float[Tensor, "batch 1 size size"]  # [0, 1]
    hints: Float[Tensor, "batch 2 size size"]  # [0, 1], how far it is the mesh's, and seen by a photo at all


def gather(
    pictures: Float[Tensor, "batch source 4 height width"],
    shift: Float[Tensor, "batch source 2 size size"],
    share: Float[Tensor, "batch source 1 size size"],
) -> tuple[Float[Tensor, "batch 3 size size"], Float[Tensor, "batch 1 size size"]]:
    """Colour and alpha, Σ_s share_s · picture_s(pixel + shift_s), bilinear, the border carried on.

    `shift` is in picture sides; the shares sum to 1.
    """
    batch, sources = pictures.shape[:2]
    at = pixel_grid(shift)[:, None] + shift
    at = at.flatten(0, 1).movedim(1, -1) * 2 - 1
    found = functional.grid_sample(pictures.flatten(0, 1), at, padding_mode="border", align_corners=False)
    mixed = (found.unflatten(0, (batch, sources)) * share).sum(1)
    return mixed[:, :3], mixed[:, 3:]


class Placing(NamedTuple):
    """Where the pixels of a picture come from. Resampled by `at`, it makes the same picture larger."""

    shares: Float[Tensor, "batch two_sources 1 size size"]  # sum to 1: of each photo, of each with its sides exchanged
    shifts: Float[Tensor, "batch two_sources 2 size size"]  # picture sides
    behind: Float[Tensor, "batch source 1 size size"]  # sum to 1: shares in what is behind the heads
    covered: Float[Tensor, "batch 1 size size"]  # [0, 1], how far that is what is seen
    hidden: Float[Tensor, "batch 4 size size"]  # what no photo can show: colour times share, and its share
    opaque: Float[Tensor, "batch 1 size size"]  # [0, 1], of the rays
    hints: Float[Tensor, "batch 2 size size"]  # as in `Gathered`

    def at(self, size_px: int) -> Placing:
        """At another size, bilinear."""
        parts = [part.flatten(1, -3) for part in self]
        large = enlarged(torch.cat(parts, 1), size_px).split([part.shape[1] for part in parts], 1)
        return Placing(*(new.unflatten(1, old.shape[1:-2]) for new, old in zip(large, self, strict=True)))


def placing(
    mesh: OnMesh, told: Float[Tensor, "batch column small small"], opacity: Float[Tensor, "batch 1 small small"]
) -> Placing:
    """Where the photos are put: beside the head as the rays say, on it as the mesh says.

    What no photo shows of one side of the face comes from the other; what none can show has plain colours.
    `told` of the rays: seen, covered, and per photo share and share · displacement.
    """
    size = mesh.depth.shape[-1]
    large = functional.interpolate(torch.cat([opacity, told], 1), (size, size), mode="bilinear")
    opacity, seen, covered, per_photo = large.split([1, 1, 1, large.shape[1] - 3], 1)
    per_photo, fade = per_photo.unflatten(1, (-1, 3)), mesh.fade[:, None]
    share = per_photo[:, :, :1].clamp_min(1e-6)
    visible, mirrored = (one[:, :, :1] for one in (mesh.own, mesh.mirrored))
    here = smoothstep(visible.amax(1, keepdim=True), *GRAZING)
    own = share * torch.lerp(torch.ones_like(visible), visible**SHARPNESS + HIDDEN, fade)
    other = share * mirrored**SHARPNESS * (1 - here) * fade
    shares = torch.cat([own, other], 1)
    shares = shares / shares.sum(1, keepdim=True)
    shift = torch.lerp(per_photo[:, :, 1:] / share, mesh.own[:, :, 1:], fade)
    shifts = torch.cat([shift, mesh.mirrored[:, :, 1:]], 1)
    known = torch.maximum(visible, mirrored).amax(1)
    seen = torch.lerp(seen, smoothstep(known, *BELIEVED), mesh.fade)
    # Teeth and lids are smaller than pixels; the photo's own pixels are smooth already.
    plain = torch.cat([mesh.hidden, torch.ones_like(seen)], 1) * mesh.hidden_share * (1 - seen)
    return Placing(
        shares,
        shifts,
        own / own.sum(1, keepdim=True),
        covered * (1 - mesh.fade),
        functional.avg_pool2d(plain, 3, 1, 1),
        (2 * opacity).clamp(0, 1),
        torch.cat([mesh.fade, seen], 1),
    )


def put_in_place(
    placing: Placing,
    picture: Float[Tensor, "batch source 4 height width"],
    behind: Float[Tensor, "batch source 4 small small"],
) -> Gathered:
    """The photos' pixels, and those of the bodies behind the heads, where `placing` says."""
    found = gather(torch.cat([picture, picture], 1), placing.shifts, placing.shares)
    under = gather(behind, placing.shifts[:, : behind.shape[1]], placing.behind)
    colour, alpha = (torch.lerp(a, b, placing.covered) for a, b in zip(found, under, strict=True))
    hidden, share = placing.hidden.split([3, 1], 1)
    fade, seen = placing.hints.split(1, 1)
    alpha = torch.lerp(alpha * placing.opaque, alpha + (1 - seen) * (1 - alpha), fade)
    return Gathered(colour * (1 - share) + hidden, alpha, placing.hints)


def pixel_grid(like: Float[Tensor, "*batch height width"]) -> Float[Tensor, "1 2 height width"]:
    """Centres of the pixels (column, row) in picture sides."""
    height, width = like.shape[-2:]
    options = {"dtype": like.dtype, "device": like.device}
    rows = (torch.arange(height, **options) + 0.5) / height
    columns = (torch.arange(width, **options) + 0.5) / width
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"))[None]


class PictureNet(nn.Module):
    """See the head of this file."""

    def __init__(self, feat_dim: int, config: PictureConfig | None = None):
        super().__init__()
        config = config or PictureConfig()
        half, quarter, eighth = config.dims
        self.first = nn.Conv2d(4 * 6 + feat_dim, half, 3, padding=1)
        self.down_quarter = nn.Conv2d(half, quarter, 3, stride=2, padding=1)
        self.quarter = Block(quarter)
        self.down_eighth = nn.Conv2d(quarter, eighth, 3, stride=2, padding=1)
        self.eighth = nn.Sequential(*(Block(eighth) for _ in range(config.blocks)))
        self.up_quarter = nn.Conv2d(eighth, quarter, 1)
        self.again_quarter = Block(quarter)
        self.up_half = nn.Conv2d(quarter, half, 1)
        self.again_half = Block(half)
        self.last = nn.Conv2d(half, 4 * CORRECTIONS, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self,
        feats: Float[Tensor, "batch feat small small"],
        base: Gathered,
        precision: Precision = "reference",
    ) -> Float[Tensor, "batch 6 size size"]:
        """Raw corrections, zero before training."""
        whole = base.colour.shape[-1] // 2 % feats.shape[-1] == 0  # pixels to a ray, as the compiled twin has them
        if whole and choose_twin(precision, feats.device, torch.is_grad_enabled()) == "numba":
            from gpavatar.avatars import gpavatar_lite_picture_numba

            fast = precision == "fast" and has_bfloat16(feats.device)
            return gpavatar_lite_picture_numba.corrections(self, feats, base, torch.bfloat16 if fast else torch.float32)
        fine = functional.pixel_unshuffle(torch.cat([base.colour * base.alpha, base.alpha, base.hints], 1), 2)
        half = leaky(self.first(torch.cat([fine, enlarged(feats, fine.shape[-1])], 1)))
        quarter = self.quarter(leaky(self.down_quarter(half)))
        eighth = self.eighth(leaky(self.down_eighth(quarter)))
        quarter = self.again_quarter(quarter + enlarged(self.up_quarter(eighth), quarter.shape[-1]))
        half = self.again_half(half + enlarged(self.up_half(quarter), half.shape[-1]))
        return smoothed(functional.pixel_shuffle(self.last(half), 2))


def smoothed(image: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel height width"]:
    """[1 2 1] / 4 along both axes: what comes out of four channels side by side has no chequered pattern then."""
    taps = torch.tensor([1.0, 2.0, 1.0], dtype=image.dtype, device=image.device) / 4
    kernel = (taps[:, None] * taps).expand(image.shape[1], 1, 3, 3)
    return functional.conv2d(functional.pad(image, [1] * 4, mode="replicate"), kernel, groups=image.shape[1])


class Block(nn.Module):
    """x + two convolutions of it."""

    def __init__(self, dim: int):
        super().__init__()
        self.first, self.second = (nn.Conv2d(dim, dim, 3, padding=1) for _ in range(2))

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch dim height width"]:
        """The size stays."""
        return leaky(x + self.second(leaky(self.first(x))))


def corrected(
    base: Gathered, corrections: Float[Tensor, "batch 6 size size"]
) -> tuple[Float[Tensor, "batch 3 size size"], Float[Tensor, "batch 1 size size"]]:
    """The picture on black and its alpha: I(p) = α (C(p + flow) + change), alpha = clamp(α(p + flow) + change)."""
    flow, change, opaque = corrections.split([2, 3, 1], 1)
    flow = torch.tanh(flow) * (FLOW_PX / 256)
    at = (pixel_grid(flow) + flow).movedim(1, -1) * 2 - 1
    moved = functional.grid_sample(
        torch.cat([base.colour, base.alpha], 1), at, padding_mode="border", align_corners=False
    )
    alpha = (moved[:, 3:] + opaque).clamp(0, 1)
    return (moved[:, :3] + change) * alpha, alpha


def enlarged(image: Float[Tensor, "batch channel _ _"], size_px: int) -> Float[Tensor, "batch channel size size"]:
    if image.shape[-1] == size_px:
        return image
    return functional.interpolate(image, (size_px, size_px), mode="bilinear")
