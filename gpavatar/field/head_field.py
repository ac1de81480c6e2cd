"""A head's field: canonical planes and expression -> density and features at any point (GPAvatar, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from gpavatar.field.occupancy import Occupancy
from gpavatar.field.point_field import BoundPointField
from gpavatar.field.radiance import FieldSamples, RadianceHead
from gpavatar.triplane.lookup import PLANES, sample_planes


@dataclass(frozen=True)
class HeadField:
    """One frame's field per batch entry: (σ, c)(x, d) = radiance(planes(x), expression(x), d) inside the cube.

    Implements `gpavatar.render.volume.Field`. `render_volume` takes its fused twins for any precision but "reference".
    """

    planes: Float[Tensor, "batch 3 channel size size"]
    radiance: RadianceHead
    points: BoundPointField | None  # None: `params` are given to every sample (ablation "w/o PEF")
    params: Float[Tensor, "batch param"]
    plane_names: tuple[str, ...] = PLANES
    occupancy: Occupancy | None = None  # of the one person whose field this is; None: anywhere

    def over_pass(self, points: Float[Tensor, "batch sample 3"]) -> HeadField:
        """See `BoundPointField.over_pass`."""
        return self if self.points is None else replace(self, points=self.points.over_pass(points))

    @property
    def depends_on_pass(self) -> bool:
        """Whether the samples of a pass influence each other (released weighting): no fused twin does that."""
        return self.points is not None and self.points.net.config.normalised_over == "pass"

    def __call__(self, points: Float[Tensor, "batch sample 3"], dirs: Float[Tensor, "batch sample 3"]) -> FieldSamples:
        """Nothing is outside the cube [-1, 1]³, nor where nobody can be."""
        inside = (points.abs() <= 1).all(-1) if self.occupancy is None else self.occupancy.at(points)
        canonical = sample_planes(self.planes, points, self.plane_names)
        if self.points is None:
            expression = self.params[:, None].expand(-1, points.shape[1], -1)
        else:
            # What is masked need not be searched for far away; but in a pass of the released kind all weights count.
            expression = self.points(points if self.depends_on_pass else points.clamp(-1, 1))
        found = self.radiance(torch.cat([canonical, expression.to(canonical.dtype)], -1), dirs)
        return FieldSamples(found.sigma * inside, found.feats)
