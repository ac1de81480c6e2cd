"""What goes with FLAME's mesh: UVs, landmarks and regions, from FLAME's own files or, without them, by geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gpavatar.face.morphable import HeadTopology, SurfacePoints
from gpavatar.pretrained.restricted_pickle import read_arrays
from gpavatar.types import InputError

LEFT_EYE, RIGHT_EYE = 3, 4
MASKS = {
    "face": ("face",),
    "eyes": ("left_eyeball", "right_eyeball"),
    "lips": ("lips",),
    "ears": ("left_ear", "right_ear"),
    "neck": ("neck",),
    "scalp": ("scalp",),
}
CORNER = 0.0857  # radius of the discs that fit between a square's corners and the circle in it
GAP = 0.004  # of the generated layout, between eyeballs and skin


def build_topology(
    *,
    template: Float[Tensor, "vert 3"],
    faces: Int[Tensor, "face 3"],
    joints: Float[Tensor, "5 3"],
    skin_weights: Float[Tensor, "vert 5"],
    landmark_embedding: str | Path | None,
    mediapipe_embedding: str | Path | None,
    uv_layout: str | Path | None,
    masks: str | Path | None,
) -> HeadTopology:
    """Collect FLAME's topology from the given files; see `Flame.load` for what stands in for a missing one."""
    if uv_layout:
        uv, uv_faces = load_uv(Path(uv_layout), faces)
    else:
        uv, uv_faces = disc_uv(template, joints, skin_weights), faces
    mediapipe, mediapipe_weights = _mediapipe(mediapipe_embedding, len(faces))
    return HeadTopology(
        faces=faces,
        uv=uv,
        uv_faces=uv_faces,
        mediapipe=mediapipe,
        ibug68=_ibug68(landmark_embedding, len(faces)),
        mediapipe_weights=mediapipe_weights,
        regions=load_regions(Path(masks), len(template)) if masks else guess_regions(template, joints, skin_weights),
    )


def _points(path: Path, arrays: dict[str, np.ndarray], keys: tuple[str, str], n_faces: int) -> SurfacePoints:
    if not set(keys) <= arrays.keys():
        raise InputError(f"{path}: has no `{keys[0]}` and `{keys[1]}`; give an embedding from FLAME's site")
    face_ids = torch.from_numpy(arrays[keys[0]].reshape(-1).astype(np.int64))
    bary = torch.from_numpy(arrays[keys[1]].reshape(-1, 3)).float()
    if len(face_ids) != len(bary) or not ((face_ids >= 0) & (face_ids < n_faces)).all():
        raise InputError(f"{path}: points do not lie on this mesh; give the embedding made for FLAME")
    return SurfacePoints(face_ids, bary / bary.sum(-1, keepdim=True))


def _ibug68(path: str | Path | None, n_faces: int) -> SurfacePoints:
    if path is None:
        return SurfacePoints(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3))
    path = Path(path)
    full, plain = ("full_lmk_faces_idx", "full_lmk_bary_coords"), ("lmk_face_idx", "lmk_b_coords")
    arrays = read_arrays(path, full + plain)
    points = _points(path, arrays, full if full[0] in arrays else plain, n_faces)
    if len(points.face_ids) != 68:
        raise InputError(
            f"{path}: has {len(points.face_ids)} points, not 68; give landmark_embedding.npy (with full_lmk_faces_idx)"
        )
    return points


def _mediapipe(path: str | Path | None, n_faces: int) -> tuple[SurfacePoints, Float[Tensor, " 478"]]:
    """Unknown points lie on some vertex, with weight 0, so that a weighted fit stays finite."""
    face_ids, bary, weights = torch.zeros(478, dtype=torch.int64), torch.eye(3)[0].repeat(478, 1), torch.zeros(478)
    if path is not None:
        path, keys = Path(path), ("lmk_face_idx", "lmk_b_coords", "landmark_indices")
        arrays = read_arrays(path, keys)
        known = _points(path, arrays, keys[:2], n_faces)
        indices = arrays.get("landmark_indices", np.zeros(0)).astype(np.int64)
        if indices.shape != known.face_ids.shape or indices.min() < 0 or indices.max() >= 478:
            raise InputError(f"{path}: `landmark_indices` do not name MediaPipe's points; give FLAME's own file")
        face_ids[indices], bary[indices], weights[indices] = known.face_ids, known.bary, 1.0
    return SurfacePoints(face_ids, bary), weights


def load_uv(path: Path, faces: Int[Tensor, "face 3"]) -> tuple[Float[Tensor, "uv_vert 2"], Int[Tensor, "face 3"]]:
    """FLAME's UV layout from `head_template.obj` or `FLAME_texture.npz` (vt, ft), upside up."""
    if path.suffix.lower() == ".obj":
        uv, corners = _read_obj(path)
        if corners.shape[:2] != faces.shape or not np.array_equal(corners[..., 0], faces.numpy()):
            raise InputError(f"{path}: is not the mesh of the model; give FLAME's head_template.obj")
        uv_faces = corners[..., 1]
    else:
        arrays = read_arrays(path, ("vt", "ft"))
        if arrays.keys() != {"vt", "ft"} or arrays["vt"].ndim != 2 or arrays["ft"].shape != tuple(faces.shape):
            raise InputError(f"{path}: has no UV layout (vt, ft) of FLAME; give FLAME_texture.npz or head_template.obj")
        uv, uv_faces = arrays["vt"], arrays["ft"]
    if uv_faces.min() < 0 or uv_faces.max() >= len(uv):
        raise InputError(f"{path}: faces name UVs that are not there; download the file again")
    uv = torch.from_numpy(np.asarray(uv, np.float32))
    return torch.stack([uv[:, 0], 1 - uv[:, 1]], -1).clamp(0, 1), torch.from_numpy(np.asarray(uv_faces, np.int64))


