"""Metrics: known answers, agreement with torchmetrics and SciPy, and a worse picture never scores better."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from optional_assets import needs
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from gpavatar.camera import axis_angle_to_matrix
from gpavatar.evaluation import face_metrics, image_metrics
from gpavatar.evaluation.distribution import fid
from gpavatar.evaluation.face_metrics import FrameScores, identity_drift, jitter
from gpavatar.evaluation.face_reading import FaceReader, FaceReadings, rotation_of_points
from gpavatar.evaluation.metrics import FRAME, METRICS, REGIONS, Column, Scorer, Target
from gpavatar.face.open_head import OpenHead
from gpavatar.media.image import read_image, resize_u8, to_float
from gpavatar.types import ARKIT_NAMES, HeadParams

FACE_METRICS = (
    face_metrics.csim,
    face_metrics.akd,
    face_metrics.akd_mediapipe,
    face_metrics.aed,
    face_metrics.apd,
    face_metrics.apd_dlib,
)


@pytest.fixture
def pictures(generator) -> tuple[Tensor, Tensor]:
    """Two smooth pictures and noisy copies of them, 40 x 56."""
    coarse = torch.rand(2, 3, 5, 7, generator=generator)
    target = torch.nn.functional.interpolate(coarse, (40, 56), mode="bicubic").clamp(0, 1)
    return (target + 0.1 * torch.randn(2, 3, 40, 56, generator=generator)).clamp(0, 1), target


def readings(num_frames: int, seed: int = 0) -> FaceReadings:
    """Made-up faces in pictures of 256 x 256."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(num_frames, *shape, generator=generator)

    return FaceReadings(
        landmarks_px=60 + 120 * rand(478, 2),
        blendshapes=rand(52) * torch.tensor([name != "tongueOut" for name in ARKIT_NAMES]),
        rotation=axis_angle_to_matrix(rand(3) - 0.5),
        embedding=torch.nn.functional.normalize(rand(128) - 0.5, dim=-1),
        dlib_px=60 + 120 * rand(68, 2),
        dlib_rotation=axis_angle_to_matrix(rand(3) - 0.5),
        height_px=256,
        width_px=256,
    )


def lost(faces: FaceReadings, frame: int) -> FaceReadings:
    """The same with no face in one frame."""
    names = ("landmarks_px", "blendshapes", "rotation", "embedding", "dlib_px", "dlib_rotation")
    changed = {name: getattr(faces, name).clone() for name in names}
    for tensor in changed.values():
        tensor[frame] = torch.nan
    return replace(faces, **changed)


# ---- pixels


def test_the_whole_picture_is_torchmetrics(pictures):
    output, target = pictures
    psnr = peak_signal_noise_ratio(output, target, 1.0, reduction="none", dim=(1, 2, 3))
    ssim = structural_similarity_index_measure(output, target, data_range=1.0, reduction="none")
    ones = torch.ones(2, 1, 40, 56)
    for weight in (None, ones, 0.3 * ones):
        assert torch.allclose(image_metrics.psnr(output, target, weight), psnr, atol=1e-4)
        assert torch.allclose(image_metrics.ssim(output, target, weight), ssim, atol=2e-5)
        assert torch.allclose(image_metrics.l1(output, target, weight), (output - target).abs().mean((1, 2, 3)))


def test_known_answers_of_pixels():
    target = torch.full((1, 3, 16, 16), 0.5)
    output = target.clone()
    output[..., :8] += 0.1
    left = torch.zeros(1, 1, 16, 16)
    left[..., :8] = 1
    quarter = 1 - 0.75 * left  # left pixels count a quarter of the right ones
    assert image_metrics.l1(output, target).item() == pytest.approx(0.05)
    assert image_metrics.l1(output, target, left).item() == pytest.approx(0.1)
    assert image_metrics.l1(output, target, quarter).item() == pytest.approx(0.1 / 5)
    assert image_metrics.psnr(output, target, left).item() == pytest.approx(20, abs=1e-4)
    assert image_metrics.psnr(output, target, quarter).item() == pytest.approx(20 + 10 * math.log10(5), abs=1e-4)
    # plain pictures have no contrast: s = (2 a b + C₁) / (a² + b² + C₁)
    plain = (2 * 0.6 * 0.5 + 1e-4) / (0.6**2 + 0.5**2 + 1e-4)
    assert image_metrics.ssim(target + 0.1, target).item() == pytest.approx(plain, abs=1e-4)  # measured 4e-5, float32


