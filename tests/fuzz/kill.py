"""Cut the power: SIGKILL at random moments of `reenact`, `track` and `assets fetch`, and see what is left.

    PYTHONPATH=tests python -m fuzz.kill --kills 30 --json benchmarks/results/kill.json

After every kill nothing but a whole file may stand under an asked name. The next run starts among the ruins; every
tenth is let through to the end, and must give the whole result and clear the ruins away.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import av
import tyro

from gpavatar.config import run_program

LET_THROUGH_EVERY = 10
AIM_S = 0.3
SERVED = b"one file of many that are fetched" * 20_000
DRIP_S = 0.02  # between the 20 pieces in which the server sends a file


@dataclass(frozen=True)
class Job:
    """A command that writes into `folder`."""

    name: str
    folder: Path
    command: list[str]
    whole: dict[str, object]  # name under `folder` -> function that raises where that file is not whole

    def problems(self, finished: bool) -> list[str]:
        """What is wrong with what stands there now."""
        found = []
        for name, check in self.whole.items():
            path = self.folder / name
            if path.exists():
                try:
                    check(path)
                except Exception as error:  # whatever is wrong with it
                    found.append(f"{name}: {type(error).__name__} {error}")
            elif finished:
                found.append(f"{name}: is not there")
        return found + ([f"{path.name}: left over" for path in self.left_overs()] if finished else [])

    def left_overs(self) -> list[Path]:
        """Files under other names than those asked for."""
        allowed = {self.folder / name for name in self.whole}
        return [p for p in self.folder.rglob("*") if p.is_file() and p not in allowed and p.name != "lock"]


@dataclass
class Tally:
    """What became of a job."""

    job: str
    seconds: float  # of a whole run
    kills: int = 0  # at moments uniform over the length of a run
    aimed: int = 0  # kills shortly after a file was begun
    too_late: int = 0  # the run had ended
    ruins: int = 0  # kills that left files under hidden names
    whole_after_kill: int = 0  # all asked names stood, whole
    let_through: int = 0
    problems: list[str] = field(default_factory=list)


def torment(job: Job, kills: int, aimed: int, rng: random.Random, environment: dict[str, str]) -> Tally:
    """Kill the job `kills` times at moments uniform over the length of a run, and `aimed` times while it writes."""
    start_s = time.monotonic()
    run(job, environment)
    tally = Tally(job.name, round(time.monotonic() - start_s, 2))
    tally.problems += job.problems(finished=True)
    while tally.kills + tally.aimed < kills + aimed:
        if rng.random() < 0.8:  # else the result of an earlier run stands there, and must survive
            for name in job.whole:
                (job.folder / name).unlink(missing_ok=True)
        aim = tally.kills == kills
        moment_s = rng.uniform(0, AIM_S if aim else tally.seconds)
        if not run(job, environment, moment_s, after_begun_file=aim):
            tally.too_late += 1
            continue
        tally.kills, tally.aimed = tally.kills + (not aim), tally.aimed + aim
        count = tally.kills + tally.aimed
        tally.ruins += bool(job.left_overs())
        tally.whole_after_kill += all((job.folder / name).exists() for name in job.whole)
        tally.problems += [f"after kill {count}: {problem}" for problem in job.problems(finished=False)]
        if count % LET_THROUGH_EVERY == 0 or count == kills + aimed:
            tally.let_through += 1
            run(job, environment)
            tally.problems += [f"run after kill {count}: {problem}" for problem in job.problems(finished=True)]
    return tally


def run(job: Job, environment: dict[str, str], kill_after_s: float | None = None, after_begun_file=False) -> bool:
    """Run the command; whether it was killed before it ended. The clock starts with it, or with a new hidden file."""
    old = set(job.left_overs())
    process = subprocess.Popen(
        job.command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    while after_begun_file and process.poll() is None and not any(map(has_content, set(job.left_overs()) - old)):
        time.sleep(0.002)
    try:
        _, said = process.communicate(timeout=kill_after_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    assert process.returncode == 0, f"{job.name} failed: {said.decode()}"
    return False


def has_content(path: Path) -> bool:
    """Whether a file has been begun: one without content only tries whether the place can be written."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def whole_video(num_frames: int):
    """A check that all frames of a video can be decoded."""

    def check(path: Path) -> None:
        with av.open(str(path)) as container:
            found = sum(1 for _ in container.decode(video=0))
        assert found == num_frames, f"{found} frames of {num_frames}"

    return check


def whole_track(path: Path) -> None:
    """The track can be read."""
    from gpavatar.tracking.track_file import load_track

    load_track(path)


def whole_avatar(path: Path) -> None:
    """The avatar can be read."""
    from gpavatar.avatars.textured_mesh import TexturedMesh

    TexturedMesh().load(path)


def whole_json(path: Path) -> None:
    """The sidecar can be read."""
    json.loads(path.read_text())


def whole_asset(path: Path) -> None:
    """The file is what was served."""
    assert path.read_bytes() == SERVED, f"{path.stat().st_size} bytes of {len(SERVED)}"


