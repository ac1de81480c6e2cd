"""From pictures to tracked frames: with the open head on a real photo, and with a generated head on exact motion."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from gpavatar.camera import rotation_angle_deg
from gpavatar.config import run_program
from gpavatar.face.open_head import OpenHead
from gpavatar.media.image import read_image, resize_u8
from gpavatar.media.video import VideoFrame
from gpavatar.media.writer import open_writer
from gpavatar.pretrained.detector import FaceDetector
from gpavatar.track import track
from gpavatar.tracking.track_file import load_track
from gpavatar.tracking.tracker import FACE_DISTANCE, Tracker, TrackerConfig, as_track, track_clip
from gpavatar.types import FaceStatus, InputError, TrackedFrame
from tests.generated_head import GeneratedHead, exact_detection, facing_camera

FPS, SIDE_PX = 25.0, 512
TRACKED, INTERPOLATED, MISSING = FaceStatus.TRACKED, FaceStatus.INTERPOLATED, FaceStatus.MISSING


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


@pytest.fixture(scope="module")
def tracker(detector) -> Tracker:
    return Tracker(OpenHead.load(), detector=detector)


@pytest.fixture(scope="module")
def picture(photo) -> np.ndarray:
    return read_image(photo)


def weight(frame: TrackedFrame, name: str) -> float:
    return float(frame.params.expression[OpenHead.load().expression_names.index(name)])


def reprojection(frame: TrackedFrame, width_px: int, height_px: int) -> float:
    """Median distance of the head's landmarks from the detected ones, in distances of the outer eye corners."""
    head = OpenHead.load()
    points = head.topology.mediapipe.on(head.verts(frame.params), head.faces)
    error = (frame.camera.project_px(points, width_px, height_px) - frame.landmarks_px).norm(dim=-1).median()
    return float(error / (frame.landmarks_px[33] - frame.landmarks_px[263]).norm())


def test_the_astronaut(tracker, picture) -> None:
    frame = tracker.track_image(picture)
    assert frame.status == TRACKED
    assert reprojection(frame, 512, 512) < 0.05  # 0.026: the detector's known errors are not followed
    assert weight(frame, "mouthSmileLeft") > 0.4 and weight(frame, "mouthSmileRight") > 0.4
    assert weight(frame, "eyeBlinkLeft") < 0.3
    assert float(frame.camera.w2c[2, 3]) == pytest.approx(FACE_DISTANCE, rel=0.15)
    assert not frame.params.neck_pose.any() and not frame.params.eye_pose.any()


def test_the_same_photo_in_another_format_is_the_same_person(tracker, picture) -> None:
    """Larger, in a wide frame, grey: the camera differs, the head hardly."""
    wide = np.full((1200, 2000, 3), 90, np.uint8)
    wide[50:1150, 800:1900] = resize_u8(picture, 1100, 1100)
    grey = np.repeat(picture.mean(-1, keepdims=True).astype(np.uint8), 3, -1)
    plain, *others = (tracker.track_image(image) for image in (picture, wide, grey))
    head = OpenHead.load()
    for other, shape in zip(others, (wide.shape, grey.shape), strict=True):
        assert reprojection(other, shape[1], shape[0]) < 0.05
        apart = (head.verts(other.params) - head.verts(plain.params)).norm(dim=-1)
        assert float(apart[head.topology.regions["face"]].mean()) * 200 < 3.0  # mm


def test_a_mirrored_photo_is_the_mirrored_head(tracker, picture) -> None:
    plain, mirrored = (tracker.track_image(image) for image in (picture, np.ascontiguousarray(picture[:, ::-1])))
    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    assert rotation_angle_deg(flip @ mirrored.camera.w2c[:3, :3] @ flip, plain.camera.w2c[:3, :3]) < 3
    assert weight(plain, "mouthSmileLeft") == pytest.approx(weight(mirrored, "mouthSmileRight"), abs=0.15)


