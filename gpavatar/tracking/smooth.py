"""Smoothing a head's motion, with the future in sight or without.

Both filters follow one law, that of the One-Euro filter (Casiez et al. 2012): what moves at speed v is cut off at

    f = f_min + β |v|

so that stillness is steady and motion is not late. The causal filter is that filter. The other fits a line to the
samples on both sides under a Gaussian of σ = 1 / (2π f): no lag at all. Time is in seconds, never in frames, so a
variable frame rate changes nothing. Rotations are smoothed as quaternions, translations as (x/z, y/z, ln z): noise in
depth, the worst of all, then moves nothing sideways.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from gpavatar.tracking.fit import FramePose
from gpavatar.tracking.select import Sighting
from gpavatar.types import FaceStatus

WINDOW_S = 0.3  # the non-causal filter looks so far to both sides
SPEED_S = 0.06  # σ of the Gaussian under which the non-causal filter measures speed


@dataclass(frozen=True)
class Cutoff:
    """f = floor_hz + slope |v|, v in the channel's units per second."""

    floor_hz: float
    slope: float


@dataclass(frozen=True)
class SmoothConfig:
    """Cut-off frequencies by kind of channel."""

    rotation: Cutoff = Cutoff(1.0, 12.0)  # v in quaternion units: half the radians
    position: Cutoff = Cutoff(1.0, 40.0)  # x/z, y/z
    depth: Cutoff = Cutoff(0.6, 6.0)  # ln z
    expression: Cutoff = Cutoff(1.8, 3.0)


@dataclass(frozen=True)
class MotionSample:
    """A frame on its way through the tracker: what was seen, and the state fitted to it."""

    sighting: Sighting
    status: FaceStatus
    state: FramePose | None  # None only where no face was seen yet


def fill_gaps(samples: Iterable[MotionSample], max_gap_s: float) -> Iterator[MotionSample]:
    """Give frames without a face the state between their neighbours.

    A gap of at most `max_gap_s` (from the last tracked frame to the next) within one shot is INTERPOLATED; any other
    stays MISSING and holds the last state, or before the first face None. At most a gap of `max_gap_s` waits here.
    """
    last: MotionSample | None = None
    waiting: list[MotionSample] = []
    for sample in samples:
        if sample.sighting.after_cut:
            yield from _held(waiting, last)
            waiting, last = [], last if last is None else replace(last, status=FaceStatus.MISSING)
        if sample.status == FaceStatus.TRACKED:
            bridges = last is not None and last.status == FaceStatus.TRACKED and _apart_s(last, sample) <= max_gap_s
            yield from _between(waiting, last, sample) if bridges else _held(waiting, last)
            yield sample
            waiting, last = [], sample
        else:
            waiting.append(sample)
            if last is None or last.status != FaceStatus.TRACKED or _apart_s(last, sample) > max_gap_s:
                yield from _held(waiting, last)
                waiting = []
    yield from _held(waiting, last)


def smoothed(samples: Iterable[MotionSample], config: SmoothConfig) -> Iterator[MotionSample]:
    """The same samples under the non-causal filter; every shot and every stretch between gaps is on its own.

    Holds the samples of 2 WINDOW_S seconds.
    """
    stretch: deque[_Channels] = deque()
    nexts = 0  # samples of the stretch that are already out
    for sample in samples:
        apart = sample.status == FaceStatus.MISSING
        if stretch and (apart or sample.sighting.after_cut or stretch[-1].sample.status == FaceStatus.MISSING):
            yield from (_local_line(stretch, i, config) for i in range(nexts, len(stretch)))
            stretch.clear()
            nexts = 0
        if apart:
            yield sample
            continue
        stretch.append(_Channels.of(sample, stretch[-1] if stretch else None))
        while nexts < len(stretch) and stretch[-1].time_s - stretch[nexts].time_s > WINDOW_S:
            yield _local_line(stretch, nexts, config)
            nexts += 1
        while stretch[nexts].time_s - stretch[0].time_s > WINDOW_S:
            stretch.popleft()
            nexts -= 1
    yield from (_local_line(stretch, i, config) for i in range(nexts, len(stretch)))


class CausalSmoother:
    """The One-Euro filter over all channels of a head's motion: one sample in, one out."""

    def __init__(self, config: SmoothConfig):
        self._config = config
        self._last: _Channels | None = None
        self._speed = np.zeros(0)

    def push(self, sample: MotionSample) -> MotionSample:
        """The sample, smoothed with those before it. A cut or a missing frame starts afresh."""
        if sample.status == FaceStatus.MISSING or sample.sighting.after_cut:
            self._last = None
        if sample.status == FaceStatus.MISSING:
            return sample
        now = _Channels.of(sample, self._last)
        if self._last is None:
            self._last, self._speed = now, np.zeros_like(now.values)
            return sample
        step_s = max(now.time_s - self._last.time_s, 1e-4)
        measured = (now.values - self._last.values) / step_s
        self._speed = self._speed + _share(1 / (2 * np.pi * SPEED_S), step_s) * (measured - self._speed)
        share = _share(_cutoff_hz(self._speed, self._config), step_s)
        self._last = replace(now, values=self._last.values + share * (now.values - self._last.values))
        return self._last.rebuilt()