def test_equal_pictures_and_empty_regions(pictures):
    _, target = pictures
    assert image_metrics.psnr(target, target).tolist() == [100, 100]
    assert torch.allclose(image_metrics.ssim(target, target), torch.ones(2))
    assert image_metrics.l1(target, target).tolist() == [0, 0]
    for metric in (image_metrics.psnr, image_metrics.ssim, image_metrics.l1):
        assert metric(target, target, torch.zeros(2, 1, 40, 56)).isnan().all()


@pytest.mark.parametrize("metric", ("psnr", "ssim", "l1"))
def test_more_noise_scores_worse_in_its_region(pictures, generator, metric):
    _, target = pictures
    noise = 0.2 * torch.randn(target.shape, generator=generator)
    noise[..., 28:] = 0
    left = (torch.arange(56) < 28).float().expand(2, 1, 40, 56)
    sign = 1 if METRICS[metric].higher_is_better else -1
    function = getattr(image_metrics, metric)
    for weight in (None, left):
        scores = torch.stack([function((target + s * noise).clamp(0, 1), target, weight) for s in (0.1, 0.3, 1)])
        assert (sign * scores.diff(dim=0) < 0).all()
    assert (sign * (function(target + noise, target, 1 - left) - function(target + noise, target, left)) > 0).all()


def test_gradients_of_ssim():
    """It can be a loss: value and gradient are those of torchmetrics."""
    generator = torch.Generator().manual_seed(1)
    output, target = torch.rand(2, 1, 3, 24, 20, generator=generator)
    output.requires_grad_()
    (ours,) = torch.autograd.grad(image_metrics.ssim(output, target).sum(), output)
    theirs = structural_similarity_index_measure(output, target, data_range=1.0)
    (other,) = torch.autograd.grad(theirs, output)
    assert torch.allclose(ours, other, atol=1e-6)


def test_face_box():
    landmarks_px = torch.full((2, 478, 2), torch.nan)
    landmarks_px[0] = torch.tensor([2.6, 1.4])
    landmarks_px[0, 7] = torch.tensor([5.4, 4.5])
    box = image_metrics.face_box(landmarks_px, 8, 10)  # pixels have their centres at halves
    assert box[0, 0].nonzero().tolist() == [[y, x] for y in (1, 2, 3, 4) for x in (3, 4)]
    assert box[1].sum() == 0


# ---- faces


def test_a_picture_against_itself():
    faces = readings(3)
    for metric in FACE_METRICS:
        scores = metric(faces, faces)
        best = 1.0 if METRICS[metric.__name__].higher_is_better else 0.0
        assert scores.mean() == pytest.approx(best, abs=0.03 if "apd" in metric.__name__ else 1e-5)
        assert scores.n_failed == scores.n_undefined == 0 and scores.failure_rate == 0


def test_known_answers_of_faces():
    target = readings(2)
    turned = axis_angle_to_matrix(torch.tensor([0.0, math.radians(10), 0.0]))
    output = replace(
        target,
        landmarks_px=target.landmarks_px + torch.tensor([3.0, 4.0]),
        dlib_px=target.dlib_px + torch.tensor([3.0, 4.0]),
        blendshapes=target.blendshapes + 0.25 * torch.tensor([name == "jawOpen" for name in ARKIT_NAMES]),
        rotation=turned @ target.rotation,
        dlib_rotation=turned @ target.dlib_rotation,
        embedding=-target.embedding,
    )
    assert face_metrics.akd(output, target).mean() == pytest.approx(10, rel=1e-5)  # 5 px of 256 are 10 of 512
    assert face_metrics.akd_mediapipe(output, target).mean() == pytest.approx(5 / 256, rel=1e-5)
    assert face_metrics.aed(output, target).mean() == pytest.approx(0.25 / 51, rel=1e-4)
    assert face_metrics.apd(output, target).mean() == pytest.approx(10, abs=1e-3)
    assert face_metrics.apd_dlib(output, target).mean() == pytest.approx(10, abs=1e-3)
    assert face_metrics.csim(output, target).mean() == pytest.approx(-1, rel=1e-5)


