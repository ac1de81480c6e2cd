"""How right, how steady and how fast is the tracker?

python benchmarks/tracking.py [DIRECTORY_OF_CLIPS]    # writes benchmarks/results/tracking.{json,md}

On synthetic clips, whose parameters are known: error of the shape, the rotation and the expressions. On real clips
(none without a directory): landmarks that the fit did not see, share of frames tracked, jitter, frames/s.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from json import dumps
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from rich.progress import track

from gpavatar.camera import matrix_to_axis_angle, rotation_angle_deg
from gpavatar.config import run_program
from gpavatar.data.synthetic import SyntheticPerson, synthetic_clip
from gpavatar.face.open_head import OpenHead
from gpavatar.media.frames import open_frames
from gpavatar.media.image import to_u8
from gpavatar.media.video import VideoFrame
from gpavatar.pretrained.detector import FaceDetector
from gpavatar.tracking.fit import HeadFitter, fit_person
from gpavatar.tracking.select import PersonFollower, Sighting
from gpavatar.tracking.smooth import fill_gaps
from gpavatar.tracking.tracker import Tracker, TrackerConfig
from gpavatar.types import FaceStatus, HeadParams, TrackedFrame
from gpavatar.version import code_version

RESULTS = Path(__file__).parent / "results"
MM_PER_UNIT = 200.0
FIRST_SEED = 9000  # no other program draws these people
CLIP_FPS = 10.0  # at which the synthetic motion looks natural
LIMITS = {"jawOpen": 0.8, "blink": 0.8, "smile": 0.8, "browInnerUp": 0.6, "mouthPucker": 0.6}
SIGNALS = {
    "jawOpen": ("jawOpen",),
    "blink": ("eyeBlinkLeft", "eyeBlinkRight"),
    "smile": ("mouthSmileLeft", "mouthSmileRight"),
    "browInnerUp": ("browInnerUp",),
    "mouthPucker": ("mouthPucker",),
}
STILL_DEG_PER_S = 6.0  # slower turning is standing still
EVERY = 5  # frames of a real clip that are fitted to half the landmarks


@dataclass(frozen=True)
class SyntheticScore:
    """One synthetic clip."""

    seed: int
    tracked: float  # share of the frames
    face_mm: float  # mean distance of the face's vertices after a rigid alignment
    mean_face_mm: float  # the same for the mean head
    face_scaled_mm: float  # after an alignment that may also scale: one camera does not see size
    mean_face_scaled_mm: float
    rotation_deg: float  # median over the frames
    correlation: dict[str, float]


@dataclass(frozen=True)
class Jitter:
    """Root mean square of the second difference between frames, while the head stands still."""

    rotation_deg: float
    position_px: float  # of the head's origin in the picture, for a picture of 512
    landmarks_px: float  # of the mesh's landmarks, likewise


@dataclass(frozen=True)
class RealScore:
    """One real clip."""

    clip: str
    frames: int
    tracked: float  # share of the frames with a detection of their own
    held_out: float  # median distance of the landmarks left out of the fit, share of the inter-ocular distance
    raw: Jitter | None  # None where the head never stands still
    smooth: Jitter | None
    seconds: float  # wall time of the whole tracking, decoding included
    cpu_seconds: float


def main(clips: Annotated[Path | None, tyro.conf.Positional] = None, people: int = 10, json: bool = False) -> None:
    """Measure and write the table.

    Args:
        clips: directory of real clips (.mp4)
        people: number of synthetic clips, 30 frames each
        json: print the result as one object instead of the table
    """
    head = OpenHead.load()
    synthetic = [_synthetic(head, FIRST_SEED + index) for index in track(range(people), "synthetic clips")]
    files = sorted(clips.glob("*.mp4")) if clips else []
    real = [_real(head, path) for path in track(files, "real clips")]
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "commit": code_version(),
        "versions": {name: version(name) for name in ("torch", "mediapipe", "numpy")},
        "synthetic": [asdict(score) for score in synthetic],
        "real": [asdict(score) for score in real],
        "summary": _summary(synthetic, real),
    }
    RESULTS.mkdir(exist_ok=True)
    text = dumps(report, indent=1)
    (RESULTS / "tracking.json").write_text(text + "\n")
    (RESULTS / "tracking.md").write_text(_page(report))
    print(text if json else _page(report))


def _synthetic(head: OpenHead, seed: int) -> SyntheticScore:
    person = SyntheticPerson.random(seed, head, texture_size=512, spread=1.0)  # as people differ in the head's basis
    truth = list(synthetic_clip(seed, num_frames=30, size_px=512, yaw_deg=30.0, person=person))
    frames = [VideoFrame(i, i / CLIP_FPS, to_u8(frame.image)) for i, frame in enumerate(truth)]
    found = list(Tracker(head).stream(frames))
    seen = [(a, b) for a, b in zip(truth, found, strict=True) if b.status == FaceStatus.TRACKED]
    face = head.topology.regions["face"]

    def neutral(shape: torch.Tensor) -> np.ndarray:
        return head.with_shape(shape).verts[face].double().numpy()

    true, fitted, mean = (
        neutral(truth[0].params.shape),
        neutral(found[-1].params.shape),
        neutral(torch.zeros(head.n_shape)),
    )
    angles = torch.stack([rotation_angle_deg(a.camera.w2c[:3, :3], b.camera.w2c[:3, :3]) for a, b in seen])
    return SyntheticScore(
        seed,
        len(seen) / len(truth),
        *(_distance_mm(one, true, scaled) for scaled in (False, True) for one in (fitted, mean)),
        float(angles.median()),
        {
            name: _correlation(head, [a.params for a, _ in seen], [b.params for _, b in seen], SIGNALS[name])
            for name in SIGNALS
        },
    )


def _distance_mm(source: np.ndarray, target: np.ndarray, scaled: bool) -> float:
    """Mean distance of corresponding points after the best rigid (or similarity) alignment (Umeyama 1991)."""
    a, b = source - source.mean(0), target - target.mean(0)
    u, s, vt = np.linalg.svd(a.T @ b)
    rotation = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    scale = s.sum() / (a**2).sum() if scaled else 1.0
    return float(np.linalg.norm(scale * a @ rotation - b, axis=1).mean() * MM_PER_UNIT)


def _correlation(head: OpenHead, true: list[HeadParams], found: list[HeadParams], names: tuple[str, ...]) -> float:
    index = [head.expression_names.index(name) for name in names]
    a, b = (np.array([params.expression[index].mean() for params in side]) for side in (true, found))
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def _real(head: OpenHead, path: Path) -> RealScore:
    start, start_cpu = time.perf_counter(), time.process_time()
    tracker = Tracker(head, TrackerConfig())
    found = list(tracker.stream(open_frames(path), str(path)))
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu

    sightings = list(PersonFollower(FaceDetector()).sightings(open_frames(path)))
    raw = _unsmoothed(tracker, sightings)
    width_px, height_px = sightings[0].width_px, sightings[0].height_px
    still = _still(found)
    return RealScore(
        path.name,
        len(found),
        float(np.mean([frame.status == FaceStatus.TRACKED for frame in found])),
        _held_out(head, [one for one in sightings if one.face is not None][::EVERY]),
        *(_jitter(head, frames, still, width_px, height_px) for frames in (raw, found)),
        seconds,
        cpu_seconds,
    )


def _unsmoothed(tracker: Tracker, sightings: list[Sighting]) -> list[TrackedFrame]:
    """What the offline tracker has before it smooths; no option of its own leaves that step out."""
    focal, person = tracker._clip_constants([one for one in sightings if one.face is not None])
    fitted = fill_gaps(tracker._fitted(iter(sightings), person, focal), tracker.config.max_gap_s)
    return [tracker._answer(sample, person, focal) for sample in fitted]


def _held_out(head: OpenHead, sightings: list[Sighting]) -> float:
    """Shape, pose and expression from every other landmark; the median residual of the others, in eye distances."""
    even = np.arange(478) % 2 == 0
    fitter, judge = HeadFitter(head, points=even), HeadFitter(head, points=~even)
    seen = [
        fitter.observe(one.face, 2.0 * max(one.width_px, one.height_px), one.width_px, one.height_px)
        for one in sightings
    ]
    person, _ = fit_person(fitter, seen[:: max(1, len(seen) // 24)])
    states = [fitter.fit(one, person) for one in seen]
    return float(
        np.median([np.linalg.norm(judge.residual(a, person, b), axis=1) for a, b in zip(seen, states, strict=True)])
    )


def _still(frames: list[TrackedFrame]) -> np.ndarray:
    """Triples of tracked frames in which the head hardly turns: the index of the middle one."""
    out = []
    for a, b, c in zip(frames, frames[1:], frames[2:], strict=False):
        if {a.status, b.status, c.status} == {FaceStatus.TRACKED} and c.time_s > a.time_s:
            turned = rotation_angle_deg(a.camera.w2c[:3, :3], c.camera.w2c[:3, :3])
            if turned / (c.time_s - a.time_s) < STILL_DEG_PER_S:
                out.append(b.index)
    return np.array(out, int)


def _jitter(
    head: OpenHead, frames: list[TrackedFrame], still: np.ndarray, width_px: int, height_px: int
) -> Jitter | None:
    if len(still) < 5:
        return None
    scale = 512 / max(width_px, height_px)
    pose = torch.stack([frame.camera.w2c for frame in frames])
    relative = pose[:, :3, :3] @ pose[len(pose) // 2, :3, :3].T
    axis = matrix_to_axis_angle(relative)
    wanted = sorted({j for i in still for j in (i - 1, i, i + 1)})
    points = {}
    for j in wanted:
        verts = head.verts(frames[j].params)
        points[j] = frames[j].camera.project_px(
            head.topology.mediapipe.on(verts, head.topology.faces), width_px, height_px
        )
    origin = {j: frames[j].camera.project_px(torch.zeros(1, 3), width_px, height_px) for j in wanted}

    def second(values) -> float:
        difference = torch.stack([values[int(i) - 1] - 2 * values[int(i)] + values[int(i) + 1] for i in still])
        return float(difference.square().sum(-1).mean().sqrt())

    return Jitter(float(np.degrees(second(axis))), second(origin) * scale, second(points) * scale)


def _summary(synthetic: list[SyntheticScore], real: list[RealScore]) -> dict[str, float]:
    out = {
        "face_mm": float(np.mean([s.face_mm for s in synthetic])),
        "mean_face_mm": float(np.mean([s.mean_face_mm for s in synthetic])),
        "face_scaled_mm": float(np.mean([s.face_scaled_mm for s in synthetic])),
        "mean_face_scaled_mm": float(np.mean([s.mean_face_scaled_mm for s in synthetic])),
        "rotation_deg": float(np.median([s.rotation_deg for s in synthetic])),
        **{f"r_{name}": float(np.mean([s.correlation[name] for s in synthetic])) for name in SIGNALS},
    }
    out["below_mean_face"] = 1 - out["face_mm"] / out["mean_face_mm"]
    out["below_mean_face_scaled"] = 1 - out["face_scaled_mm"] / out["mean_face_scaled_mm"]
    if real:
        frames = sum(r.frames for r in real)
        steady = [r for r in real if r.raw]
        out |= {
            "frames": frames,
            "tracked": sum(r.tracked * r.frames for r in real) / frames,
            "held_out": float(np.median([r.held_out for r in real])),
            "fps": frames / sum(r.seconds for r in real),
            "cpu_ms_per_frame": 1e3 * sum(r.cpu_seconds for r in real) / frames,
        }
        for name in ("rotation_deg", "position_px", "landmarks_px"):
            for which in ("raw", "smooth"):
                out[f"jitter_{name}_{which}"] = float(np.median([getattr(getattr(r, which), name) for r in steady]))
    return out


def _page(report: dict) -> str:
    s, synthetic = report["summary"], report["synthetic"]
    lines = [
        "# Tracking",
        "",
        f"`python benchmarks/tracking.py`, commit {report['commit']}; {report['machine']}; "
        + ", ".join(f"{name} {number}" for name, number in report["versions"].items()),
        "",
        f"## Synthetic clips: {len(synthetic)} people, 30 frames, 512², yaw ±30°, known parameters",
        "",
        f"Seeds from {FIRST_SEED}; shapes drawn with one standard deviation. Means over the people.",
        "",
        "| what | result | aim |",
        "|---|---|---|",
        f"| 3-D face error, aligned as in the NoW benchmark (rigid and scale: one camera does not see size) | "
        f"{s['face_scaled_mm']:.2f} mm, {100 * s['below_mean_face_scaled']:.0f} % below the mean face "
        f"({s['mean_face_scaled_mm']:.2f} mm) | 35 % below |",
        f"| the same, rigid alone: size is wrong by that of the average head | {s['face_mm']:.2f} mm, "
        f"{100 * s['below_mean_face']:.0f} % below ({s['mean_face_mm']:.2f} mm) | |",
        f"| head rotation error, median | {s['rotation_deg']:.2f}° | 2.5° |",
        *(
            f"| {name}, correlation over a clip, mean | {s[f'r_{name}']:.2f} | {limit} |"
            for name, limit in LIMITS.items()
        ),
    ]
    if report["real"]:
        lines += [
            "",
            f"## Real clips: {len(report['real'])}, {s['frames']} frames",
            "",
            "| what | result | aim |",
            "|---|---|---|",
            f"| frames tracked from a detection of their own | {100 * s['tracked']:.2f} % | 99 % |",
            "| landmarks that the fit did not see (every other one), median residual, inter-ocular distances; median "
            f"of the clips | {100 * s['held_out']:.2f} % | 2 % |",
            f"| frames/s, decoding, detection, fit and smoothing | {s['fps']:.0f} ({s['cpu_ms_per_frame']:.0f} ms of "
            "processor time a frame) | 40 |",
            *(
                f"| jitter of {name}, still stretches, before → after smoothing, median of the clips | "
                f"{s[f'jitter_{key}_raw']:.3f} → {s[f'jitter_{key}_smooth']:.3f} | |"
                for name, key in (
                    ("rotation (°)", "rotation_deg"),
                    ("position (px of 512)", "position_px"),
                    ("mesh landmarks (px of 512)", "landmarks_px"),
                )
            ),
            "",
            "Jitter: root mean square of the second difference between frames where the head turns by less than "
            f"{STILL_DEG_PER_S:g}°/s after smoothing.",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(run_program(main))
