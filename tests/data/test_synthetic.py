"""The synthetic people: what they claim to be true of a picture is true of it."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gpavatar.camera import Camera
from gpavatar.data import synthetic
from gpavatar.data.synthetic import SyntheticFrame, SyntheticPerson, render, synthetic_clip
from gpavatar.data.synthetic_motion import random_camera, random_expressions, random_motion
from gpavatar.data.synthetic_noise import fractal_noise
from gpavatar.data.synthetic_strands import (
    VOLUME_CELLS,
    VOLUME_CENTRE,
    cover_strands,
    hair_transmittance,
    hair_volume,
    project_strands,
    visible_strands,
)
from gpavatar.face.raster import to_screen
from gpavatar.types import ARKIT_NAMES, HeadParams

MEASURED = (
    "jawOpen",
    "eyeBlinkLeft",
    "eyeBlinkRight",
    "mouthSmileLeft",
    "mouthSmileRight",
    "browInnerUp",
    "mouthPucker",
)


@pytest.fixture(scope="module")
def bald() -> SyntheticPerson:
    return SyntheticPerson.random(3, style="bald", texture_size=256)


@pytest.fixture(scope="module")
def haired() -> SyntheticPerson:
    return SyntheticPerson.random(4, style="short", texture_size=256)


def camera() -> Camera:
    return Camera.frontal(5.0, 2.2)


def with_weights(person: SyntheticPerson, **weights: float) -> HeadParams:
    expression = torch.zeros(person.head.n_expression)
    for name, weight in weights.items():
        expression[ARKIT_NAMES.index(name)] = weight
    return dataclasses.replace(person.params(), expression=expression)


def landmarks(frame: SyntheticFrame, person: SyntheticPerson) -> torch.Tensor:
    return person.head.topology.mediapipe.on(frame.verts, person.head.faces)


def test_a_seed_is_a_person(haired):
    again = SyntheticPerson.random(4, style="short", texture_size=256)
    other = SyntheticPerson.random(5, style="bald", texture_size=64)
    pictures = [render(person, person.params(), camera(), 64).image for person in (haired, again, other)]
    assert torch.equal(pictures[0], pictures[1])
    assert (pictures[0] - pictures[2]).abs().mean() > 0.05


PICTURE = """
import hashlib
from gpavatar.camera import Camera
from gpavatar.data.synthetic import SyntheticPerson, render
person = SyntheticPerson.random(6, style="buzz", texture_size=64, glasses=1.0)
image = render(person, person.params(), Camera.frontal(5.0, 2.2), 64).image
print(hashlib.sha256(image.numpy().tobytes()).hexdigest())
"""


def test_a_seed_is_the_same_picture_in_another_process():
    person = SyntheticPerson.random(6, style="buzz", texture_size=64, glasses=1.0)
    here = hashlib.sha256(render(person, person.params(), camera(), 64).image.numpy().tobytes()).hexdigest()
    root = Path(__file__).parents[2]
    there = subprocess.run([sys.executable, "-c", PICTURE], cwd=root, capture_output=True, text=True, check=True)
    assert here == there.stdout.strip()


def test_glasses_change_nothing_but_glasses():
    """The same person, as they have a stream of their own. Clear of the eyes; lenses are not in the depth."""
    bare, worn = (SyntheticPerson.random(3, style="bald", texture_size=256, glasses=share) for share in (0.0, 1.0))
    assert bare.glasses is None and worn.glasses is not None
    assert torch.equal(bare.shape, worn.shape) and np.array_equal(bare.head_texture, worn.head_texture)
    a, b = (render(person, person.params(), camera(), 192) for person in (bare, worn))
    marks = camera().project_px(landmarks(a, bare), 192, 192)
    changed = (a.image - b.image).abs().amax(0) > 0.02
    rows, columns = (where.float() for where in torch.where(changed))
    assert changed.float().mean() > 0.005
    assert rows.min() > marks[10, 1] and rows.max() < marks[152, 1]  # frame, lenses, and their shadow
    # Depth in the pupil is the eye's, not the lens's; the frame stands before the face, and its lenses before the eye.
    pupil_x, pupil_y = marks[468].long()
    assert b.depth[0, pupil_y, pupil_x] == a.depth[0, pupil_y, pupil_x]
    frame = (a.depth - b.depth) > 0.02
    assert frame.float().mean() > 0.001 and (b.depth <= a.depth + 0.05)[a.alpha == 1].all()
    eye_z = float(landmarks(a, bare)[468, 2])
    assert eye_z + 0.03 < worn.glasses.lens_verts[:, 2].min() + 0.06 < eye_z + 0.25


def test_only_strands_that_nobody_sees_are_left_out(haired, monkeypatch):
    """The quick twin draws about half of the strands; the picture is that of all of them."""
    frame = render(haired, haired.params(), camera(), 96)
    counts = []

    def every(screen: np.ndarray, depth: np.ndarray) -> np.ndarray:
        counts.append((len(screen), len(visible_strands(screen, depth))))
        return np.arange(len(screen))

    monkeypatch.setattr(synthetic, "visible_strands", every)
    slow = render(haired, haired.params(), camera(), 96)
    assert counts[0][1] < 0.7 * counts[0][0]
    assert ((frame.image - slow.image).abs() > 0.02).any(0).float().mean() < 1e-3  # measured 0 to 3e-5
    assert torch.equal(frame.depth > 0, slow.depth > 0)


def test_strands_that_are_lit_late_look_as_if_all_were_lit():
    """Neither which strands are lit, nor the order in which they are drawn, is seen in the picture."""
    rng = np.random.default_rng(0)
    screen = np.concatenate([rng.uniform(0, 40, (300, 6, 2)), rng.uniform(1, 2, (300, 6, 1))], -1).astype(np.float32)
    shaded, width = rng.random((300, 6, 3), np.float32), rng.uniform(0.3, 2.5, 300).astype(np.float32)
    pictures, shown = [], []
    for order in (np.arange(300), np.arange(300)[::-1].copy()):
        for all_lit in (False, True):
            depth = np.full((40, 40), 1.7, np.float32)
            cover = cover_strands(screen[order], width[order], order, depth)
            strands = np.arange(300) if all_lit else cover.strands()
            pictures.append(np.zeros((40, 40, 3), np.float32))
            cover.paint(strands, shaded[order][strands], pictures[-1])
            shown.append(len(strands))
        assert (depth < 1.7).mean() > 0.9
    assert shown[0] == shown[2] < 290
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture, pictures[0])


def test_strands_are_projected_as_meshes_are():
    points = np.random.default_rng(0).normal(0, 0.5, (20, 7, 3)).astype(np.float32)
    expected = to_screen(torch.from_numpy(points).reshape(-1, 3), camera(), 100, 100).reshape(20, 7, 3)
    torch.testing.assert_close(torch.from_numpy(project_strands(points, camera(), 100)), expected, atol=1e-4, rtol=1e-5)


def test_depth_and_alpha_are_those_of_the_mesh(bald):
    frame = render(bald, bald.params(), camera(), 96)
    tip = landmarks(frame, bald)[[1, 151, 152]]  # nose, forehead, chin: nothing stands before them
    x, y = camera().project_px(tip, 96, 96).long().unbind(-1)
    torch.testing.assert_close(frame.depth[0, y, x], camera().to_view(tip)[:, 2], atol=0.02, rtol=0)  # measured 0.008
    assert (frame.alpha[0, y, x] == 1).all()
    assert frame.alpha[:, :4].max() == 0 and (frame.depth[frame.alpha == 0] == 0).all()
    assert frame.image.min() >= 0 and frame.image.max() <= 1


def test_hair_is_where_hair_grows(bald, haired):
    assert render(bald, bald.params(), camera(), 64).hair.max() == 0
    frame = render(haired, haired.params(), camera(), 64)
    marks = camera().project_px(landmarks(frame, haired), 64, 64).long()
    top, nose = marks[10], marks[1]
    assert frame.hair[0, : top[1], nose[0]].max() == 1
    assert frame.hair[0, nose[1] - 3 : nose[1] + 3, nose[0] - 3 : nose[0] + 3].max() == 0


def test_expressions_change_what_they_should(bald):
    """An open mouth is dark inside; a closed lid covers the eye; the forehead does not care."""
    neutral = render(bald, bald.params(), camera(), 192)
    opened = render(bald, with_weights(bald, jawOpen=1.0), camera(), 192)
    x, y = camera().project_px(landmarks(opened, bald)[[13, 14]], 192, 192).long().unbind(-1)
    mouth = opened.image[:, y[0] + 1 : y[1], x[0]].mean(0)
    lips = neutral.image[:, y[0] - 2 : y[0] + 3, x[0]].mean()
    assert len(mouth) > 8 and mouth.min() < 0.5 * lips  # measured 0.3

    blinked = render(bald, with_weights(bald, eyeBlinkLeft=1.0), camera(), 192)
    x, y = camera().project_px(landmarks(neutral, bald)[[386, 374]].mean(0, keepdim=True), 192, 192)[0].long()
    eye = (slice(None), slice(y - 2, y + 3), slice(x - 2, x + 3))
    assert (blinked.image[eye] - neutral.image[eye]).abs().mean() > 0.08  # measured 0.18
    x, y = camera().project_px(landmarks(neutral, bald), 192, 192)[151].long()
    for frame in (opened, blinked):
        torch.testing.assert_close(frame.image[:, y, x], neutral.image[:, y, x], atol=0.02, rtol=0)


def test_light_and_body_stay_when_the_head_turns(haired):
    """In the still camera's picture the body does not move, and nor does the skull in head space."""
    rng = np.random.default_rng(0)
    still = random_camera(rng, haired)
    frames = list(random_motion(rng, haired, still, 12, 30.0))
    collar, skull = haired.head.collar, haired.head.topology.mediapipe.face_ids[10]
    posed = [haired.head.verts(params) for params, _ in frames]
    shoulders = torch.stack([seen.to_view(verts[collar]) for verts, (_, seen) in zip(posed, frames, strict=True)])
    shape = shoulders - shoulders.mean(1, keepdim=True)
    torch.testing.assert_close(shape, shape[:1].expand_as(shape), atol=1e-5, rtol=0)
    brow_less = torch.stack([verts[haired.head.faces[skull, 0]] for verts in posed])
    assert (brow_less - brow_less[0]).abs().max() < 0.02  # the forehead's skin follows the brows a little
    yaw = torch.stack([params.neck_pose[1] for params, _ in frames]).rad2deg()
    assert 24 < yaw.abs().max() <= 30.01 and yaw.min() < -15 and yaw.max() > 15


