"""What may change in an example without making it untrue: mirroring and light, shared by sources and target.

Mirroring takes X = diag(−1, 1, 1) to both sides of everything: head space x → X x, camera space likewise, so that
w2c' = X w2c X, R' = X R X for every joint, cx' = 1 − cx; left and right expressions, eyes and landmarks change places.
The mirrored head then projects onto the mirrored picture (docs/decisions/0052).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from gpavatar.camera import Camera
from gpavatar.data.batch import Batch, Views, zip_tensors
from gpavatar.data.shard_index import HeadInfo
from gpavatar.face.landmarks import MEDIAPIPE_MIRROR, mirrored_name
from gpavatar.face.open_head import OpenHead
from gpavatar.types import HeadParams, InputError, map_tensors

GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class AugmentConfig:
    """How examples are varied; all zero leaves them as they are."""

    flip: float = 0.5  # probability
    brightness: float = 0.1  # gain in [1 − b, 1 + b]
    contrast: float = 0.1  # about the mean grey of each picture, in [1 − c, 1 + c]
    saturation: float = 0.1  # in [1 − s, 1 + s]; −1 would be grey
    tint: float = 0.03  # gain of each channel, in [1 − t, 1 + t]


@dataclass(frozen=True)
class HeadMirror:
    """How the parameters of a head change in a mirror. An identity component is symmetric or antisymmetric."""

    shape_signs: Float[Tensor, " n_shape"]  # 1 or -1
    expression_order: Int64[Tensor, " n_expression"]  # the weight that each becomes

    @staticmethod
    def of(head: HeadInfo) -> HeadMirror:
        """That of the packaged open head; InputError for another head, whose symmetry is not known."""
        sha256, mirror = _open_head_mirror()
        if head.sha256 != sha256:
            raise InputError(
                f"head {head.name} {head.sha256[:8]}: only open_head {sha256[:8]} can be mirrored; "
                "set augment.flip to 0 or make the set with it"
            )
        return mirror

    def to(self, device: torch.device | str) -> HeadMirror:
        """On `device`."""
        return map_tensors(self, lambda tensor: tensor.to(device))


def augment(batch: Batch, config: AugmentConfig, head: HeadMirror | None, generator: torch.Generator) -> Batch:
    """Mirror some examples and change the colours of all; `generator` and `head` are on the batch's device."""
    size, device = len(batch.pairs.clip), batch.pairs.clip.device
    flip, *draws = torch.rand((7, size), generator=generator, device=device)
    brightness, contrast, saturation, *tint = (2 * uniform - 1 for uniform in draws)
    gain = (1 + config.brightness * brightness) * (1 + config.tint * torch.stack(tint))
    contrast, saturation = 1 + config.contrast * contrast, 1 + config.saturation * saturation
    source, target = batch.source, batch.target
    if config.flip:
        assert head is not None, "mirroring needs to know the head"
        mirrored = flip < config.flip
        source, target = mirror_some(source, head, mirrored), mirror_some(target, head, mirrored)
    if config.brightness or config.contrast or config.saturation or config.tint:
        light = (gain.T, contrast, saturation)
        source = replace(source, image=change_colours(source.image, *light))
        target = replace(target, image=change_colours(target.image, *light))
    return replace(batch, source=source, target=target)


def change_colours(
    image: Float[Tensor, "batch *source 3 height width"],
    gain: Float[Tensor, "batch 3"],
    contrast: Float[Tensor, " batch"],
    saturation: Float[Tensor, " batch"],
) -> Float[Tensor, "batch *source 3 height width"]:
    """Per example, with y the grey of a pixel and ȳ its mean over the picture: x ← y + s (x − y); x ← ȳ + c (x − ȳ);
    x ← g x; clamped to [0, 1].
    """

    def per_example(values: Tensor) -> Tensor:
        return values.view(len(image), *[1] * (image.ndim - 4), -1, 1, 1)

    red, green, blue = image.unbind(-3)
    grey = (GREY[0] * red + GREY[1] * green + GREY[2] * blue).unsqueeze(-3)
    contrast, saturation = per_example(contrast), per_example(saturation)
    # One pass: a pixel is scaled, and shifted by multiples of its grey and of the mean. In place, as memory is what
    # this costs.
    shift = grey * (contrast * (1 - saturation)) + grey.mean((-1, -2), keepdim=True) * (1 - contrast)
    return (image * (contrast * saturation)).add_(shift).mul_(per_example(gain)).clamp_(0, 1)


def mirror_some(views: Views, head: HeadMirror, mirrored: Bool[Tensor, " batch"]) -> Views:
    """`mirror` for the examples that are marked."""

    def choose(ours: Tensor, theirs: Tensor) -> Tensor:
        return torch.where(mirrored.view(-1, *[1] * (ours.ndim - 1)), theirs, ours)

    return zip_tensors(views, mirror(views, head), choose)


def mirror(views: Views, head: HeadMirror) -> Views:
    """The mirrored person, seen in a mirror: picture, head and camera by the equations at the head of this file."""
    width = views.image.shape[-1]
    landmarks_px = views.landmarks_px[..., _constant(MEDIAPIPE_MIRROR, views.landmarks_px.device), :]
    return Views(
        views.image.flip(-1),
        views.alpha.flip(-1),
        mirror_params(views.params, head),
        mirror_camera(views.camera),
        torch.stack([width - landmarks_px[..., 0], landmarks_px[..., 1]], -1),
    )


def mirror_params(params: HeadParams, head: HeadMirror) -> HeadParams:
    """The parameters whose vertices are the mirror image of those of `params`."""
    turn = _constant((1.0, -1.0, -1.0), params.jaw_pose.device)  # of the axis, by X R X
    return HeadParams(
        params.shape * head.shape_signs,
        params.expression[..., head.expression_order],
        params.jaw_pose * turn,
        params.neck_pose * turn,
        params.eye_pose.flip(-2) * turn,
    )


def mirror_camera(camera: Camera) -> Camera:
    """The camera that sees the mirror image of the scene as the mirror image of the picture."""
    signs = _constant((-1.0, 1.0, 1.0, 1.0), camera.c2w.device)
    fx, fy, cx, cy = camera.intrinsics.unbind(-1)
    return Camera(camera.c2w * signs * signs[:, None], torch.stack([fx, fy, 1 - cx, cy], -1))


@cache
def _open_head_mirror() -> tuple[str, HeadMirror]:
    head = OpenHead.load()
    mirrored = head.identity[:, head.mirror] * head.identity.new_tensor([-1.0, 1.0, 1.0])
    signs = (mirrored * head.identity).sum((1, 2)) / head.identity.square().sum((1, 2))
    assert (signs.abs() - 1).abs().max() < 1e-3, "a component is neither symmetric nor antisymmetric"
    order = [head.expression_names.index(mirrored_name(name)) for name in head.expression_names]
    return head.sha256, HeadMirror(signs.round(), torch.tensor(order))


@cache
def _constant(values: tuple[float | int, ...], device: torch.device) -> Tensor:
    """Made once: every copy to a GPU would wait for it."""
    return torch.tensor(values, device=device)
