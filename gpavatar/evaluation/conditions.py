"""What a results table must state: the set by its hash, the metrics, the code, the machine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from gpavatar.data.shards import ShardSet
from gpavatar.evaluation.protocols import ClipPlan, ProtocolConfig, absent_videos
from gpavatar.version import code_version

PACKAGES = ("torch", "mediapipe", "numpy")


@dataclass(frozen=True)
class Conditions:
    """The header of every table; two results compare only where `protocol_sha256` is the same."""

    protocol: str
    about: str
    crop: str
    background: str
    size_px: int
    set: str
    set_sha256: str
    num_clips: int
    num_identities: int
    clips: tuple[str, ...]
    no_targets: tuple[str, ...]  # clips in which no frame differs enough
    absent: tuple[str, ...]  # videos of the protocol that the set lacks
    sources: tuple[int, ...]  # N
    targets: str
    metrics: tuple[str, ...]  # lines: trunk, networks, detectors, penalties
    reductions: str
    intervals: str
    differences: tuple[str, ...]
    protocol_sha256: str
    commit: str
    machine: str
    versions: tuple[str, ...]


def conditions(
    config: ProtocolConfig, shards: ShardSet, plans: Sequence[ClipPlan], metrics: tuple[str, ...]
) -> Conditions:
    """Those of this run."""
    content = [shards.index.table_sha256, *(shard.sha256 for shard in shards.index.shards)]
    set_sha256 = hashlib.sha256(" ".join(content).encode()).hexdigest()
    return Conditions(
        protocol=config.name,
        about=config.about,
        crop=config.crop,
        background="as in the set; methods draw that of their first source",
        size_px=shards.index.size_px,
        set=Path(config.set).name,
        set_sha256=set_sha256,
        num_clips=len(plans),
        num_identities=len({plan.identity for plan in plans}),
        clips=tuple(plan.clip for plan in plans),
        no_targets=tuple(plan.clip for plan in plans if not any(take.driving == plan.clip for take in plan.takes)),
        absent=absent_videos([plan.clip for plan in plans], config.videos),
        sources=config.numbers,
        targets=_targets(config, plans),
        metrics=metrics,
        reductions="each metric per frame; mean over an identity's frames, then over identities",
        intervals=f"95 % of the bootstrap over identities, {config.resamples} draws",
        differences=tuple(config.differences),
        protocol_sha256=protocol_sha256(config, set_sha256, plans, metrics),
        commit=code_version(),
        machine=f"{os.cpu_count()} cores, {_processor()}",
        versions=tuple(f"{name} {_version(name)}" for name in PACKAGES),
    )


def protocol_sha256(
    config: ProtocolConfig, set_sha256: str, plans: Sequence[ClipPlan], metrics: tuple[str, ...]
) -> str:
    """Of all that decides the frames and their scores beside the method."""
    what = [set_sha256, metrics, [asdict(plan) for plan in plans], config.fid, config.seed, config.resamples]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _targets(config: ProtocolConfig, plans: Sequence[ClipPlan]) -> str:
    count = {task: sum(len(take.rows) for plan in plans for take in plan.takes if take.task == task) for task in
             config.tasks}  # fmt: skip
    said = ", ".join(f"{number} frames {task}" for task, number in count.items())
    if config.min_turn_deg or config.min_shift:
        said += (
            f"; only frames that differ from the first source by {config.min_turn_deg:g} degrees of head rotation or"
            f" {config.min_shift:.0%} of the distance between the eyes in landmarks"
        )
    return said + "; a source at any N is scored at no N"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


def _processor() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
