"""How near does textured_mesh come to the truth in views and expressions that it was not shown?

python benchmarks/textured_mesh.py            # writes benchmarks/results/textured_mesh.{json,md}

Synthetic people are drawn from known parameters and cameras; the avatar is made from one of their pictures or from four
and asked for others. The protocol is written into the table.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from scipy.ndimage import binary_fill_holes
from scipy.stats import t as student
from skimage.metrics import structural_similarity
from torch import Tensor

from gpavatar.avatars.textured_mesh import TEXTURE_SIZE, TexturedMesh, TexturedMeshState
from gpavatar.camera import Camera, axis_angle_to_matrix, invert_rigid
from gpavatar.config import run_program
from gpavatar.data.synthetic import SyntheticFrame, SyntheticPerson, render
from gpavatar.data.synthetic_motion import random_camera
from gpavatar.face.open_head import PARTS, SHOULDERS, OpenHead
from gpavatar.face.raster import interpolate, rasterize, to_screen
from gpavatar.face.uv import dilate, sample, texel_map
from gpavatar.media.align import FACE_OVAL
from gpavatar.media.image import to_u8
from gpavatar.pretrained.matting import matte
from gpavatar.tracking.tracker import Tracker
from gpavatar.types import HeadParams, SourceFrame, TrackedFrame
from gpavatar.version import code_version

RESULTS = Path(__file__).parent / "results"
FIRST_SEED = 100
SIZE_PX = 512
Angles = tuple[float, float]  # pitch, yaw in degrees
FRONTAL: Angles = (0, 0)
SOURCES: tuple[Angles, ...] = (FRONTAL, (0, -30), (0, 30), (12, 0))
NOVEL: tuple[Angles, ...] = ((0, -22), (0, -12), (0, 12), (0, 22), (-8, 0))
EXPRESSIONS: dict[str, dict[str, float]] = {
    "jaw open": {"jawOpen": 0.7},
    "smile": {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9, "cheekSquintLeft": 0.4, "cheekSquintRight": 0.4},
    "blink": {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0},
    "pucker": {"mouthPucker": 0.9},
    "brows up": {"browInnerUp": 0.9, "browOuterUpLeft": 0.6, "browOuterUpRight": 0.6},
}
PROTOCOL = f"""\
Synthetic people (seeds from {FIRST_SEED}) drawn at {SIZE_PX}², twice oversampled. Sources (pitch, yaw):
{", ".join(map(str, SOURCES))}, neutral; the first alone is "1 source" and the picture of "source copy".
Novel views: {", ".join(map(str, NOVEL))}. Expressions: {", ".join(EXPRESSIONS)}. No target is a source.
"true": parameters, camera, landmarks and masks are those the pictures were drawn with. "tracked": the tracker fits
sources and targets under one shape, the matting network cuts the sources out. Regions: the whole frame; the person,
weighted by the true alpha; the face, the box around its outline. PSNR of the region's mean squared error; SSIM with a
Gaussian window of 1.5 px, the region's mean of the map. Mean over a person's views, then over people; gain: 4 sources
less 1 source, paired by person, 95 % interval."""
HOLE_YAWS = range(-25, 26, 5)
METHODS = ("source copy", "1 source", "4 sources")
REGIONS = ("frame", "person", "face")
GROUPS = {
    "turn": "novel view: the head turns before camera, light and shoulders that stand still",
    "orbit": "novel view: the camera goes round a person who does not move",
    "expression": "expression transfer, at yaw 0 and ±15 (the head turned)",
}


@dataclass(frozen=True)
class Posed:
    """What an avatar is asked to draw."""

    params: HeadParams
    camera: Camera


@dataclass(frozen=True)
class Score:
    """One rendered picture against the truth; per region of `REGIONS`."""

    person: int
    input: str  # "true" or "tracked" parameters and cameras
    group: str
    view: str
    method: str
    psnr_db: tuple[float, ...]
    ssim: tuple[float, ...]


@dataclass(frozen=True)
class Holes:
    """Shares of the mesh's pixels at one yaw."""

    person: int
    yaw_deg: int
    uncovered: float  # inside the mesh's outline, but no triangle there
    uncoloured: float  # covered, but sampling a texel that got no colour


