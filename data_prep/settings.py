"""What a run of the pipeline does to footage: sizes, filters with their thresholds, frames per clip."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Literal

from gpavatar.data.sample import Encoding


@dataclass(frozen=True)
class CutConfig:
    """How footage falls into clips."""

    max_gap_s: float = 0.5  # a person who is out of sight for longer begins a new clip
    max_clip_s: float = 60.0  # longer shots are divided
    max_source_s: float = 7200.0  # of one file are looked at
    look_side_px: int = 1280  # frames are scaled down to this longer side to look for faces; pictures are kept in full


@dataclass(frozen=True)
class FilterConfig:
    """When a clip is dropped. Shares are of its frames; sizes are pixels of the footage as it is."""

    min_s: float = 1.0
    min_fps: float = 10.0
    min_tracked: float = 0.9  # share with a face
    max_others: float = 0.05  # share with another face in the picture that is ...
    other_size: float = 0.35  # ... at least so large against the person's
    min_side: float = 0.75  # side of the square around head and shoulders / side of the pictures asked for
    min_face: float = 0.3  # longer side of the face's outline / the same
    min_room: float = 1.3  # side of the square / longer side of the face's outline; less shows no shoulders
    max_cut_off: float = 0.05  # mean share of the face's outline that lies outside the picture
    min_sharpness: float = 1.5e-4  # median; mean squared Laplacian of a face of 128 px; a blur of 2.5 px on 220 px
    max_residual: float = 0.06  # median error of the fitted head's landmarks / distance of the outer eye corners
    max_occluded: float = 0.25  # median share of the face's outline where something covers skin and hair


@dataclass(frozen=True)
class ChooseConfig:
    """Which frames of a clip are kept."""

    frames: int = 30  # per clip, GPAvatar appendix A.2
    even: int = 4  # of them evenly spaced in time, the first and the last frame included; the others diverse
    min_step: int = 2  # frames that lie between two that are kept; fewer where the clip is short
    min_sharpness: float = 0.5  # against the clip's median, for the diverse ones


@dataclass(frozen=True)
class CropConfig:
    """Which square of a picture is kept, and what the person is before."""

    rule: Literal["clip", "head"] = "clip"  # one for the whole clip, or one that follows the head, as GAGAvatar's does
    background: Literal["kept", "black"] = "kept"


@dataclass(frozen=True)
class PrepConfig:
    """Everything that decides what comes out; runs with another config do not share their work."""

    size_px: int = 512
    matte_px: int = 256  # side at which the matte is refined; smaller is faster, `size_px` the most exact
    cut: CutConfig = field(default_factory=CutConfig)
    filters: FilterConfig = field(default_factory=FilterConfig)
    choose: ChooseConfig = field(default_factory=ChooseConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    encoding: Encoding = field(default_factory=Encoding)

    @property
    def sha256(self) -> str:
        """Of all values; the crop's, which came later, only where they differ: what was begun before them goes on."""
        values = asdict(self)
        if self.crop == CropConfig():
            del values["crop"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