@pytest.mark.parametrize("seed", range(4))
def test_expressions_are_smooth_and_all_measured_ones_occur(seed):
    weights = random_expressions(np.random.default_rng(seed), ARKIT_NAMES, 30)
    assert weights.min() >= 0 and weights.max() <= 1
    assert all(weights[:, ARKIT_NAMES.index(name)].max() > 0.55 for name in MEASURED)
    assert np.abs(np.diff(weights, axis=0)).max() < 0.75  # a blink closes in two frames


def test_clip_frames_know_their_truth(haired):
    frames = list(synthetic_clip(9, num_frames=2, size_px=48, person=haired))
    assert len(frames) == 2
    for frame in frames:
        torch.testing.assert_close(frame.verts, haired.head.verts(frame.params))
        torch.testing.assert_close(render(haired, frame.params, frame.camera, 48).image, frame.image)


def test_detector_finds_the_face_and_its_expression(haired):
    from gpavatar.pretrained.detector import FaceDetector

    detector = FaceDetector(max_faces=1)
    score = {}
    for name in ("neutral", "jawOpen", "eyeBlinkLeft", "mouthSmileLeft"):
        params = haired.params() if name == "neutral" else with_weights(haired, **{name: 1.0})
        frame = render(haired, params, camera(), 256)
        (face,) = detector.detect((frame.image.permute(1, 2, 0) * 255).round().byte().numpy())
        score[name] = face.blendshapes
        truth = camera().project_px(landmarks(frame, haired), 256, 256)
        eyes_px = (truth[33] - truth[263]).norm()
        assert (face.landmarks_px - truth).norm(dim=-1).mean() < 0.08 * eyes_px  # measured 0.03 to 0.05
    for name in ("jawOpen", "eyeBlinkLeft", "mouthSmileLeft"):
        assert score[name][ARKIT_NAMES.index(name)] > score["neutral"][ARKIT_NAMES.index(name)] + 0.3
    detector.close()


