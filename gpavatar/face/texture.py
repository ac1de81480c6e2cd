"""Photos -> one texture of the head: blended by viewing angle, then completed where no photo saw it.

The blend of the photos' colours c_i at a texel is Σ w_i c_i / Σ w_i with w_i = (visibility · cosine)^SHARPNESS, so that
the photo that faces a spot decides it and a grazing one only helps out. What nobody saw comes from the mirrored side
of the face, its light matched, and what that does not know either from the surroundings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float
from torch import Tensor

from gpavatar.face.uv import UnprojectedTexture
from gpavatar.media.inpaint import push_pull

SHARPNESS = 6  # higher: less ghosting between photos, harder seams
SEEN_LOW, SEEN_HIGH = 0.2, 0.5  # a texel's best cosine: below not believed, above fully
SHADOW = 0.45  # how much darker than skin in the light is skin under the jaw
LIGHT_CELLS = 32  # per side
EYE_BINS = 48
HAIR_TEXELS = 0.002  # share of the texels: less hair than this is no hair
HAIRLINE_TEXELS = 16  # of 1024: half the width over which an unseen hairline fades
RIM_TEXELS = 8  # of 1024: so near to what was not seen (lash line, hairline, outline) colours do not spread


@dataclass(frozen=True)
class HeadTexture:
    """What photos showed so far; `add` takes one more. Weighted means, 0 where `weight` is 0."""

    colour: Float[Tensor, "3 height width"]  # [0, 1]
    labels: Float[Tensor, "2 height width"]  # [0, 1], how far it is hair, and how far bare skin
    weight: Float[Tensor, "1 height width"]  # Σ w_i, at most the number of photos

    @staticmethod
    def empty(size: int) -> HeadTexture:
        return HeadTexture(*(torch.zeros(channels, size, size) for channels in (3, 2, 1)))

    @property
    def seen(self) -> Float[Tensor, "1 height width"]:
        """How far the colour can be believed, [0, 1]."""
        best = self.weight.clamp_max(1) ** (1 / SHARPNESS)
        return ((best - SEEN_LOW) / (SEEN_HIGH - SEEN_LOW)).clamp(0, 1)

    def add(self, photo: UnprojectedTexture) -> HeadTexture:
        """One more photo, channels RGB, hair, skin, brought to the light of what is known (`matching_light`)."""
        colour, labels = photo.colour[:3], photo.colour[3:]
        weight = photo.weight**SHARPNESS
        colour = colour * matching_light(self.colour, colour, torch.minimum(weight, self.weight))
        total = self.weight + weight
        share = weight / total.clamp_min(1e-12)
        return HeadTexture(self.colour.lerp(colour, share).clamp(0, 1), self.labels.lerp(labels, share), total)


def matching_light(
    known: Float[Tensor, "3 height width"],
    colour: Float[Tensor, "3 height width"],
    common: Float[Tensor, "1 height width"],
) -> Float[Tensor, "3 height width"]:
    """The gain that brings `colour` to the light of `known`, smooth over the texture.

    Two photos differ in exposure, and a head that turns in a room also in which of its sides is lit. So the ratio of
    the means is taken in each of `LIGHT_CELLS`² cells by the texels that both show (`common`), and spread to the rest.
    """
    pooled = [
        functional.adaptive_avg_pool2d(x[None], LIGHT_CELLS)[0] for x in (known * common, colour * common, common)
    ]
    share = pooled[2].clamp_min(1e-8)
    ratio = ((pooled[0] / share).clamp_min(0.02) / (pooled[1] / share).clamp_min(0.02)).clamp(0.5, 2).log()
    gain = push_pull(ratio, (pooled[2] / 0.02).clamp_max(1)).exp()
    return functional.interpolate(gain[None], colour.shape[-2:], mode="bilinear")[0]


@dataclass(frozen=True)
class SkinMap:
    """What the texels of the skin's island are on every head."""

    skin: Bool[Tensor, "height width"]
    scalp: Bool[Tensor, "height width"]  # where hair grows, if the person has any
    lids: Bool[Tensor, "height width"]  # their lining, which faces the eyeball
    lashes: Float[Tensor, "1 height width"]  # 1 on the rim of the lids
    under_jaw: Float[Tensor, "1 height width"]  # [0, 1], how far the skin lies in the shadow of the jaw


