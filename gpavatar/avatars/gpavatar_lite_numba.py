"""`GPAvatarLite.at_samples` on the CPU: one pass over the samples in tiles that stay in the cache.

A kernel carries each sample into every photo and looks it up there; of those that have a matte, planes and expression
field are gathered (`gpavatar.field.head_field_numba`), and matrix products are oneDNN's. Imported by `gpavatar_lite.py`
only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, no_type_check

import numba
import numpy as np
import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor

from gpavatar.avatars.gpavatar_lite_warp import BODY_SHARE, HIDDEN, OCCLUDED, REACH, SHARPNESS, THICKNESS
from gpavatar.bands import in_pieces
from gpavatar.field.head_field_numba import ExpressionField, Layer, array, rows_for
from gpavatar.field.point_field import TINY
from gpavatar.field.twin import has_bfloat16
from gpavatar.triplane.bfloat16_numba import narrowed, widened
from gpavatar.triplane.lookup import AXES, PLANES
from gpavatar.triplane.lookup_numba import sum_planes

if TYPE_CHECKING:
    from gpavatar.avatars.gpavatar_lite import GPAvatarLite, LiteFrame

TILE = 4096  # samples
FAST = {"contract", "reassoc", "nsz", "arcp"}


def at_samples(
    net: GPAvatarLite,
    frame: LiteFrame,
    points: Float[Tensor, "batch sample 3"],
    behind: Float[Tensor, "batch sample"],
    cover: Float[Tensor, "batch sample"],
) -> tuple[Float[Tensor, "batch sample"], Float[Tensor, "batch sample channel"]]:
    """The fields of `LiteSamples`; see `GPAvatarLite.at_samples`. Without gradients."""
    batch, num = behind.shape
    from gpavatar.avatars.gpavatar_lite import DENSITY, SKIN

    columns = 3 + net.config.feat_dim + 2 + 3 * frame.mesh.num_sources
    sigma, values = (torch.from_numpy(np.zeros(shape, np.float32)) for shape in ((batch, num), (batch, num, columns)))
    for entry in range(batch):
        looked = _Entry(net, frame, entry, (*SKIN, DENSITY))
        inputs = tuple(array(x[entry].contiguous()) for x in (points, behind, cover))
        looked.expression.index.prepare(inputs[0])
        outputs = array(sigma[entry]), array(values[entry])

        def piece(first: int, end: int, looked: _Entry = looked, arrays: tuple = inputs + outputs) -> None:
            looked.look(*(x[first:end] for x in arrays))

        in_pieces(num, TILE, piece)
    return sigma, values


@dataclass(frozen=True)
class _Rigid:
    """Head space -> a camera's view and picture, as arrays per photo."""

    rotation: np.ndarray  # (photo) 3 3
    shift: np.ndarray  # (photo) 3
    intrinsics: np.ndarray  # (photo) 4