def _read_obj(path: Path) -> tuple[Float[np.ndarray, "uv_vert 2"], Int[np.ndarray, "face 3 2"]]:
    try:
        lines = [line.split() for line in path.read_text("latin1").splitlines()]
        uv = np.array([words[1:3] for words in lines if words[:1] == ["vt"]], np.float64)
        corners = [[corner.split("/")[:2] for corner in words[1:4]] for words in lines if words[:1] == ["f"]]
        return uv.reshape(-1, 2), np.array(corners, np.int64).reshape(-1, 3, 2) - 1
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as a triangle mesh with UVs; give FLAME's head_template.obj"
        ) from error


def disc_uv(
    template: Float[Tensor, "vert 3"], joints: Float[Tensor, "5 3"], skin_weights: Float[Tensor, "vert 5"]
) -> Float[Tensor, "vert 2"]:
    """A layout without seams: the skin as a disc about the crown, out to the open neck; eyeballs in the upper corners.

    Azimuthal equidistant projections, radius ∝ angle to the pole: of the skin seen from the middle of the skull with
    the pole upwards and the face at the bottom, of each eyeball with the pole at the pupil. Folds (inner lips,
    nostrils, behind the ears) overlap.
    """
    skull = torch.stack([template.new_tensor(0.0), joints[LEFT_EYE:, 1].mean(), template[:, 2].median()])
    x, y, z = (template - skull).unbind(-1)
    uv = _disc(torch.stack([x, z, y], -1), skin_weights[:, LEFT_EYE:].amax(-1) < 0.5) * 0.5 + 0.5
    for eye, corner in ((RIGHT_EYE, CORNER), (LEFT_EYE, 1 - CORNER)):
        x, y, z = (template - joints[eye]).unbind(-1)
        chosen = skin_weights[:, eye] > 0.5
        disc = _disc(torch.stack([x, -y, z], -1), chosen) * (CORNER - GAP) + template.new_tensor([corner, CORNER])
        uv = torch.where(chosen[:, None], disc, uv)
    return uv


def _disc(offset: Float[Tensor, "vert 3"], chosen: Bool[Tensor, " vert"]) -> Float[Tensor, "vert 2"]:
    """The directions of `offset` on a disc about its third axis, which the chosen vertices fill to radius 1."""
    angle = torch.atan2(offset[:, :2].norm(dim=-1), offset[:, 2])
    return torch.nn.functional.normalize(offset[:, :2], dim=-1) * (angle / angle[chosen].amax())[:, None]


def load_regions(path: Path, n_verts: int) -> dict[str, Bool[Tensor, " vert"]]:
    """Regions from `FLAME_masks.pkl`. FLAME has no inside of the mouth: that region is empty."""
    arrays = read_arrays(path, tuple(name for names in MASKS.values() for name in names))
    regions = {"mouth_interior": torch.zeros(n_verts, dtype=torch.bool)}
    for region, names in MASKS.items():
        regions[region] = torch.zeros(n_verts, dtype=torch.bool)
        for name in names:
            if name not in arrays:
                raise InputError(f"{path}: has no mask `{name}`; give FLAME_masks.pkl from FLAME's site")
            indices = arrays[name].reshape(-1).astype(np.int64)
            if indices.min(initial=0) < 0 or indices.max(initial=0) >= n_verts:
                raise InputError(f"{path}: mask `{name}` names vertices that are not there; give FLAME_masks.pkl")
            regions[region][torch.from_numpy(indices)] = True
    return regions


def guess_regions(
    template: Float[Tensor, "vert 3"], joints: Float[Tensor, "5 3"], skin_weights: Float[Tensor, "vert 5"]
) -> dict[str, Bool[Tensor, " vert"]]:
    """Regions by skin weights (eyeballs, neck) and boxes in eye distances from the middle of the eyes (the rest).

    Proportions of a mean adult face; edges are off by about a centimetre. `FLAME_masks.pkl` is the better choice.
    """
    middle = joints[LEFT_EYE:].mean(0)
    x, y, z = ((template - middle) / (joints[LEFT_EYE] - joints[RIGHT_EYE]).norm()).unbind(-1)
    eyes = skin_weights[:, LEFT_EYE:].amax(-1) > 0.5
    neck = ((skin_weights[:, 0] > 0.5) | (y < -2.2)) & ~eyes
    ears = (x.abs() > 1.12) & (y > -1.2) & (y < 0.5) & (z < -0.3) & ~neck
    face = (x.abs() < 1.15) & (y > -2.1) & (y < 1.0) & (z > -0.6) & ~(eyes | neck | ears)
    lips = face & (x.abs() < 0.45) & (y > -1.35) & (y < -0.8) & (z > 0.1)
    return {
        "face": face,
        "eyes": eyes,
        "lips": lips,
        "mouth_interior": torch.zeros_like(eyes),
        "ears": ears,
        "neck": neck,
        "scalp": ~(eyes | neck | ears | face),
    }
