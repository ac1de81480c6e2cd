"""Stage fetch: the videos that VFHQ's and HDTF's lists name, downloaded by yt-dlp for the user.

Their owners take videos down all the time: a dead one is put on the list and the next one is tried.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from data_prep.find import VIDEO_SUFFIXES
from data_prep.hdtf import hdtf_videos
from data_prep.manifest import write_text
from data_prep.vfhq import vfhq_videos
from gpavatar.types import InputError

YT_DLP = (sys.executable, "-m", "yt_dlp")
# Pictures only, in the best quality there is; the sound is not used.
OPTIONS = ("--ignore-config", "--no-playlist", "--quiet", "--no-warnings", "--no-progress", "--format", "bv*/b")
TIMEOUT_S = 3600.0
ADDRESS = re.compile(r"https?://[^\s]+")
FILE_STEM = re.compile(r"[A-Za-z0-9_-]{1,100}")


@dataclass(frozen=True)
class Fetched:
    """What became of one video; `why` says why it is not there."""

    name: str
    address: str
    file: str = ""
    why: str = ""


def fetch(lists: Path, out: Path, program: Sequence[str] = YT_DLP) -> list[Fetched]:
    """Download every video that a list below `lists` names into `out`, which may be the same folder.

    A video that is there is not asked for again. `out`/fetch.jsonl says what became of each. InputError where there
    are no lists, or no downloader.
    """
    videos = vfhq_videos(lists) | hdtf_videos(lists)
    if not videos:
        raise InputError(f"{lists}: no lists of VFHQ (Clip+*.txt) or HDTF (*_video_url.txt) there")
    if subprocess.run([*program, "--version"], capture_output=True).returncode:
        raise InputError("yt-dlp is not installed; pip install yt-dlp")
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for name, address in track(sorted(videos.items()), "fetching", console=Console(stderr=True)):
        results.append(_fetch_one(name, address, out, program))
        write_text(out / "fetch.jsonl", "".join(json.dumps(asdict(one)) + "\n" for one in results))
    return results


def _fetch_one(name: str, address: str, out: Path, program: Sequence[str]) -> Fetched:
    if not FILE_STEM.fullmatch(name) or not ADDRESS.fullmatch(address):
        return Fetched(name, address, why="not a name and an http address")
    if there := _file(name, out):
        return Fetched(name, address, file=there)
    target = str(out / name).replace("%", "%%") + ".%(ext)s"
    try:
        done = subprocess.run(
            [*program, *OPTIONS, "--output", target, "--", address],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Fetched(name, address, why=f"took longer than {TIMEOUT_S:.0f} s")
    there = _file(name, out)
    if done.returncode == 0 and there:
        return Fetched(name, address, file=there)
    said = " ".join(done.stderr.split())[-300:]
    return Fetched(name, address, why=said or f"exit code {done.returncode} and no file")


def _file(name: str, out: Path) -> str:
    return next((name + suffix for suffix in VIDEO_SUFFIXES if (out / (name + suffix)).exists()), "")