class _Entry:
    """One entry of a batch, ready to be asked by any number of threads."""

    def __init__(self, net: GPAvatarLite, frame: LiteFrame, entry: int, skin: tuple[float, float, float]):
        config, person, mesh = net.config, frame.person, frame.mesh
        fast = frame.precision == "fast" and has_bfloat16(torch.device("cpu"))
        self._dtype = torch.bfloat16 if fast else torch.float32
        self.expression = ExpressionField(frame.points, entry, self._dtype)
        source = person.views.pose
        cameras, camera = source.camera[entry], mesh.camera[entry]
        self._photos = _rigid(cameras)
        self._driven = _rigid(camera)
        neck = camera.to_view(mesh.neck[entry, None])[0]
        self._body = array(BODY_SHARE * (neck - cameras.to_view(source.neck[entry, :, None])[:, 0]))
        self._alike = array(mesh.alike[entry].contiguous())
        self._table = array(frame.table[entry].contiguous())
        self._maps = array(person.maps[entry].permute(0, 2, 3, 1).contiguous())
        self._planes = array(person.planes[entry].permute(0, 2, 3, 1).to(self._dtype).contiguous())
        self._axes = tuple(np.array([AXES.index(name[axis]) for name in PLANES]) for axis in (0, 1))
        hidden, choice = net.choice[0], net.choice[2]
        self._choice = (
            *(array(x.detach().contiguous()) for x in (_in_fours(hidden.weight.T), hidden.bias, choice.weight[0])),
            np.float32(choice.bias.item()),
        )
        self._pixels, self._has_points = np.float32(config.pixels), config.expression == "points"
        self._feats, self._skin = config.feat_dim, tuple(map(np.float32, skin))
        self._layers = self._folded(net)

    def _folded(self, net: GPAvatarLite) -> list[Layer]:
        """The radiance layers; the second layer of the expression field and the mean over planes are in the first."""
        first, second, last = (net.radiance[at] for at in (0, 2, 4))
        channels, point = self._planes.shape[-1], net.point_field.second
        weight, bias = first.weight.detach(), first.bias.detach()
        rest = weight.shape[1] - channels - point.out_features
        planes, points, known = weight.split([channels, point.out_features, rest], 1)
        parts = [planes.T / len(PLANES)]
        if self._has_points:
            parts.append((points @ point.weight).T)
            bias = bias + points @ point.bias
        parts.append(known.T)
        return [
            Layer(torch.cat(parts), bias, self._dtype, relu=True),
            Layer(second.weight.T, second.bias, self._dtype, relu=True),
            Layer(last.weight.T, last.bias, self._dtype),
        ]

    def look(
        self, points: np.ndarray, behind: np.ndarray, cover: np.ndarray, sigma: np.ndarray, values: np.ndarray
    ) -> None:
        """Write σ and values of samples."""
        shallow = self._maps.shape[-1] - 9
        numbers = np.empty((len(points), self.expression.k), np.int32)
        self.expression.index.query(points, numbers)
        known, matte = np.empty((len(points), 3 + shallow + 5), np.float32), np.empty(len(points), np.float32)
        photos, driven = self._photos, self._driven
        _carry(
            points, numbers, self.expression.index.cloud, behind, cover, self._table, self._maps,
            photos.rotation, photos.shift, photos.intrinsics, driven.rotation, driven.shift, driven.intrinsics,
            self._body, self._alike, *self._choice, self._pixels, self._feats, known, matte, values,
        )  # fmt: skip
        kept = np.flatnonzero(matte > 0)
        if not len(kept):
            return
        channels = self._planes.shape[-1]
        gathered = rows_for(self._layers[0], len(kept))
        columns, points = array(gathered)[: len(kept)], points[kept]
        sum_planes(self._planes, *self._axes, np.clip(points, -1, 1), columns[:, :channels])
        if self._has_points:
            self.expression.look(points, numbers[kept], columns[:, channels : -known.shape[1]])
        _copy(known, kept, columns[:, -known.shape[1] :])
        raw = gathered
        for layer in self._layers:
            raw = layer(raw)
        _finish(array(raw), kept, behind, matte, sigma, values, *self._skin)


def _in_fours(weight: Tensor) -> Tensor:
    """With rows of zeros to a multiple of four."""
    return functional.pad(weight, (0, 0, 0, -len(weight) % 4))


def _rigid(camera) -> _Rigid:
    w2c = camera.w2c
    return _Rigid(*(array(x.contiguous()) for x in (w2c[..., :3, :3], w2c[..., :3, 3], camera.intrinsics)))


@numba.njit(cache=True, nogil=True, fastmath=FAST, inline="always")
@no_type_check
def _smoothstep(x, low, high):
    t = min(max((x - np.float32(low)) / np.float32(high - low), np.float32(0)), np.float32(1))
    return t * t * (np.float32(3) - np.float32(2) * t)


