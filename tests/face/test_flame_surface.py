"""UVs, landmarks and regions of FLAME from its companion files, and what stands in for them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from generated_flame import N_VERTS, generate

from gpavatar.face.flame import Flame
from gpavatar.types import InputError

MASKS = ("face", "left_eyeball", "right_eyeball", "lips", "left_ear", "right_ear", "neck", "scalp", "nose")


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return generate()


@pytest.fixture(scope="module")
def model(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("flame") / "model.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def plain(model) -> Flame:
    return Flame.load(model)


def points(count: int, n_faces: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(count)
    bary = random.dirichlet([1, 1, 1], count)
    return random.integers(0, n_faces, count), bary


@pytest.mark.parametrize("form", ("npy", "pkl", "npz"))
def test_68_points_lie_where_the_embedding_says(model, arrays, tmp_path, form):
    face_ids, bary = points(68, len(arrays["f"]))
    path = tmp_path / f"landmark_embedding.{form}"
    if form == "npy":
        beside = {"static_lmk_faces_idx": face_ids[17:], "dynamic_lmk_faces_idx": torch.zeros(79, 17)}
        full = {"full_lmk_faces_idx": face_ids[None], "full_lmk_bary_coords": bary[None]}
        np.save(path, np.array({**beside, **full}, dtype=object))
    elif form == "pkl":
        path.write_bytes(pickle.dumps({"lmk_face_idx": face_ids, "lmk_b_coords": bary}, 2))
    else:
        np.savez(path, lmk_face_idx=face_ids, lmk_b_coords=bary)
    topology = Flame.load(model, path).topology
    corners = arrays["v_template"][arrays["f"][face_ids]]
    expected = torch.from_numpy(np.einsum("pi,pic->pc", bary, corners)).float()
    found = topology.ibug68.on(torch.from_numpy(arrays["v_template"]).float(), topology.faces)
    torch.testing.assert_close(found, expected, atol=3e-8, rtol=0)


def test_mediapipe_points_are_trusted_where_they_are_known(model, arrays, tmp_path, plain):
    face_ids, bary = points(105, len(arrays["f"]))
    indices = np.random.default_rng(0).permutation(478)[:105]
    path = tmp_path / "mediapipe_landmark_embedding.npz"
    np.savez(path, lmk_face_idx=face_ids, lmk_b_coords=bary, landmark_indices=indices)
    topology = Flame.load(model, mediapipe_embedding=path).topology
    assert topology.mediapipe_weights.sum() == 105 and (topology.mediapipe_weights[indices] == 1).all()
    assert (topology.mediapipe.face_ids[indices].numpy() == face_ids).all()
    torch.testing.assert_close(topology.mediapipe.bary[indices], torch.from_numpy(bary).float())
    assert topology.mediapipe.on(plain.template, topology.faces).isfinite().all()
    assert plain.topology.mediapipe_weights.sum() == 0 and len(plain.topology.ibug68.face_ids) == 0


def test_wrong_embeddings_are_refused(model, tmp_path):
    bad = {
        "51_points": {"lmk_face_idx": np.zeros(51, int), "lmk_b_coords": np.ones((51, 3))},
        "other_mesh": {"lmk_face_idx": np.full(68, 10**6), "lmk_b_coords": np.ones((68, 3))},
        "other_keys": {"faces": np.zeros(68, int), "bary": np.ones((68, 3))},
    }
    for name, content in bad.items():
        np.savez(tmp_path / f"{name}.npz", **content)
        with pytest.raises(InputError, match=name):
            Flame.load(model, tmp_path / f"{name}.npz")
    np.savez(tmp_path / "mp.npz", lmk_face_idx=np.zeros(2, int), lmk_b_coords=np.ones((2, 3)))
    with pytest.raises(InputError, match="landmark_indices"):
        Flame.load(model, mediapipe_embedding=tmp_path / "mp.npz")


@pytest.mark.parametrize("form", ("obj", "npz"))
def test_the_uv_layout_of_flame_is_turned_upside_up(model, arrays, tmp_path, form):
    random = np.random.default_rng(1)
    uv, uv_faces = random.random((5118, 2)).round(6), random.integers(0, 5118, arrays["f"].shape)
    path = tmp_path / f"layout.{form}"
    if form == "obj":
        lines = ["# a comment", "v 0 0 0", *(f"vt {u:.6f} {v:.6f}" for u, v in uv)]
        for corners, uv_corners in zip(arrays["f"] + 1, uv_faces + 1, strict=True):
            lines.append("f " + " ".join(f"{a}/{b}/1" for a, b in zip(corners, uv_corners, strict=True)))
        path.write_text("\n".join(lines))
    else:
        np.savez(path, vt=uv, ft=uv_faces)
    topology = Flame.load(model, uv_layout=path).topology
    assert (topology.uv_faces.numpy() == uv_faces).all()
    np.testing.assert_allclose(topology.uv.numpy(), np.stack([uv[:, 0], 1 - uv[:, 1]], -1), atol=1e-7)


def test_wrong_uv_layouts_are_refused(model, tmp_path):
    (tmp_path / "other.obj").write_text("v 0 0 0\nvt 0 0\nf 1/1 1/1 1/1\n")
    (tmp_path / "quads.obj").write_text("v 0 0 0\nf a b c d\n")
    np.savez(tmp_path / "other.npz", vt=np.zeros((3, 2)), ft=np.zeros((1, 3), int))
    for name in ("other.obj", "quads.obj", "other.npz", "missing.obj"):
        with pytest.raises(InputError, match=name):
            Flame.load(model, uv_layout=tmp_path / name)


def eyes_of(flame: Flame) -> torch.Tensor:
    return flame.topology.regions["eyes"]


def test_the_generated_layout_is_an_atlas(plain):
    """Inside the square, charts apart, no triangle turned over or lost but at the very back of the eyeballs."""
    topology = plain.topology
    assert ((topology.uv >= 0) & (topology.uv <= 1)).all()
    corners = topology.uv[topology.uv_faces]
    edges = corners[:, 1:] - corners[:, :1]
    area = (edges[:, 0, 1] * edges[:, 1, 0] - edges[:, 0, 0] * edges[:, 1, 1]) / 2
    eyes = eyes_of(plain)[topology.faces].any(-1)
    behind = eyes & (plain.template[topology.faces, 2].mean(1) < plain.template[eyes_of(plain), 2].mean() - 0.05)
    assert (area[~behind] > 0).all() and behind.sum() < 0.2 * eyes.sum()
    assert 0.72 < area[~eyes].sum() < np.pi / 4
    from_middle = (corners - 0.5).norm(dim=-1)
    assert from_middle[~eyes].max() <= 0.5 + 1e-6 and from_middle[eyes].min() > 0.5 + 0.003


def test_the_generated_layout_is_upright(plain):
    """Right is right, the chin is below the brow, and each pupil is in the middle of its own corner."""
    topology, verts = plain.topology, plain.template
    skin = ~eyes_of(plain) & (verts[:, 2] > 0.1)
    uv = topology.uv[skin]
    assert (((uv[:, 0] - 0.5) * verts[skin, 0]) >= 0).all()
    middle, height = verts[skin, 0].abs() < 0.1, verts[skin, 1]
    assert uv[middle & (height > 0.3), 1].max() < uv[middle & (height < 0.1), 1].min()
    for joint, corner in ((3, [0.9143, 0.0857]), (4, [0.0857, 0.0857])):
        ball = plain.skin_weights[:, joint] > 0.5
        pupil = verts[ball, 2].argmax()
        torch.testing.assert_close(topology.uv[ball][pupil], torch.tensor(corner), atol=3e-3, rtol=0)


def test_masks_become_regions(model, tmp_path):
    random = np.random.default_rng(2)
    masks = {name: random.permutation(N_VERTS)[:200] for name in MASKS}
    (tmp_path / "FLAME_masks.pkl").write_bytes(pickle.dumps(masks, 2))
    regions = Flame.load(model, masks=tmp_path / "FLAME_masks.pkl").topology.regions
    for region, names in {"lips": ["lips"], "ears": ["left_ear", "right_ear"]}.items():
        expected = np.union1d(*[masks[name] for name in names * 2][:2])
        assert (regions[region].nonzero()[:, 0].numpy() == expected).all()
    assert not regions["mouth_interior"].any()
    del masks["lips"]
    (tmp_path / "FLAME_masks.pkl").write_bytes(pickle.dumps(masks, 2))
    with pytest.raises(InputError, match="lips"):
        Flame.load(model, masks=tmp_path / "FLAME_masks.pkl")


def test_guessed_regions_lie_where_they_should(plain):
    regions, verts = plain.topology.regions, plain.template
    assert set(regions) == {"face", "eyes", "lips", "mouth_interior", "ears", "neck", "scalp"}
    assert regions["eyes"].sum() == 2 * 546
    assert (regions["lips"] <= regions["face"]).all() and regions["lips"].any()
    assert verts[regions["lips"], 1].max() < verts[regions["eyes"], 1].min()
    assert verts[regions["neck"], 1].mean() < verts[regions["lips"], 1].mean() < verts[regions["scalp"], 1].mean()
    parts = torch.stack([regions[name] for name in ("face", "eyes", "ears", "neck", "scalp")])
    assert (parts.sum(0) == 1).all()