def test_pictures_of_one_person_share_a_shape(tracker, picture) -> None:
    crop = np.ascontiguousarray(picture[:300, 50:400])
    first, second = tracker.track_images([picture, crop])
    assert torch.equal(first.params.shape, second.params.shape)
    assert rotation_angle_deg(first.camera.w2c[:3, :3], second.camera.w2c[:3, :3]) < 15  # its middle is not the photo's


def test_the_focal_length_asked_for_is_taken(detector, picture) -> None:
    frame = Tracker(OpenHead.load(), TrackerConfig(focal=3.0), detector).track_image(picture)
    assert frame.camera.intrinsics.tolist() == [3.0, 3.0, 0.5, 0.5]
    assert reprojection(frame, 512, 512) < 0.05


def test_no_face_is_one_line_that_names_the_input(tracker) -> None:
    with pytest.raises(InputError, match=r"^me\.jpg: no face found") as caught:
        tracker.track_image(np.full((64, 64, 3), 100, np.uint8), "me.jpg")
    assert "\n" not in str(caught.value)


def test_a_face_that_is_not_there_is_named(detector, picture) -> None:
    with pytest.raises(InputError, match="no more than 1"):
        Tracker(OpenHead.load(), TrackerConfig(face=2), detector).track_image(picture)


class ExactDetector(FaceDetector):
    """Finds the generated head in frame i (drawn as grey value i) where it is, exactly; None where it is hidden."""

    def __init__(self, faces: list) -> None:
        self.faces = faces

    def detect(self, image_u8):
        found = self.faces[int(image_u8[0, 0, 0]) + 256 * int(image_u8[0, 0, 1])]
        return [] if found is None else [found]

    def detect_next(self, image_u8, window=None):
        return self.detect(image_u8)

    def reset(self) -> None:
        """Nothing is kept."""


HEAD = GeneratedHead()
SHAPE = torch.randn(20, generator=torch.Generator().manual_seed(3)) * 0.5


def motion(index: int) -> tuple[torch.Tensor, object]:
    """A nodding, shaking head that blinks, smiles and speaks."""
    time_s = index / FPS
    expression = torch.zeros(52)
    expression[8:10] = float(np.exp(-(((time_s % 1.6) - 0.8) ** 2) / 0.006))  # 130 ms
    expression[24] = 0.3 + 0.3 * np.sin(7 * time_s)
    expression[43:45] = 0.4 + 0.4 * np.sin(1.5 * time_s)
    turn = tuple(float(size * np.sin(rate * time_s)) for size, rate in ((0.1, 2), (0.35, 1.3), (0.05, 1)))
    return expression, facing_camera(turn, (float(0.2 * np.sin(time_s)), 0.0, 5.0), 2.0)


def scene(number: int, hidden: tuple[int, ...] = ()) -> tuple[ExactDetector, list[VideoFrame], list]:
    truth = [motion(index) for index in range(number)]
    faces = [
        None if index in hidden else exact_detection(HEAD, SHAPE, expression, camera)
        for index, (expression, camera) in enumerate(truth)
    ]
    frames = []
    for index in range(number):
        image = np.full((SIDE_PX, SIDE_PX, 3), 100, np.uint8)
        image[0, 0, :2] = index % 256, index // 256
        frames.append(VideoFrame(index, index / FPS, image))
    return ExactDetector(faces), frames, truth


def tracked(mode: str, number: int = 100, hidden: tuple[int, ...] = (), **options) -> tuple[list[TrackedFrame], list]:
    detector, frames, truth = scene(number, hidden)
    config = TrackerConfig(mode=mode, focal=2.0, **options)
    return list(Tracker(HEAD, config, detector).stream(iter(frames))), truth


def turn_errors_deg(frames: list[TrackedFrame], truth: list) -> np.ndarray:
    pairs = zip(frames, truth, strict=True)
    return np.array([float(rotation_angle_deg(a.camera.c2w[:3, :3], b[1].c2w[:3, :3])) for a, b in pairs])


