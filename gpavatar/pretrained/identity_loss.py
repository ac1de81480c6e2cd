"""How much two faces are the same person's, with a gradient: SFace (MIT) in torch, the twin of `identity.Identity`.

SFace is a chain (MobileNet): convolutions by themselves per channel alternate with 1 × 1 convolutions, each followed by
a norm with fixed statistics and a PReLU; then 128 features. Its weights are constants: not in `parameters()`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gpavatar import assets
from gpavatar.pretrained.identity import SIDE_PX, TEMPLATE_PX, five_points_px
from gpavatar.pretrained.onnx_weights import read_weights

SHRINKING = (3, 5, 7, 13)  # blocks that halve the side
BLOCKS = 14
SCALAR_OPS = ("scalar_op1", "scalar_op2")  # offset and factor of the picture
NORM_EPS, LAST_NORM_EPS = 1e-3, 2e-5


class IdentityDistance(nn.Module):
    """1 − cos of the angle between two faces' embeddings, as far as both faces are known to be somewhere.

    AssetError where the weights cannot be had.
    """

    def __init__(self) -> None:
        super().__init__()
        for name, array in read_weights(assets.fetch("sface")).items():
            self.register_buffer(name, torch.from_numpy(array.copy()), persistent=False)
        template = torch.from_numpy(TEMPLATE_PX).float()
        self.register_buffer("template_px", template, persistent=False)

    def forward(
        self,
        output: Float[Tensor, "batch 3 height width"],
        target: Float[Tensor, "batch 3 height width"],
        landmarks_px: Float[Tensor, "batch 478 2"],
    ) -> Float[Tensor, " batch"]:
        """Pictures in [0, 1]; both faces stand where the landmarks say. 0 where these are NaN."""
        points = five_points_px(landmarks_px)
        known: Bool[Tensor, " batch"] = points.isfinite().all(-1).all(-1)
        points = torch.where(known[:, None, None], points, self.template_px)
        faces = [self.aligned(picture, points) for picture in (output, target)]
        ours, theirs = self.embed(torch.cat(faces)).chunk(2)
        return (1 - (ours * theirs).sum(1)) * known

    def aligned(
        self, image: Float[Tensor, "batch 3 height width"], points_px: Float[Tensor, "batch 5 2"]
    ) -> Float[Tensor, "batch 3 112 112"]:
        """The picture turned, scaled and moved so that the points come to lie on the template; black outside.

        The way is that of `identity.similarity`, picture -> template, gone backwards.
        """
        template = torch.view_as_complex(self.template_px)
        points = torch.view_as_complex(points_px.contiguous())
        centre, middle = template.mean(), points.mean(1, keepdim=True)
        spread = (points - middle).abs().square().sum(1)
        turn = ((points - middle).conj() * (template - centre)).sum(1) / spread
        steps = torch.arange(SIDE_PX, device=image.device) + 0.5
        grid = torch.complex(*torch.meshgrid(steps, steps, indexing="xy"))
        at = torch.view_as_real((grid - centre) / turn[:, None, None] + middle[..., None])
        size = image.new_tensor([image.shape[-1], image.shape[-2]])
        return functional.grid_sample(image, 2 * at / size - 1, align_corners=False)

    def embed(self, face: Float[Tensor, "batch 3 112 112"]) -> Float[Tensor, "batch feature"]:
        """Embeddings of norm 1 of aligned faces in [0, 1]."""
        offset, factor = (getattr(self, name) for name in SCALAR_OPS)
        x = self._block("conv_1", (255 * face - offset) * factor, padding=1)
        for number in range(2, BLOCKS + 1):
            x = self._block(f"conv_{number}_dw", x, 2 if number in SHRINKING else 1, padding=1, groups=x.shape[1])
            x = self._block(f"conv_{number}", x)
        x = self._norm("bn1", x, LAST_NORM_EPS).flatten(1)
        x = functional.linear(x, self.pre_fc1_weight, self.pre_fc1_bias)
        return functional.normalize(self._norm("fc1", x, LAST_NORM_EPS), dim=1)

    def _block(self, name: str, x: Tensor, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        weight = getattr(self, f"{name}_conv2d_weight")
        x = functional.conv2d(x, weight, None, stride, padding, 1, groups)
        x = self._norm(f"{name}_batchnorm", x, NORM_EPS)
        return functional.prelu(x, getattr(self, f"{name}_relu_gamma").flatten())

    def _norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        mean, var, gamma, beta = (
            getattr(self, f"{name}_{part}") for part in ("moving_mean", "moving_var", "gamma", "beta")
        )
        return functional.batch_norm(x, mean, var, gamma, beta, eps=eps)