@pytest.mark.parametrize("metric", FACE_METRICS, ids=lambda metric: metric.__name__)
def test_a_lost_face_is_counted_and_never_helps(metric):
    target, output = readings(4), readings(4, seed=1)
    if metric is face_metrics.csim:  # a stranger may score below 0 by chance
        output = replace(output, embedding=torch.nn.functional.normalize(output.embedding + target.embedding, dim=-1))
    whole, holed = metric(output, target), metric(lost(output, 2), target)
    assert holed.failed.tolist() == [False, False, True, False] and holed.failure_rate == 0.25
    sign = 1 if METRICS[metric.__name__].higher_is_better else -1
    assert sign * holed.mean() < sign * whole.mean()
    assert holed.mean_found() == pytest.approx(float(whole.values[[0, 1, 3]].mean()), rel=1e-5)

    unknown = metric(output, lost(target, 2))
    assert unknown.n_undefined == 1 and unknown.n_failed == 0 and unknown.mean() == unknown.mean_found()
    assert unknown.mean() == pytest.approx(holed.mean_found(), rel=1e-5)
    neither = metric(lost(output, 2), lost(target, 2))
    assert neither.n_undefined == 1 and neither.n_failed == 0


def test_nothing_to_say_is_nan():
    target = lost(readings(1), 0)
    scores = face_metrics.aed(readings(1), target)
    assert math.isnan(scores.mean()) and math.isnan(scores.failure_rate)


def test_jitter():
    target = readings(6)
    time = torch.arange(6.0)[:, None, None]
    steady = replace(target, landmarks_px=target.landmarks_px + torch.tensor([5.0, -2.0]) + time * 0.5)
    assert jitter(steady, target).mean() == pytest.approx(0, abs=1e-3)  # an offset, and a drift
    trembling = replace(target, landmarks_px=target.landmarks_px + torch.tensor([1.0, 0.0]) * (-1) ** time)
    scores = jitter(trembling, target)
    assert scores.mean() == pytest.approx(8, rel=1e-4)  # 1 − 2·(−1) + 1 = 4 px of 256
    assert scores.n_undefined == 2  # the ends
    holed = jitter(lost(trembling, 2), target)
    assert holed.failed.tolist() == [False, True, True, True, False, False] and holed.mean() > scores.mean()


def test_identity_drift():
    times_s = torch.linspace(10, 12, 5)
    no = torch.zeros(5, dtype=torch.bool)
    falling = FrameScores(0.9 - 0.1 * (times_s - 10), no)
    assert identity_drift(falling, times_s) == pytest.approx(0.2, abs=1e-6)
    assert identity_drift(FrameScores(torch.full((5,), 0.7), no), times_s) == pytest.approx(0, abs=1e-9)
    hole = torch.tensor([0.9, math.nan, 0.8, 0.75, 0.7])
    assert identity_drift(FrameScores(hole, no), times_s) == pytest.approx(0.2, abs=1e-6)
    assert math.isnan(identity_drift(FrameScores(torch.full((5,), math.nan), no), times_s))


def test_readings_are_indexed_and_joined():
    faces = readings(3)
    again = FaceReadings.cat([faces[:1], faces[1:]])
    assert torch.equal(again.landmarks_px, faces.landmarks_px) and len(again) == 3
    assert torch.equal(faces[:1].expanded(4).embedding, faces.embedding[[0, 0, 0, 0]])
    assert lost(faces, 1).found.tolist() == lost(faces, 1).dlib_found.tolist() == [True, False, True]


def test_rotation_of_points_of_the_head_itself():
    head = OpenHead.load()
    verts = head.verts(HeadParams.neutral(head.n_shape, head.n_expression))
    points = head.topology.ibug68.on(verts, head.topology.faces)
    for turn in ((0.0, 0.0, 0.0), (0.3, -0.5, 0.1), (-0.4, 0.7, 0.3)):
        rotation = torch.diag(torch.tensor([1.0, -1, -1])) @ axis_angle_to_matrix(torch.tensor(turn))
        view = points @ rotation.T + torch.tensor([0.3, -0.2, 11.0])
        points_px = (view[:, :2] / view[:, 2:] * 2.5 + 0.5) * 256
        found = rotation_of_points(points_px, 256, 256)
        assert (found - rotation).abs().max() < 1e-3
    assert rotation_of_points(torch.full((68, 2), torch.nan), 256, 256) is None


