"""What the prior makes of a few people: seeds, truncation, the way from one to the next, and a sweep of expressions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor

from gpavatar.avatars.animatable_prior import AnimatablePrior, PriorOutput
from gpavatar.data.batch import Views
from gpavatar.face.morphable import MorphableHead
from gpavatar.face.plane_views import FaceSurface
from gpavatar.training.losses import on_black
from gpavatar.training.sheet import Sheet, as_grey, enlarged
from gpavatar.types import HeadParams, map_tensors

TRUNCATIONS = (0.7, 0.35, 0.0)
STEPS = (1 / 3, 2 / 3)
SWEEP = ("jawOpen", "mouthSmile", "eyeBlink", "mouthPucker")  # all expressions whose names begin so


def prior_sheet(
    prior: AnimatablePrior,
    styles: Float[Tensor, "batch layer style"],
    mean: Float[Tensor, "batch layer style"],
    target: Views,
    head: MorphableHead,
    surface: FaceSurface,
    raw_px: int = 0,
) -> Sheet:
    """A row per person, posed and looked at as the target is; `raw_px` as `size_px` in `AnimatablePrior.render`.

    Columns: the target; the person, its raw rendering, opacity and nearness; truncated styles, down to the `mean` face;
    styles between this person and the next; the neutral face and single expressions.
    """
    following = styles.roll(-1, 0)

    def drawn(styles: Tensor, params: HeadParams = target.params) -> PriorOutput:
        return prior(styles, prior.views(head.verts(params), surface), target.camera, size_px=raw_px)

    def columns() -> Iterator[tuple[str, Tensor]]:
        person, size = drawn(styles), target.image.shape[-1]
        yield "target", on_black(target)
        yield "person", person.image
        yield "raw", enlarged(person.raw, size)
        yield "opacity", enlarged(person.opacity, size)
        yield "nearness", enlarged(as_grey(torch.where(person.opacity > 0.5, -person.depth, -torch.inf)), size)
        for truncation in TRUNCATIONS:
            yield f"truncation {truncation}", drawn(mean + truncation * (styles - mean)).image
        for step in STEPS:
            yield f"{step:.2f} of the way to the next", drawn(torch.lerp(styles, following, step)).image
        for name, params in sweep(target.params, head):
            yield name, drawn(styles, params).image

    names, pictures = zip(*columns(), strict=True)
    shape = pictures[0].shape
    sized = [functional.interpolate(one, shape[-2:], mode="area").expand(shape) for one in pictures]
    return Sheet(names, torch.stack(sized, 1).clamp(0, 1))


def sweep(params: HeadParams, head: MorphableHead) -> Iterator[tuple[str, HeadParams]]:
    """The people of `params` with a neutral face, and with one expression at a time; for a head whose expressions have
    no such names its first four, at two standard deviations."""
    calm = replace(map_tensors(params, torch.zeros_like), shape=params.shape)
    yield "neutral", calm
    named = any(name.startswith(SWEEP[0]) for name in head.expression_names)
    for number, word in enumerate(SWEEP if named else head.expression_names[: len(SWEEP)]):
        names = enumerate(head.expression_names)
        chosen = [name.startswith(word) if named else place == number for place, name in names]
        weight = torch.tensor(chosen, device=params.expression.device) * (1.0 if named else 2.0)
        yield word, replace(calm, expression=weight.to(params.expression.dtype).expand_as(params.expression))