def make_clip(path: Path, num_frames: int) -> Path:
    """The first frames of a real clip, 456 x 256."""
    from gpavatar.assets import fetch
    from gpavatar.media.video import open_video
    from gpavatar.media.writer import open_writer

    reader = open_video(fetch("pexels_clip"), max_side_px=456)
    with open_writer(path, reader.info.width_px, reader.info.height_px, fps=reader.info.fps) as writer:
        for _, frame in zip(range(num_frames), reader, strict=False):
            writer.write(frame.image_u8, frame.time_s)
    return path


def reenact_job(folder: Path, inputs: Path, num_frames: int) -> Job:
    """A saved avatar driven by a short clip; the avatar is saved again."""
    from gpavatar.assets import fetch
    from gpavatar.pipeline import create_avatar

    clip, avatar = make_clip(inputs / "clip.mp4", num_frames), inputs / "avatar.safetensors"
    create_avatar([fetch("astronaut")], device="cpu").save(avatar)
    options = ["-o", folder / "out.mp4", "--save-avatar", folder / "me.safetensors", "--size", 128, "--device", "cpu"]
    command = [sys.executable, "-m", "gpavatar.reenact", *map(str, [avatar, clip, *options])]
    whole = {"out.mp4": whole_video(num_frames), "out.json": whole_json, "me.safetensors": whole_avatar}
    return Job("reenact", folder, command, whole)


def track_job(folder: Path, inputs: Path, num_frames: int) -> Job:
    """A short clip tracked, with its preview."""
    clip = make_clip(inputs / "clip.mp4", num_frames)
    options = ["-o", folder / "out.npz", "--preview", folder / "preview.mp4"]
    command = [sys.executable, "-m", "gpavatar.track", *map(str, [clip, *options])]
    return Job("track", folder, command, {"out.npz": whole_track, "preview.mp4": whole_video(num_frames)})


def fetch_job(folder: Path, address: str, num_files: int) -> Job:
    """Several assets from a slow server."""
    digest = hashlib.sha256(SERVED).hexdigest()
    program = f"""
import sys
from gpavatar import assets
from gpavatar.assets import Asset, Manifest, Source
from gpavatar.config import run_program
def asset(n):
    return Asset(f"{{n}}.bin", "", {digest!r}, {len(SERVED)}, "CC0", True, "", [Source(url=f"{address}/{{n}}")])
assets.shipped_manifest = lambda: Manifest({{str(n): asset(n) for n in range({num_files})}})
sys.exit(run_program(assets.COMMANDS, ["fetch"]))
"""
    whole = {f"{digest}/{number}.bin": whole_asset for number in range(num_files)}
    return Job("assets fetch", folder, [sys.executable, "-c", program], whole)


@contextmanager
def slow_server() -> Iterator[str]:
    """Sends `SERVED`, drop by drop, whatever is asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(SERVED)))
            self.end_headers()
            step = len(SERVED) // 20
            try:
                for start in range(0, len(SERVED), step):
                    self.wfile.write(SERVED[start : start + step])
                    time.sleep(DRIP_S)
            except ConnectionError:
                pass

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


@dataclass(frozen=True)
class Options:
    """What the command line takes."""

    kills: int = 30
    """How often each job is killed at any moment."""
    aimed: int = 15
    """How often it is killed while it writes."""
    jobs: tuple[str, ...] = ("reenact", "track", "fetch")
    """Which."""
    frames: int = 16
    """Length of the clip."""
    seed: int = 0
    """Other seeds give other moments."""
    json: Path | None = None
    """Write the figures here; those of earlier runs in it are added to."""


def kill(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
    """Kill each job at random moments; exit code 1 where anything but whole files was found."""
    rng, tallies = random.Random(options.seed), []
    with tempfile.TemporaryDirectory(prefix="kill-") as temporary, slow_server() as address:
        for name in options.jobs:
            folder, inputs = Path(temporary) / name, Path(temporary) / f"{name}-inputs"
            folder.mkdir()
            inputs.mkdir()
            environment = {**os.environ, "XDG_CONFIG_HOME": str(inputs), "PYTHONPATH": os.pathsep.join(sys.path)}
            if name == "fetch":
                job = fetch_job(folder, address, 4)
                environment["GPAVATAR_CACHE"] = str(folder)
            else:
                job = (reenact_job if name == "reenact" else track_job)(folder, inputs, options.frames)
            tallies.append(torment(job, options.kills, options.aimed, rng, environment))
            print(json.dumps(asdict(tallies[-1])))
    if options.json is not None:
        known = json.loads(options.json.read_text()) if options.json.exists() else {}
        for tally in tallies:
            added_up(known.setdefault(tally.job, {}), asdict(tally))
        options.json.write_text(json.dumps(known, indent=2) + "\n")
    return 1 if any(tally.problems for tally in tallies) else 0


def added_up(known: dict, tally: dict) -> None:
    """The counts of several runs in one; the length of a run is that of the first."""
    for key, value in tally.items():
        fixed = key in ("job", "seconds")
        known[key] = known.get(key, value) if fixed or key not in known else known[key] + value


if __name__ == "__main__":
    sys.exit(run_program(kill, prog="python -m fuzz.kill"))