# ---- sets of pictures


def test_fid_of_known_gaussians(generator):
    x = torch.randn(500, 6, generator=generator).double()
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T  # mean 0, covariance 1, exactly
    a, b = torch.tensor([1.0, 2, 3, 4, 5, 6]), torch.tensor([2.0, 2, 1, 4, 0.5, 6])
    shift = torch.arange(6.0)
    assert fid((x * a).float(), (x * b + shift).float()) == pytest.approx(
        float((shift**2).sum() + ((a - b) ** 2).sum()), rel=1e-4
    )
    assert fid(x, x) == pytest.approx(0, abs=1e-9)
    assert fid(x, x + 3) == pytest.approx(6 * 9)


@pytest.mark.parametrize("counts", [(40, 50), (40, 8), (5, 6), (2, 2)])
def test_fid_is_the_usual_formula(generator, counts):
    """Also where there are fewer pictures than features."""
    a, b = (torch.randn(count, 12, generator=generator).double() * (1 + i) for i, count in enumerate(counts))
    covariance_a, covariance_b = a.T.cov().numpy(), b.T.cov().numpy()
    # a root that survives singular matrices: tr √(AB) = tr √(√A B √A)
    root_a = scipy.linalg.sqrtm(covariance_a + 1e-13 * np.eye(12)).real
    eigenvalues = np.linalg.eigvalsh(root_a @ covariance_b @ root_a)
    expected = float(((a.mean(0) - b.mean(0)) ** 2).sum()) + np.trace(covariance_a + covariance_b)
    expected -= 2 * np.sqrt(eigenvalues.clip(0)).sum()
    assert fid(a, b) == pytest.approx(expected, rel=1e-4)
    assert fid(a, b) == pytest.approx(fid(b, a), rel=1e-9)


def test_fid_grows_with_the_difference(generator):
    a = torch.randn(64, 16, generator=generator)
    values = [fid(a, a + share * torch.randn(64, 16, generator=generator)) for share in (0.1, 0.3, 1)]
    assert 0 < values[0] < values[1] < values[2]


# ---- all of it, on a photo


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(identity="sface", independent=False)


@pytest.fixture(scope="module")
def target(scorer, photo) -> Target:
    picture = read_image(photo)[:300, 70:370]
    image = to_float(resize_u8(picture, 256, 256))[None]
    alpha = torch.zeros(1, 1, 256, 256)
    alpha[..., 20:, 40:220] = 1
    return scorer.target(image, alpha)


def by_name(columns: list[Column]) -> dict[tuple[str, str], float]:
    return {(column.region, column.metric): column.scores.mean() for column in columns}