def textured_mesh(
    people: int = 8,
    tracked: int = 4,
    workers: int = 2,
    json_path: Path = RESULTS / "textured_mesh.json",
    pictures: Path | None = None,
) -> None:
    """Score `people` synthetic people, the first `tracked` of them also through tracker and matting.

    `pictures`: a folder for truth, source copy, 1 source and 4 sources side by side.
    """
    torch.set_num_threads(1)
    commit = code_version()  # of the code that runs, not of what the checkout becomes meanwhile
    jobs = [(person, person < tracked, pictures) for person in range(people)]
    scores: list[Score] = []
    holes: list[Holes] = []
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for one, more in track(pool.map(_score_person, *zip(*jobs, strict=True)), "people", total=people):
            scores += one
            holes += more
    report = {
        "machine": f"{os.cpu_count()} cores, {_cpu_name()}",
        "versions": {name: version(name) for name in ("torch", "numpy", "numba", "mediapipe", "scikit-image")},
        "commit": commit,
        "people": people,
        "people_tracked": tracked,
        "scores": _reduced(scores),
        "holes": {
            str(yaw): [max(getattr(h, kind) for h in holes if h.yaw_deg == yaw) for kind in ("uncovered", "uncoloured")]
            for yaw in HOLE_YAWS
        },
        "seconds": _timed(),
        "rows": [asdict(score) for score in scores],
    }
    _write(report, json_path)


def _score_person(index: int, tracked: bool, pictures: Path | None) -> tuple[list[Score], list[Holes]]:
    """All scores of one person."""
    torch.set_num_threads(1)
    person = SyntheticPerson.random(FIRST_SEED + index)
    camera = random_camera(np.random.default_rng(FIRST_SEED + index), person)
    avatar = TexturedMesh()
    scores: list[Score] = []
    for orbit, groups in ((False, ("turn", "expression")), (True, ("orbit",))):
        frames = [_drawn(person, camera, at, {}, orbit) for at in SOURCES]
        targets = [target for group in groups for target in _targets(person, camera, group)]
        known = [Posed(frame.params, frame.camera) for _, _, frame in targets]
        sources = [known_source(person, frame) for frame in frames]
        scores += _compare(avatar, sources, targets, known, index, "true", pictures)
        if tracked and not orbit:
            pixels = [to_u8(frame.image) for frame in (*frames, *(frame for _, _, frame in targets))]
            fits = Tracker(avatar.head).track_images(pixels)
            sources = [_matted(frame, fit) for frame, fit in zip(frames, fits, strict=False)]
            found = [Posed(fit.params, fit.camera) for fit in fits[len(frames) :]]
            scores += _compare(avatar, sources, targets, found, index, "tracked", pictures)
    holes = [Holes(index, yaw, *hole_shares(avatar.head, person.params(), camera, yaw)) for yaw in HOLE_YAWS]
    return scores, holes


def posed(
    person: SyntheticPerson, camera: Camera, at: Angles, expression: dict[str, float], orbit: bool
) -> tuple[HeadParams, Camera]:
    """The head turned about the neck joint before `camera`; with `orbit` everything turns with it."""
    turn = torch.tensor([*at, 0.0]).deg2rad()
    centre = person.head.with_shape(person.shape).joints[SHOULDERS]
    to_world = torch.eye(4)
    to_world[:3, :3] = axis_angle_to_matrix(turn)
    to_world[:3, 3] = centre - to_world[:3, :3] @ centre
    weights = torch.zeros(person.head.n_expression)
    for name, weight in expression.items():
        weights[person.head.expression_names.index(name)] = weight
    params = replace(person.params(), expression=weights, neck_pose=torch.zeros(3) if orbit else turn)
    return params, Camera(invert_rigid(to_world) @ camera.c2w, camera.intrinsics)


def _drawn(
    person: SyntheticPerson, camera: Camera, at: Angles, expression: dict[str, float], orbit: bool
) -> SyntheticFrame:
    return render(person, *posed(person, camera, at, expression, orbit), SIZE_PX)


def _targets(person: SyntheticPerson, camera: Camera, group: str) -> Iterable[tuple[str, str, SyntheticFrame]]:
    """(group, name, picture) of what an avatar is asked for."""
    if group == "expression":
        for number, (name, weights) in enumerate(EXPRESSIONS.items()):
            for yaw in (0, 15 if number % 2 else -15):
                yield group, f"{name}, yaw {yaw}", _drawn(person, camera, (0, yaw), weights, orbit=False)
    else:
        for at in NOVEL:
            yield group, f"pitch {at[0]}, yaw {at[1]}", _drawn(person, camera, at, {}, group == "orbit")