@pytest.mark.parametrize(("mode", "bound_deg"), [("offline", 1.0), ("causal", 2.5)])
def test_exact_motion_is_followed(mode, bound_deg) -> None:
    frames, truth = tracked(mode)
    assert [one.index for one in frames] == list(range(100))
    assert {one.status for one in frames} == {TRACKED}
    assert turn_errors_deg(frames, truth)[20:].max() < bound_deg
    for index in (8, 24, 43):
        got = [float(one.params.expression[index]) for one in frames[20:]]
        want = [float(expression[index]) for expression, _ in truth[20:]]
        assert np.corrcoef(got, want)[0, 1] > 0.95


def test_offline_and_causal_agree() -> None:
    """Within 2.5 degrees, 0.03 units across, and 0.12 of a weight on average: what One-Euro lags behind."""
    (offline, _), (causal, _) = tracked("offline"), tracked("causal")
    settled = slice(25, None)
    turns = [
        rotation_angle_deg(a.camera.c2w[:3, :3], b.camera.c2w[:3, :3]) for a, b in zip(offline, causal, strict=True)
    ]
    assert max(turns[settled]) < 2.5
    across = [(a.camera.w2c - b.camera.w2c)[:2, 3].abs().max() for a, b in zip(offline, causal, strict=True)]
    assert max(across[settled]) < 0.03
    weights = [
        (a.params.expression - b.params.expression)[[8, 24, 43]].abs().mean()
        for a, b in zip(offline, causal, strict=True)
    ]
    assert np.mean(weights[settled]) < 0.12


def test_there_is_one_shape_offline_and_a_settling_one_when_causal() -> None:
    offline, _ = tracked("offline", 60)
    assert all(torch.equal(one.params.shape, offline[0].params.shape) for one in offline)
    causal, _ = tracked("causal", 70, lookahead_s=1.0)
    steps = [float((a.params.shape - b.params.shape).norm()) for a, b in zip(causal, causal[1:], strict=False)]
    assert max(steps[55:]) == 0 < max(steps[:30])
    assert (causal[-1].params.shape - offline[0].params.shape).norm() < 0.5 * SHAPE.norm()


@pytest.mark.parametrize("mode", ["offline", "causal"])
def test_hidden_frames_are_never_called_tracked(mode) -> None:
    hidden = (0, 1, *range(30, 36), *range(60, 80), 99)
    frames, truth = tracked(mode, hidden=hidden)
    assert all((one.status == TRACKED) == (index not in hidden) for index, one in enumerate(frames))
    assert all(torch.isnan(frames[index].landmarks_px).all() for index in hidden)
    assert all(frames[index].status == INTERPOLATED for index in range(30, 36))
    assert frames[0].status == MISSING and frames[78].status == MISSING
    assert all(one.camera.c2w.isfinite().all() and one.params.expression.isfinite().all() for one in frames)
    if mode == "offline":
        assert turn_errors_deg(frames[30:36], truth[30:36]).max() < 2


class Feed:
    """Frames one by one, and how many were asked for."""

    def __init__(self, frames):
        self.frames, self.given = frames, 0

    def __iter__(self):
        for frame in self.frames:
            self.given += 1
            yield frame


def test_causal_answers_each_frame_before_it_reads_the_next() -> None:
    detector, frames, _ = scene(20)
    feed = Feed(frames)
    for answered, _ in enumerate(Tracker(HEAD, TrackerConfig(mode="causal"), detector).stream(feed), 1):
        assert feed.given == answered


def test_offline_reads_ahead_no_further_than_it_says() -> None:
    detector, frames, _ = scene(120)
    feed = Feed(frames)
    ahead = []
    for answered, _ in enumerate(Tracker(HEAD, TrackerConfig(lookahead_s=1.0), detector).stream(feed), 1):
        ahead.append(feed.given - answered)
    assert FPS <= ahead[0] <= FPS + 12 and max(ahead) <= FPS + 12


@pytest.mark.parametrize("mode", ["offline", "causal"])
def test_a_clip_without_a_face_ends_with_one_line(mode) -> None:
    detector, frames, _ = scene(30, hidden=tuple(range(30)))
    stream = Tracker(HEAD, TrackerConfig(mode=mode), detector).stream(iter(frames), "clip.mp4")
    got = []
    with pytest.raises(InputError, match=r"^clip\.mp4: no face found in any of the 30 frames"):
        got.extend(stream)
    assert len(got) == 30 and {one.status for one in got} <= {MISSING}