@dataclass(frozen=True)
class _Channels:
    """A sample's state as the numbers that are filtered: quaternion 4, place 3, expression."""

    sample: MotionSample
    values: Float[np.ndarray, " channel"]

    @property
    def time_s(self) -> float:
        return self.sample.sighting.time_s

    @staticmethod
    def of(sample: MotionSample, before: _Channels | None) -> _Channels:
        state = sample.state
        quaternion = _quaternion(state.rotation)
        if before is not None and quaternion @ before.values[:4] < 0:  # the same turn, on the neighbour's side
            quaternion = -quaternion
        x, y, z = state.translation
        place = np.array([x / z, y / z, np.log(z)])
        return _Channels(sample, np.concatenate([quaternion, place, state.expression]))

    def rebuilt(self) -> MotionSample:
        quaternion, (u, v, log_z), expression = np.split(self.values, [4, 7])
        z = np.exp(log_z)
        state = FramePose(_matrix(quaternion), np.array([u * z, v * z, z]), expression.clip(0, 1))
        return replace(self.sample, state=state)


def _local_line(stretch: deque[_Channels], at: int, config: SmoothConfig) -> MotionSample:
    """The value at sample `at` of lines fitted, channel by channel, to the samples around it."""
    here = stretch[at]
    around = [other for other in stretch if abs(other.time_s - here.time_s) <= WINDOW_S]
    if len(around) < 3:
        return here.sample
    times = np.array([other.time_s - here.time_s for other in around])[:, None]
    values = np.stack([other.values for other in around])
    _, speed = _line(times, values, np.exp(-0.5 * (times / SPEED_S) ** 2))
    sigma = 1 / (2 * np.pi * _cutoff_hz(speed, config))
    value, _ = _line(times, values, np.exp(-0.5 * (times / sigma) ** 2))
    return replace(here, values=value).rebuilt()


def _line(times: np.ndarray, values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value and slope at time 0 of the weighted least-squares lines."""
    total, first, second = weights.sum(0), (weights * times).sum(0), (weights * times**2).sum(0)
    sums, moments = (weights * values).sum(0), (weights * times * values).sum(0)
    spread = np.maximum(total * second - first**2, 1e-12 * total**2)  # a lone sample under the Gaussian has no slope
    return (second * sums - first * moments) / spread, (total * moments - first * sums) / spread


def _cutoff_hz(speed: np.ndarray, config: SmoothConfig) -> np.ndarray:
    """Per channel; channels that move as one (a rotation, a place) share the speed of the whole."""
    turn, place = np.linalg.norm(speed[:4]), np.linalg.norm(speed[4:6])
    groups = (
        (config.rotation, np.full(4, turn)),
        (config.position, np.full(2, place)),
        (config.depth, np.abs(speed[6:7])),
        (config.expression, np.abs(speed[7:])),
    )
    return np.concatenate([cutoff.floor_hz + cutoff.slope * moving for cutoff, moving in groups])


def _share(cutoff_hz, step_s: float):
    """How much of a new sample a first-order low pass takes in."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff_hz * step_s))


def _apart_s(a: MotionSample, b: MotionSample) -> float:
    return b.sighting.time_s - a.sighting.time_s


def _held(waiting: list[MotionSample], last: MotionSample | None) -> Iterator[MotionSample]:
    for sample in waiting:
        yield replace(sample, status=FaceStatus.MISSING, state=None if last is None else last.state)


def _between(waiting: list[MotionSample], a: MotionSample, b: MotionSample) -> Iterator[MotionSample]:
    start = _Channels.of(a, None)
    end = _Channels.of(b, start)
    for sample in waiting:
        share = _apart_s(a, sample) / _apart_s(a, b)
        values = (1 - share) * start.values + share * end.values
        state = _Channels(a, values).rebuilt().state
        yield replace(sample, status=FaceStatus.INTERPOLATED, state=state)


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """w, x, y, z; from the eigenvector of Bar-Itzhack's symmetric matrix, stable at every angle."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    k = np.array(
        [
            [a + e + i, h - f, c - g, d - b],
            [h - f, a - e - i, b + d, c + g],
            [c - g, b + d, e - a - i, f + h],
            [d - b, c + g, f + h, i - a - e],
        ]
    )
    return np.linalg.eigh(k)[1][:, -1]


def _matrix(quaternion: np.ndarray) -> np.ndarray:
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