def known_source(person: SyntheticPerson, frame: SyntheticFrame) -> SourceFrame:
    """A picture with everything that is true of it: masks, landmarks, parameters, camera."""
    head, size = person.head, frame.image.shape[-1]
    solid = head.faces[head.face_parts != PARTS.index("lashes")]
    fragments = rasterize(to_screen(frame.verts, frame.camera, size, size), solid, size, size)
    neutral = head.with_shape(frame.params.shape).verts
    points = interpolate(fragments, neutral, solid).permute(1, 2, 0).double().numpy()
    chin = float(head.topology.mediapipe.on(neutral, head.faces)[152, 1])
    bare = 1 - torch.from_numpy(person.looks.clothes.covers(points, chin)).float()[None]
    skin = fragments.covered[None] * (frame.alpha - frame.hair).clamp_min(0)
    above = (interpolate(fragments, head.head_weight[:, None], solid) > 0.5).float()
    landmarks = frame.camera.project_px(head.topology.mediapipe.on(frame.verts, head.faces), size, size)
    face, body = skin * above, skin * (1 - above) * bare
    return SourceFrame(frame.image, frame.alpha, frame.hair, face, body, frame.params, frame.camera, landmarks)


def _matted(frame: SyntheticFrame, fit: TrackedFrame) -> SourceFrame:
    """A picture as the program sees it."""
    person = matte(frame.image)
    masks = (person.alpha, person.hair, person.face, person.body)
    return SourceFrame(frame.image, *masks, fit.params, fit.camera, fit.landmarks_px)


def _compare(
    avatar: TexturedMesh,
    sources: list[SourceFrame],
    targets: list[tuple[str, str, SyntheticFrame]],
    poses: list[Posed],
    person: int,
    source: str,
    pictures: Path | None,
) -> list[Score]:
    """Every target drawn by the avatars of one and of all sources, beside the first source as it is."""
    one, four = avatar.encode(sources[:1]), avatar.encode(sources)
    scores = []
    for (group, view, truth), pose in zip(targets, poses, strict=True):
        drawn = [avatar.render(state, pose.params, pose.camera, SIZE_PX).image for state in (one, four)]
        images = [sources[0].image, *drawn]
        regions = _regions(avatar.head, truth)
        for method, image in zip(METHODS, images, strict=True):
            scores.append(Score(person, source, group, view, method, *_measured(image, truth.image, regions)))
        if pictures:
            sheet = to_u8(torch.cat([truth.image, *images], -1))
            Image.fromarray(sheet).save(pictures / f"{person}_{source}_{group}_{view}.png".replace(" ", ""))
    return scores


def _regions(head: OpenHead, truth: SyntheticFrame) -> list[Tensor]:
    """Weights of the pixels in each of `REGIONS`."""
    size = truth.image.shape[-1]
    marks = truth.camera.project_px(head.topology.mediapipe.on(truth.verts, head.faces), size, size)[list(FACE_OVAL)]
    low, high = marks.amin(0).floor().int().clamp_min(0), marks.amax(0).ceil().int()
    box = torch.zeros(1, size, size)
    box[:, low[1] : high[1], low[0] : high[0]] = 1
    return [torch.ones(1, size, size), truth.alpha, box]