@numba.njit(cache=True, nogil=True, fastmath=FAST, inline="always")
@no_type_check
def _preferred(tells, weight, bias, out, out_bias, hidden):
    """`GPAvatarLite.choice`. Four inputs at once, since each time the hidden values go to memory and back."""
    for j in range(len(hidden)):
        hidden[j] = bias[j]
    for i in range(0, len(tells), 4):
        a, b, c, d = tells[i], tells[i + 1], tells[i + 2], tells[i + 3]
        for j in range(len(hidden)):
            hidden[j] += (a * weight[i, j] + b * weight[i + 1, j]) + (c * weight[i + 2, j] + d * weight[i + 3, j])
    prefer = out_bias
    for j in range(len(hidden)):
        prefer += max(hidden[j], np.float32(0)) * out[j]
    return prefer


@numba.njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _carry(
    points, numbers, cloud, behind, cover, table, maps, rotation, shift, intrinsics, own_rotation, own_shift, own,
    body, alike, choice, choice_bias, choice_out, choice_out_bias, pixels, num_feats, known, matte, values,
):  # fmt: skip
    """`carry`, the lookup in the photos and what follows from it, up to the networks."""
    zero, half, one = np.float32(0), np.float32(0.5), np.float32(1)
    photos, height, width, channels = maps.shape
    shallow, k = channels - 9, numbers.shape[1]
    mean, found = np.empty(table.shape[1], np.float32), np.empty(channels, np.float32)
    tells, hidden = np.zeros(len(choice), np.float32), np.empty(choice.shape[1], np.float32)
    mixed, share = np.empty(5 + shallow, np.float32), np.empty(k, np.float32)  # rgb, alpha, shallow, covered
    for sample in range(points.shape[0]):
        px, py, pz = points[sample, 0], points[sample, 1], points[sample, 2]
        total = zero
        for j in range(k):
            number = numbers[sample, j]
            dx, dy, dz = cloud[number, 0] - px, cloud[number, 1] - py, cloud[number, 2] - pz
            share[j] = one / np.sqrt(dx * dx + dy * dy + dz * dz + np.float32(TINY**2))
            total += share[j]
        near = np.float32(math.exp(-((one / (share[0] * np.float32(REACH))) ** 2)))
        whole = one / total
        for column in range(table.shape[1]):
            summed = zero
            for j in range(k):
                summed += share[j] * table[numbers[sample, j], column]
            mean[column] = summed * whole
        follow = mean[0]
        vx = own_rotation[0, 0] * px + own_rotation[0, 1] * py + own_rotation[0, 2] * pz + own_shift[0]
        vy = own_rotation[1, 0] * px + own_rotation[1, 1] * py + own_rotation[1, 2] * pz + own_shift[1]
        vz = own_rotation[2, 0] * px + own_rotation[2, 1] * py + own_rotation[2, 2] * pz + own_shift[2]
        own_x, own_y = vx / vz * own[0] + own[2], vy / vz * own[1] + own[3]

        for channel in range(5 + shallow):
            mixed[channel] = zero
        seen = weight_sum = zero
        for photo in range(photos):
            at = 1 + 4 * photo
            mx, my, mz = px + near * mean[at], py + near * mean[at + 1], pz + near * mean[at + 2]
            turn, move = rotation[photo], shift[photo]
            bx, by, bz = vx - body[photo, 0], vy - body[photo, 1], vz - body[photo, 2]
            hx = turn[0, 0] * mx + turn[0, 1] * my + turn[0, 2] * mz + move[0]
            hy = turn[1, 0] * mx + turn[1, 1] * my + turn[1, 2] * mz + move[1]
            hz = turn[2, 0] * mx + turn[2, 1] * my + turn[2, 2] * mz + move[2]
            cx, cy, depth = bx + follow * (hx - bx), by + follow * (hy - by), bz + follow * (hz - bz)
            inverse = one / max(depth, np.float32(0.1))
            x = cx * inverse * intrinsics[photo, 0] + intrinsics[photo, 2]
            y = cy * inverse * intrinsics[photo, 1] + intrinsics[photo, 3]

            column, row = min(max(x * width - half, zero), width - one), min(max(y * height - half, zero), height - one)
            x0, y0 = int(column), int(row)
            x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
            right, low = column - np.float32(x0), row - np.float32(y0)
            w00, w01, w10, w11 = (one - low) * (one - right), (one - low) * right, low * (one - right), low * right
            for channel in range(channels):
                found[channel] = (
                    w00 * maps[photo, y0, x0, channel] + w01 * maps[photo, y0, x1, channel]
                    + w10 * maps[photo, y1, x0, channel] + w11 * maps[photo, y1, x1, channel]
                )  # fmt: skip
            past = depth - found[8]
            beside = one - _smoothstep(past, OCCLUDED[0], OCCLUDED[1])
            covered = (one - beside) * (one - follow)
            for channel in range(4):
                found[channel] += covered * (found[4 + channel] - found[channel])
            found[3] *= one - _smoothstep(abs(past) * follow, THICKNESS[0], THICKNESS[1])
            beyond = max(abs(x - half), abs(y - half)) - half
            visible = (beside + near * (mean[at + 3] - beside)) * (one - _smoothstep(beyond, 0.0, 0.02))

            weight = one  # of a single photo, whatever it is
            if photos > 1:
                tells[0], tells[1], tells[2] = visible, min(max(past, -one), one), near
                for channel in range(4):
                    tells[3 + channel] = found[channel]
                for channel in range(shallow):
                    tells[7 + channel] = found[9 + channel]
                prefer = _preferred(tells, choice, choice_bias, choice_out, choice_out_bias, hidden)
                weight = np.float32(math.exp(min(max(prefer, np.float32(-4)), np.float32(4))))
                weight *= (visible**SHARPNESS + np.float32(HIDDEN**2)) * alike[photo]
            weight_sum += weight
            seen = visible if photo == 0 else max(seen, visible)
            for channel in range(4):
                mixed[channel] += weight * found[channel]
            for channel in range(shallow):
                mixed[4 + channel] += weight * found[9 + channel]
            mixed[4 + shallow] += weight * covered
            first = 5 + num_feats + 3 * photo
            values[sample, first] = weight
            values[sample, first + 1], values[sample, first + 2] = (x - own_x) * weight, (y - own_y) * weight

        scale = one / weight_sum
        for i in range(3 * photos):
            values[sample, 5 + num_feats + i] *= scale
        opaque = mixed[3] * scale
        opaque += (one - seen) * max(cover[sample] - opaque, zero)
        matte[sample] = opaque
        for channel in range(3):
            colour = mixed[channel] * scale * pixels
            values[sample, channel], known[sample, channel] = colour, colour
        for channel in range(shallow):
            known[sample, 3 + channel] = mixed[4 + channel] * scale * pixels
        values[sample, 3 + num_feats], values[sample, 4 + num_feats] = seen, mixed[4 + shallow] * scale
        place = 3 + shallow
        known[sample, place] = np.float32(math.tanh(behind[sample] * np.float32(10)))
        known[sample, place + 1], known[sample, place + 2] = opaque, seen
        known[sample, place + 3], known[sample, place + 4] = near, follow


@numba.njit(cache=True, nogil=True)
@no_type_check
def _copy(values, rows, into):
    for place in range(len(rows)):
        for column in range(values.shape[1]):
            into[place, column] = narrowed(values[rows[place], column], into[place, column])


@numba.njit(cache=True, nogil=True, fastmath=FAST)
@no_type_check
def _finish(raw, kept, behind, matte, sigma, values, skin, thick, dense):
    """σ, and colour and features, from what the networks say."""
    for place in range(len(kept)):
        sample = kept[place]
        away = (behind[sample] - skin) / thick
        shape = dense * np.float32(math.exp(-away * away))
        raised = np.float32(math.exp(min(max(widened(raw[place, 0]), np.float32(-4)), np.float32(4))))
        fog = np.float32(math.log1p(math.exp(min(widened(raw[place, 1]) - np.float32(4), np.float32(30)))))
        sigma[sample] = matte[sample] * (shape * raised + fog)
        for channel in range(3):
            values[sample, channel] += widened(raw[place, 2 + channel])
        for channel in range(raw.shape[1] - 5):
            values[sample, 3 + channel] = widened(raw[place, 5 + channel])