def blurred(image: Tensor, sigma_px: float) -> Tensor:
    offsets = torch.arange(-20.0, 21.0)
    kernel = torch.exp(-0.5 * (offsets / sigma_px) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = torch.nn.functional.pad(image, (20, 20, 20, 20), mode="replicate")
    once = torch.nn.functional.conv2d(padded, kernel, groups=3)
    return torch.nn.functional.conv2d(once, kernel.transpose(2, 3), groups=3).clamp(0, 1)


@pytest.mark.download
def test_every_metric_of_the_true_picture_is_the_best(scorer, target):
    scores = by_name(scorer.same_person(target.images, target))
    assert {region for region, _ in scores} == {*REGIONS, FRAME}
    for (_, metric), value in scores.items():
        best = {"psnr": 100.0, "ssim": 1.0, "csim": 1.0}.get(metric, 0.0)
        assert value == pytest.approx(best, abs=0.03), metric


@pytest.mark.download
def test_a_worse_picture_scores_worse_everywhere(scorer, target):
    slightly, much = (by_name(scorer.same_person(blurred(target.images, s), target)) for s in (1.5, 4.0))
    moved = by_name(scorer.same_person(target.images.roll(8, 3), target))
    for (region, metric), value in slightly.items():
        sign = 1 if METRICS[metric].higher_is_better else -1
        assert sign * value > sign * much[region, metric], (region, metric)
    assert moved[FRAME, "akd_mediapipe"] == pytest.approx(8 / 256, rel=0.1)
    assert moved[FRAME, "csim"] > much[FRAME, "csim"]


@pytest.mark.download
def test_columns_are_what_their_names_say(scorer, target):
    output = blurred(target.images, 2.0)
    found = {(column.region, column.metric): column.scores.values for column in scorer.same_person(output, target)}
    alpha = torch.zeros(1, 1, 256, 256)
    alpha[..., 20:, 40:220] = 1
    weights = {
        "full": torch.ones(1, 1, 256, 256),
        "foreground": alpha,
        "face": image_metrics.face_box(target.readings.landmarks_px, 256, 256),
    }
    for region, weight in weights.items():
        for name in ("psnr", "ssim", "l1"):
            expected = getattr(image_metrics, name)(output, target.images, weight)
            assert torch.allclose(found[region, name], expected), (region, name)
        lpips = scorer.perceptual.regional(output, target.images, weight[None])[0]
        assert torch.allclose(found[region, "lpips"], lpips, rtol=1e-4)
    read = scorer.read(output)
    for name in ("csim", "akd_mediapipe", "aed", "apd"):
        assert torch.equal(found[FRAME, name], getattr(face_metrics, name)(read, target.readings).values)
    assert len(found) == 3 * 4 + 4


@pytest.mark.download
def test_frames_do_not_depend_on_each_other(scorer, target, monkeypatch):
    images = torch.cat([target.images, blurred(target.images, 1.0), blurred(target.images, 3.0)])
    clip = scorer.target(images, target.weights[1].expand(3, -1, -1, -1))
    outputs = images.roll(1, 0)
    whole = scorer.same_person(outputs, clip)
    monkeypatch.setattr("gpavatar.evaluation.metrics.CHUNK", 2)
    for one, other in zip(whole, scorer.same_person(outputs, clip), strict=True):
        assert (one.region, one.metric) == (other.region, other.metric)
        assert torch.allclose(one.scores.values, other.scores.values, atol=1e-5, equal_nan=True)
    alone = scorer.same_person(outputs[1:2], scorer.target(images[1:2], target.weights[1]))
    for one, other in zip(whole, alone, strict=True):
        assert torch.allclose(one.scores.values[1:2], other.scores.values, atol=1e-5)


@pytest.mark.download
def test_a_picture_without_a_face_has_failed(scorer, target):
    columns = scorer.same_person(torch.full_like(target.images, 0.5), target)
    for column in columns:
        assert column.scores.n_failed == (column.region == FRAME), column
        assert column.scores.n_undefined == 0


@pytest.mark.download
def test_another_person(scorer, target):
    source, driving = target.readings, target.readings
    columns = scorer.other_person(torch.cat([target.images, blurred(target.images, 4.0)]), source, driving[[0, 0]])
    assert {column.metric for column in columns} == {"csim", "aed", "apd"}
    for column in columns:
        sign = 1 if METRICS[column.metric].higher_is_better else -1
        assert sign * column.scores.values[0] > sign * column.scores.values[1]


@pytest.mark.download
def test_the_header_says_what_was_measured_with(scorer):
    header = "\n".join(scorer.header)
    assert "alex" in header and "SFace" in header and "tracker's own" in header and "AED 1" in header
    assert "dlib" not in header


@needs("dlib_landmarks", "arcface_mobile")
def test_with_the_independent_detector(photo):
    scorer = Scorer()
    picture = read_image(photo)[:300, 70:370]
    image = to_float(resize_u8(picture, 256, 256))[None]
    target = scorer.target(image, torch.ones(1, 1, 256, 256))
    moved = by_name(scorer.same_person(image.roll(8, 3), target))
    assert moved[FRAME, "akd"] == pytest.approx(16, rel=0.15)
    assert moved[FRAME, "apd_dlib"] < 3 and moved[FRAME, "csim"] > 0.9
    assert "ArcFace" in "".join(scorer.header) and "dlib" in "".join(scorer.header)


def test_pictures_out_of_range_are_noticed(scorer, target):
    with pytest.raises(AssertionError, match=r"\[0, 1\]"):
        scorer.same_person(target.images * 2 - 1, target)


def test_a_reader_needs_a_known_network():
    with pytest.raises(KeyError):
        FaceReader("nobody", independent=False)
