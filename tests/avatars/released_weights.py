"""A checkpoint in the layout of the released GPAvatar, its numbers made by a rule that needs no download.

`gpavatar_case_a.npz` beside this file holds what the authors' own modules (github.com/xg-chu/GPAvatar at 3ca7d44, MIT
licence) print for these weights: their StyleUNet, MTAttention, PointsDecoder and CubicNeRFCamera, float32 on a CPU; the
nerfacc and PyTorch3D operators that they call were replaced by torch restatements. Its arrays:

    names                 573 entries of the state_dict with their shapes
    points                (1, 5023, 3), transform_matrix (1, 3, 4): what the frame was driven by; focal length 12
    planes                encoder output [2, 3, 32, 256, 256] at [:, :, ::4, ::16, ::16]
    fused                 attention output [3, 32, 256, 256] at [:, ::4, ::16, ::16]
    coarse, fine          rendered features [32, 128, 128] at [:, ::2, ::2]
    image                 [3, 512, 512] at [:, ::4, ::4]
"""

from __future__ import annotations

import ast
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CASE = Path(__file__).with_name("gpavatar_case_a.npz")
SEED = 5


def case() -> dict[str, Tensor]:
    """The arrays, but for the names."""
    with np.load(CASE, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays if name != "names"}


def released_state() -> dict[str, Tensor]:
    """The state_dict: normal numbers seeded by each entry's name, scaled so that nothing dies out on the way."""
    with np.load(CASE, allow_pickle=False) as arrays:
        names = [str(line).split(" ", 1) for line in arrays["names"]]
    state = {name: _entry(name, tuple(ast.literal_eval(shape))) for name, shape in names}
    state["attn_module.scale"] = torch.tensor([32**-0.5])
    return state


def _entry(name: str, shape: tuple[int, ...]) -> Tensor:
    rng = np.random.default_rng(zlib.crc32(f"{SEED}:{name}".encode()))
    x = rng.standard_normal(shape, dtype=np.float32)
    as_it_is = any(part in name for part in ("noise", "points_feature", "constant", "query_style_tplane"))
    if len(shape) == 1 and not as_it_is:
        x = (1 if name.endswith("weight") else 0) + np.float32(0.05) * x
    elif len(shape) != 5 and not as_it_is:
        x = x / np.float32(math.sqrt(math.prod(shape[1:])))
    if name.startswith("nerf_mlp.points_querier.point_layers.2."):
        x = x * np.float32(20000)  # or the point field, whose weights are spread over all samples, would not be seen
    return torch.from_numpy(x)


def images() -> Tensor:
    """Two pictures of waves, 512 × 512, not yet upside down."""
    at = torch.arange(512, dtype=torch.float64) / 512
    n = torch.arange(2, dtype=torch.float64)[:, None, None, None]
    c = torch.arange(3, dtype=torch.float64)[:, None, None]
    x, y = at, at[:, None]
    return (0.5 + 0.5 * torch.sin(2 * math.pi * ((3 + c + 2 * n) * x + (2 + n) * y) + c)).float()
