"""A head's field in the form with the least work, which the fused kernels compute.

Between a linear layer and the next one without anything in between, only their product matters. Of GPAvatar's field
this leaves, for a sample x on a ray of direction d, with c the sum of its three plane features:

    m  = Σ_k ŵ_k relu(u_k + W_γ γ(p_k − x))       s = Σ_k ŵ_k        (Eq. 1 without its second layer)
    h  = relu(A c + B m + s e + a)                       second layer of Eq. 1 and mean of the planes: in A, B
    g  = relu(W h + b)                                   third layer of the trunk: in what follows
    σ  = softplus(β (v · g + v₀)) / β,    colour = E relu(D g + r(d)) + o,   r(d): once per ray

All is made anew from the networks' weights, by torch: gradients reach them through it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor

from gpavatar.field.frequency import frequency_code
from gpavatar.field.head_field import HeadField


@dataclass(frozen=True)
class FoldedField:
    """Weights of the folded field, input first; float32 (or float64) and differentiable."""

    code: Float[Tensor, "code point"] | None  # W_γ; None, like B and e: no expression field
    plane: Float[Tensor, "channel hidden"]  # A / 3
    mixed: Float[Tensor, "point hidden"] | None  # B
    share: Float[Tensor, " hidden"] | None  # e
    bias: Float[Tensor, "batch hidden"]  # a; holds what is the same for all samples of a batch entry
    hidden: Float[Tensor, "hidden hidden2"]  # W
    hidden_bias: Float[Tensor, " hidden2"]  # b
    density: Float[Tensor, " hidden2"]  # v
    density_bias: Float[Tensor, " 1"]  # v₀
    colour: Float[Tensor, "hidden2 colour"]  # D
    ray: Float[Tensor, "batch ray colour"]  # r(d)
    out: Float[Tensor, "colour out"]  # E
    out_bias: Float[Tensor, " out"]  # o


def folded(field: HeadField, dirs: Float[Tensor, "batch ray 3"]) -> FoldedField:
    """The field in the form above, for rays of these directions."""
    with torch.autocast(dirs.device.type, enabled=False):
        radiance, config = field.radiance, field.radiance.config
        first, second, third = (radiance.shared[at] for at in (0, 2, 4))
        colour, out = radiance.colour[0], radiance.colour[2]
        channels = field.planes.shape[2]
        from_expression = first.weight[:, channels:]
        code = mixed = share = None
        if field.points is None:
            bias = first.bias + field.params.to(first.weight.dtype) @ from_expression.T
        else:
            net = field.points.net
            code, last = net.first.weight[:, net.config.point_dim :].T, net.second
            mixed, share = (from_expression @ last.weight).T, from_expression @ last.bias
            bias = first.bias.expand(len(dirs), -1)
        of_trunk = colour.weight[:, : config.hidden_dim]
        ray = (of_trunk @ third.bias + colour.bias).expand(*dirs.shape[:2], -1)
        if config.view_octaves >= 0:
            view = frequency_code(dirs.to(ray.dtype), config.view_octaves, config.view_base)
            ray = ray + functional.linear(view, colour.weight[:, config.hidden_dim :])
        return FoldedField(
            code=code,
            plane=first.weight[:, :channels].T / len(field.plane_names),
            mixed=mixed,
            share=share,
            bias=bias,
            hidden=second.weight.T,
            hidden_bias=second.bias,
            density=(radiance.density.weight @ third.weight)[0],
            density_bias=radiance.density.weight[0] @ third.bias + radiance.density.bias,
            colour=(of_trunk @ third.weight).T,
            ray=ray,
            out=out.weight.T,
            out_bias=out.bias,
        )