def test_a_track_is_its_frames() -> None:
    frames, _ = tracked("offline", 30, hidden=(10,))
    track = as_track(frames, SIDE_PX, SIDE_PX, HEAD)
    for index in (0, 10, 29):
        one = track.frame(index)
        assert one.status == frames[index].status and one.time_s == frames[index].time_s
        assert torch.equal(one.camera.c2w, frames[index].camera.c2w)
        assert torch.equal(one.params.expression, frames[index].params.expression)
    assert track.tracked.sum() == 29


@pytest.fixture(scope="module")
def real_clip(picture, tmp_path_factory) -> Path:
    """The astronaut slides and is gone for a while: 24 frames at uneven times, 3 of them empty, portrait format."""
    path = tmp_path_factory.mktemp("clip") / "slide.mp4"
    with open_writer(path, 320, 400, marks=None) as writer:
        small = resize_u8(picture, 384, 384)
        for index in range(24):
            frame = np.full((400, 320, 3), 90, np.uint8)
            if index not in (10, 11, 12):
                frame[:384] = small[:, 10 + 2 * index : 330 + 2 * index]
            writer.write(frame, index / 25 + 0.02 * (index % 3 == 1))
    return path


def test_a_real_clip_from_the_command_line(real_clip, tmp_path, capsys) -> None:
    output, preview = tmp_path / "tracks.npz", tmp_path / "overlay.mp4"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run_program(track, [str(real_clip), "-o", str(output), "--preview", str(preview)]) == 0
    loaded = load_track(output, OpenHead.load())
    assert len(loaded) == 24 and (loaded.width_px, loaded.height_px) == (320, 400)
    assert loaded.tracked.sum() == 21 and set(loaded.status[10:13].tolist()) <= {0, 1}
    assert preview.stat().st_size > 10_000
    assert "24 frames, 21 tracked" in capsys.readouterr().out
    same = track_clip(real_clip, OpenHead.load())
    assert torch.allclose(same.params.expression, loaded.params.expression, atol=1e-4)


@pytest.mark.parametrize("content", [None, b"", b"not a video", "grey"])
def test_bad_input_gives_one_line_and_leaves_nothing(content, tmp_path, capsys) -> None:
    source, output = tmp_path / "in.mp4", tmp_path / "out" / "tracks.npz"
    output.parent.mkdir()
    if content == "grey":
        with open_writer(source, 64, 64, marks=None) as writer:
            for index in range(5):
                writer.write(np.full((64, 64, 3), 90, np.uint8), index / 25)
    elif content is not None:
        source.write_bytes(content)
    assert run_program(track, [str(source), "-o", str(output), "--preview", str(output.with_suffix(".mp4"))]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1 and str(source) in errors[0]
    assert list(output.parent.iterdir()) == []


def test_options_that_make_no_sense_are_refused(real_clip, tmp_path) -> None:
    for options in (["--face", "middle"], ["--focal", "0"], ["-o", str(tmp_path / "tracks.txt")], ["--start", "9"]):
        assert run_program(track, [str(real_clip), "-o", str(tmp_path / "t.npz"), *options]) == 2
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_refused_before_the_clip_is_tracked(real_clip, tmp_path, monkeypatch) -> None:
    """Among them the clip itself: a preview of its name would take its place."""
    monkeypatch.setattr("gpavatar.track.open_frames", lambda *_, **__: pytest.fail("the clip was opened"))
    for name in ("a.npz", "a.mp4", "frames"):
        (tmp_path / name).mkdir()
    (tmp_path / "frames" / "x").touch()
    before, places = real_clip.read_bytes(), ["a.mp4", "frames", "a.docx"]
    previews = [["--preview", str(place)] for place in (real_clip, *(tmp_path / name for name in places))]
    for options in (["-o", str(tmp_path / "a.npz")], *previews):
        assert run_program(track, [str(real_clip), "-o", str(tmp_path / "t.npz"), *options]) == 2
    assert real_clip.read_bytes() == before and not (tmp_path / "t.npz").exists()