def test_light_through_hair_is_beer_lambert():
    """A block of evenly spread strands lets exp(−extinction × length) through, air lets everything through."""
    rng = np.random.default_rng(0)
    low, high = VOLUME_CENTRE - [0.5, 0.2, 0.5], VOLUME_CENTRE + [0.5, 0.2, 0.5]
    starts = rng.uniform(low, high, (60000, 3))
    strands = np.stack([starts, starts + [0.01, 0, 0]], 1)
    volume = hair_volume(strands, 0.004)
    extinction = 60000 * 0.01 * 0.004 / (1.0 * 0.4 * 1.0)
    below = VOLUME_CENTRE + [0, -0.4, 0] + rng.uniform(-0.2, 0.2, (200, 3)) * [1, 0, 1]
    share = hair_transmittance(volume, below, np.array([0.0, 1.0, 0.0]))
    assert abs(share.mean() - np.exp(-extinction * 0.4)) < 0.02  # measured 0.003
    assert hair_transmittance(volume, below, np.array([0.0, -1.0, 0.0])).min() == 1
    assert volume.shape == (VOLUME_CELLS,) * 3


def test_noise_is_smooth_centred_and_repeatable():
    line = np.stack([np.linspace(0, 40, 20001), np.full(20001, 0.3), np.full(20001, 0.7)], -1)
    values = fractal_noise(line, 1.0, 1, seed=5)
    assert np.abs(np.diff(values)).max() < 0.01  # slope below 5 per feature size
    assert abs(values.mean()) < 0.1 and 0.15 < values.std() < 0.4
    assert np.array_equal(values, fractal_noise(line, 1.0, 1, seed=5))
    assert np.abs(values - fractal_noise(line, 1.0, 1, seed=6)).mean() > 0.1
