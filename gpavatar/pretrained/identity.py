"""Who somebody is: embeddings of aligned faces whose angle tells people apart. Networks run in OpenCV."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gpavatar import assets

SIDE_PX = 112
# Where the networks were trained to see the eyes' centres, the nose's tip and the mouth's corners (in the picture from
# left to right), in px of a 112 x 112 picture: the alignment that ArcFace made usual.
TEMPLATE_PX = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
# The same five from MediaPipe's points. An eye's centre is that of its corners: it does not move with the gaze.
EYE_CORNERS = ((33, 133), (362, 263))
NOSE_TIP, MOUTH_CORNERS = 4, (61, 291)


@dataclass(frozen=True)
class Network:
    """An embedding network: picture = (RGB in [0, 255] − offset) / divisor -> features."""

    label: str  # for a table's header
    asset: str
    num_features: int
    offset: float
    divisor: float


NETWORKS = {
    "arcface": Network("ArcFace MobileFaceNet (WebFace600K, 512 features)", "arcface_mobile", 512, 127.5, 127.5),
    "sface": Network("SFace (MobileFaceNet, 128 features)", "sface", 128, 0.0, 1.0),
}


class Identity:
    """Embeds faces; the same person's embeddings point the same way.

    `network` is "arcface" (what the field reports as CSIM; non-commercial) or "sface" (MIT). AssetError where the
    weights cannot be had.
    """

    def __init__(self, network: str = "arcface"):
        self.network = NETWORKS[network]
        self._net = cv2.dnn.readNetFromONNX(str(assets.fetch(self.network.asset)))

    def embed(
        self, images_u8: list[UInt8[np.ndarray, "_ _ 3"]], points_px: Float[Tensor, "image 5 2"]
    ) -> Float[Tensor, "image feature"]:
        """Embeddings of norm 1; NaN for the pictures whose points are NaN.

        `points_px`: centre of the right eye, of the left eye, tip of the nose, right and left corner of the mouth, as
        `five_points_px` gives them.
        """
        features = torch.full((len(images_u8), self.network.num_features), torch.nan)
        for index, (image_u8, points) in enumerate(zip(images_u8, points_px, strict=True)):
            if points.isfinite().all():
                features[index] = self._embed_one(aligned_face(image_u8, points))
        return features

    def _embed_one(self, face_u8: np.ndarray) -> Float[Tensor, " feature"]:
        picture = (face_u8.astype(np.float32) - self.network.offset) / self.network.divisor
        self._net.setInput(np.ascontiguousarray(picture.transpose(2, 0, 1)[None]))
        return torch.nn.functional.normalize(torch.from_numpy(self._net.forward()[0].copy()), dim=0)


def five_points_px(landmarks_px: Float[Tensor, "*batch 478 2"]) -> Float[Tensor, "*batch 5 2"]:
    """The five points of the alignment from MediaPipe's 478."""
    eyes = landmarks_px[..., list(EYE_CORNERS), :].mean(-2)
    return torch.cat([eyes, landmarks_px[..., [NOSE_TIP, *MOUTH_CORNERS], :]], dim=-2)


def aligned_face(
    image_u8: UInt8[np.ndarray, "_ _ 3"], points_px: Float[Tensor, "5 2"]
) -> UInt8[np.ndarray, "112 112 3"]:
    """The picture turned, scaled and moved so that the points come to lie on the template; black outside."""
    matrix = similarity(points_px.double().numpy(), TEMPLATE_PX)
    # our pixel centres lie at halves, OpenCV's at integers
    matrix[:, 2] += 0.5 * (matrix[:, 0] + matrix[:, 1]) - 0.5
    return cv2.warpAffine(image_u8, matrix, (SIDE_PX, SIDE_PX), flags=cv2.INTER_LINEAR)


def similarity(source: Float[np.ndarray, "point 2"], target: Float[np.ndarray, "point 2"]) -> Float[np.ndarray, "2 3"]:
    """The turning, scaling and moving that takes `source` to `target` with the least squared error.

    As complex numbers z -> a z + b: a = Σ conj(z − z̄)(w − w̄) / Σ|z − z̄|², b = w̄ − a z̄.
    """
    z, w = source @ [1, 1j], target @ [1, 1j]
    centred = z - z.mean()
    a = (centred.conj() @ (w - w.mean())) / (centred.conj() @ centred).real
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