def _measured(image: Tensor, truth: Tensor, regions: list[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """PSNR and SSIM per region: of the weighted mean squared error, and the weighted mean of the map."""
    error = (image - truth).square().mean(0, keepdim=True)
    _, similar = structural_similarity(
        image.numpy(), truth.numpy(), channel_axis=0, data_range=1.0, full=True,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    similar = torch.from_numpy(similar).mean(0, keepdim=True)
    psnr = tuple(round(float(-10 * ((error * w).sum() / w.sum()).log10()), 4) for w in regions)
    return psnr, tuple(round(float((similar * w).sum() / w.sum()), 5) for w in regions)


def hole_shares(head: OpenHead, params: HeadParams, camera: Camera, yaw_deg: float) -> tuple[float, float]:
    """Of the pixels inside the mesh's outline the shares without surface, and with surface but without a colour."""
    topology = head.topology
    drawn = head.face_parts != PARTS.index("lashes")
    texels = texel_map(topology, TEXTURE_SIZE)
    given = dilate(texels.valid[None].float(), texels.valid, 4)
    turn = torch.eye(4)
    turn[:3, :3] = axis_angle_to_matrix(torch.tensor([0.0, yaw_deg, 0.0]).deg2rad())
    view = Camera(turn @ camera.c2w, camera.intrinsics)
    seen = rasterize(to_screen(head.verts(params), view, SIZE_PX, SIZE_PX), topology.faces[drawn], SIZE_PX, SIZE_PX)
    outline = torch.from_numpy(binary_fill_holes(seen.covered.numpy()))
    colour = sample(given, seen, topology.uv, topology.uv_faces[drawn])[0]
    count = float(outline.sum())
    return float((outline & ~seen.covered).sum()) / count, float((seen.covered & (colour < 0.999)).sum()) / count


def _reduced(scores: list[Score]) -> list[dict]:
    """Per person the mean over views, then over people; 4 − 1 sources paired by person, 95 % interval (Student)."""
    rows = []
    for source in ("true", "tracked"):
        for group in GROUPS:
            own = [score for score in scores if (score.input, score.group) == (source, group)]
            people = sorted({score.person for score in own})
            for number, region in enumerate(REGIONS if own else ()):
                row = {"input": source, "group": group, "region": region, "people": len(people)}
                for metric in ("psnr_db", "ssim"):
                    per_person = {
                        method: np.array([
                            np.mean([getattr(s, metric)[number] for s in own if (s.person, s.method) == (p, method)])
                            for p in people
                        ])
                        for method in METHODS
                    }  # fmt: skip
                    row |= {f"{metric} {method}": float(values.mean()) for method, values in per_person.items()}
                    gain = per_person["4 sources"] - per_person["1 source"]
                    row[f"{metric} gain"] = float(gain.mean())
                    row[f"{metric} gain ±"] = _half_interval(gain)
                rows.append(row)
    return rows


def _half_interval(values: np.ndarray) -> float:
    if len(values) < 2:
        return float("nan")
    return float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)


def _timed() -> dict[str, float]:
    """Encoding one source and drawing a frame, this process alone: the best of some repeats, and the load then."""
    torch.set_num_threads(os.cpu_count() or 1)
    person = SyntheticPerson.random(FIRST_SEED)
    camera = random_camera(np.random.default_rng(FIRST_SEED), person)
    source = known_source(person, _drawn(person, camera, FRONTAL, {}, orbit=False))
    avatar = TexturedMesh()
    state: TexturedMeshState = avatar.encode([source])
    params, view = posed(person, camera, (0, 12), EXPRESSIONS["smile"], orbit=False)
    out = {"encode, 1 source of 512²": _best_s(lambda: avatar.encode([source]), 3)}
    for size in (256, 512):
        out[f"frame of {size}²"] = _best_s(lambda size=size: avatar.render(state, params, view, size), 20)
    return out | {"load": os.getloadavg()[0]}


def _best_s(call, repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _write(report: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = report.pop("rows")
    text = json.dumps(report, indent=1)[:-2] + ',\n "rows": [\n  ' + ",\n  ".join(map(json.dumps, rows)) + "\n ]\n}\n"
    path.write_text(text, encoding="utf-8")
    table = _table(report)
    path.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)


def _table(report: dict) -> str:
    command = f"python benchmarks/textured_mesh.py --people {report['people']} --tracked {report['people_tracked']}"
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    lines = ["# textured_mesh against the truth", ""]
    lines += [f"`{command}`; commit {report['commit']}; {report['machine']}; {versions}.", "", PROTOCOL, ""]
    for group, meaning in GROUPS.items():
        rows = [row for row in report["scores"] if row["group"] == group]
        for metric, unit, digits in (("psnr_db", "PSNR, dB", 2), ("ssim", "SSIM", 4)):
            lines += [f"## {meaning[0].upper()}{meaning[1:]}: {unit}", ""]
            lines += ["| input | region | people | " + " | ".join(METHODS) + " | gain |", "|" + "---|" * 7]
            for row in rows:
                cells = [f"{row[f'{metric} {method}']:.{digits}f}" for method in METHODS]
                gain = f"{row[f'{metric} gain']:+.{digits}f} ± {row[f'{metric} gain ±']:.{digits}f}"
                head = [row["input"], row["region"], str(row["people"])]
                lines.append("| " + " | ".join([*head, *cells, gain]) + " |")
            lines.append("")
    lines += [
        "## Holes",
        "",
        "Pixels inside the filled outline of the head mesh (512², neutral) that no triangle covers, or that sample a "
        "texel which got no colour; the worst of the people, in % of the outline (limit 0.1).",
        "",
        "| yaw | " + " | ".join(report["holes"]) + " |",
        "|" + "---|" * (len(report["holes"]) + 1),
    ]
    for number, kind in enumerate(("uncovered", "uncoloured")):
        lines.append(f"| {kind} | " + " | ".join(f"{100 * v[number]:.3f}" for v in report["holes"].values()) + " |")
    seconds = dict(report["seconds"])
    load = seconds.pop("load")
    lines += ["", "## Time", "", f"Best of several, all cores, load {load:.1f}.", "", "| what | ms |", "|---|---|"]
    lines += [f"| {what} | {1000 * value:.0f} |" for what, value in seconds.items()]
    return "\n".join(lines) + "\n"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    sys.exit(run_program(textured_mesh))