def complete_skin(texture: HeadTexture, where: SkinMap) -> Float[Tensor, "3 height width"]:
    """The skin's island with every texel given a colour in [0, 1]; the atlas mirrors it about u = 1/2.

    The mirrored colour is brought to the light of its new place by the ratio of the two sides where both are seen,
    spread smoothly to where they are not. What neither side shows is filled from around: the scalp from hair where
    there is any, the rest from skin, darker under the jaw; the lids, of which an open eye shows only the rim, from
    beyond the lids.
    """
    seen = texture.seen * where.skin
    swapped, swapped_seen = texture.colour.flip(-1), seen.flip(-1) * where.skin
    both = torch.minimum(seen, swapped_seen)
    light, swapped_light = (c.mean(0, keepdim=True).clamp_min(0.02) for c in (texture.colour, swapped))
    gain = push_pull((light / swapped_light).clamp(0.5, 2).log(), (both > 0.5).float()).exp().clamp(0.7, 1.4)
    known = seen + (1 - seen) * swapped_seen
    share = torch.cat([texture.colour, texture.labels]) * seen
    share = share + (1 - seen) * swapped_seen * torch.cat([swapped * gain, texture.labels.flip(-1)])
    mixed = (share / known.clamp_min(1e-6)).clamp(0, 1)
    colour, hair, skin = mixed[:3], mixed[3:4], mixed[4:]

    texel = known.shape[-1] / 1024
    sure = erode(known, round(RIM_TEXELS * texel))
    bare = sure * ~where.lids * (skin > 0.9)
    bare = bare if bare.any() else sure
    daylight = 1 - SHADOW * where.under_jaw
    behind = (push_pull(colour / daylight, bare) * daylight).clamp(0, 1)
    grown = sure * (hair > 0.9)
    if grown.mean() > HAIR_TEXELS:
        soft = round(HAIRLINE_TEXELS * texel)
        scalp = functional.avg_pool2d(where.scalp[None].float(), 2 * soft + 1, stride=1, padding=soft)
        hairy = ((torch.maximum(scalp, push_pull(hair, sure)) - 0.2) / 0.6).clamp(0, 1)
        behind = torch.lerp(behind, push_pull(colour, grown), hairy)
    return torch.lerp(behind, colour, torch.maximum(erode(known, 2), known * where.lashes))


def erode(mask: Float[Tensor, "1 height width"], radius: int) -> Float[Tensor, "1 height width"]:
    """Least value within a square of the given radius."""
    return -functional.max_pool2d(-mask[None], 2 * radius + 1, stride=1, padding=radius)[0]


def complete_eye(
    colour: Float[Tensor, "3 height width"],
    seen: Float[Tensor, "1 height width"],
    radius: Float[Tensor, "height width"],
) -> Float[Tensor, "3 height width"]:
    """An eyeball's texels: what was seen, and elsewhere the mean colour seen at the same distance from the iris centre.

    `radius` is that distance (any unit, NaN off this eye). Unseen radii take the nearest seen one. An eye that no photo
    shows stays as `colour` has it.
    """
    on_eye = ~radius.isnan()
    if not (seen[0] * on_eye).sum() > 20:
        return colour
    bins = (radius / radius[on_eye].max() * (EYE_BINS - 1)).round()
    index = torch.where(on_eye, bins, 0).long().flatten()
    weight = (seen[0] * on_eye).flatten()
    total = torch.zeros(EYE_BINS).index_add_(0, index, weight)
    sums = torch.zeros(3, EYE_BINS).index_add_(1, index, colour.flatten(1) * weight)
    filled = push_pull((sums / total.clamp_min(1e-6))[:, None], (total / 4).clamp_max(1)[None, None])[:, 0]
    return torch.where(on_eye, seen * colour + (1 - seen) * filled[:, index].reshape_as(colour), colour)
