"""What the programs about rendering draw: GPAvatar at the paper's size, and the lite model, with weights at random."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from gpavatar.avatars.gpavatar import GPAvatar, GPAvatarConfig, HeadSignal
from gpavatar.camera import Camera
from gpavatar.face.open_head import OpenHead
from gpavatar.field.frequency import frequency_code
from gpavatar.field.knn import nearest_index
from gpavatar.field.point_field import BoundPointField, Neighbours, PointField
from gpavatar.field.twin import Precision, has_bfloat16
from gpavatar.render.rays import Rays, camera_rays
from gpavatar.render.volume import VolumeOutput, render_volume
from gpavatar.synthesis import style_layers
from gpavatar.types import map_tensors

SOME = 16  # a part of the rays, where all take too long


class Way(Protocol):
    """A way to draw; `Variant` of render.py."""

    precision: Precision
    literal: bool
    nearest: str


@dataclass(frozen=True)
class Plain:
    """A way without anything special."""

    precision: Precision
    literal: bool = False
    nearest: str = "auto"


class LiteralField(BoundPointField):
    """Eq. 1 as it is written: both layers for each neighbour."""

    def of(self, near: Neighbours) -> Tensor:
        """f_exp at points whose neighbours are known."""
        net, config = self.net, self.net.config
        code = frequency_code(near.offsets, config.octaves, config.code_base)
        answers = net.second(functional.relu(net.first(torch.cat([net.features[near.numbers], code], -1))))
        return (near.weights[..., None] * answers).sum(-2) / near.weights.sum(-1, keepdim=True)


class FaissFlat:
    """FAISS's exhaustive search and nothing else: ties as they come."""

    def __init__(self, cloud: Tensor, k: int):
        import faiss

        self.k, self._indices = k, []
        for one in cloud:
            self._indices.append(faiss.IndexFlatL2(3))
            self._indices[-1].add(np.ascontiguousarray(one.cpu().numpy()))

    def query(self, points: Tensor) -> Tensor:
        """See `gpavatar.field.knn.NearestIndex`."""
        found = [
            index.search(np.ascontiguousarray(one.cpu().numpy()), self.k)[1]
            for one, index in zip(points, self._indices, strict=True)
        ]
        return torch.from_numpy(np.stack(found)).to(points.device)


class Distances:
    """Every distance by torch, the smallest by topk: what an eager GPU has instead of FAISS."""

    def __init__(self, cloud: Tensor, k: int):
        self.cloud, self.k = cloud, k

    def query(self, points: Tensor) -> Tensor:
        """See `gpavatar.field.knn.NearestIndex`."""
        return torch.cdist(points, self.cloud).topk(self.k, largest=False).indices


def prepared(net: PointField, verts: Tensor, way: Way) -> BoundPointField:
    """The expression field as this way has it."""
    on_cpu, k = verts.device.type == "cpu", net.config.num_neighbours
    if way.nearest == "tree":
        cloud = net.cloud(verts)
        index = nearest_index(cloud, k, "scipy" if on_cpu else "torch")
        bound = PointField.forward(net, verts, 0)  # not as a scene may have replaced it
        return BoundPointField(net, cloud, index, bound.per_vertex)
    if way.literal:
        cloud = net.cloud(verts)
        return LiteralField(net, cloud, (FaissFlat if on_cpu else Distances)(cloud, k), net.features[:, :0])
    return PointField.forward(net, verts)


def stage_functions() -> Iterator[tuple[str, Any, str]]:
    """Stage, owner and name of the functions that take the time, of all variants."""
    from gpavatar.avatars import gpavatar_lite, gpavatar_lite_numba
    from gpavatar.field import head_field, head_field_numba, knn_numba, knn_trees
    from gpavatar.field.radiance import RadianceHead
    from gpavatar.synthesis.upsampler import Upsampler

    yield "nearest", FaissFlat, "query"
    yield "nearest", knn_trees.ScipyIndex, "query"
    yield "nearest", knn_numba.CloudIndex, "query"
    yield "nearest", knn_numba.CloudIndex, "_make"
    yield "expression", BoundPointField, "of"
    yield "expression", LiteralField, "of"
    yield "expression", head_field_numba.ExpressionField, "look"
    yield "planes", head_field, "sample_planes"
    yield "planes", head_field_numba, "sum_planes"
    yield "planes", gpavatar_lite, "sample_planes"
    yield "planes", gpavatar_lite_numba, "sum_planes"
    yield "radiance", RadianceHead, "forward"
    yield "radiance", gpavatar_lite.GPAvatarLite, "networks"
    yield "photos", gpavatar_lite_numba, "_carry"
    yield "photos", gpavatar_lite, "carry"
    yield "nearest", BoundPointField, "near"
    yield "radiance", head_field_numba.FusedField, "look"
    yield "picture", Upsampler, "forward"
    yield "picture", gpavatar_lite, "put_in_place"
    yield "picture", gpavatar_lite, "corrected"
    yield "picture", gpavatar_lite.PictureNet, "forward"
    yield "mesh", gpavatar_lite, "on_mesh"


class PaperScene:
    """GPAvatar at the paper's size, on the open head; one in `part` rays, and the whole super-resolution."""

    one_in = SOME

    def __init__(self, device: torch.device, part: int = 1):
        torch.manual_seed(0)
        self.device, self._head = device, OpenHead.load()
        self.net = GPAvatar(GPAvatarConfig(), len(self._head.mean), 61).eval().requires_grad_(False).to(device)
        planes = torch.randn(1, 256, 256, 3, 32, device=device).permute(0, 3, 4, 1, 2)
        self._signal = HeadSignal(self._head.mean[None].to(device), torch.zeros(1, 61, device=device))
        camera = map_tensors(Camera.frontal(5.0, 2.6)[None], lambda tensor: tensor.to(device))
        self._rays = camera_rays(camera, self.net.config.volume.size_px)
        if part > 1:
            side = math.isqrt(len(self._rays.near[0]) // part)
            rows = torch.arange(side, device=device) + 64 - side // 2
            some = (rows[:, None] * 128 + rows).flatten()
            self._rays = map_tensors(self._rays, lambda tensor: tensor[:, some].contiguous())
        self._planes, self._part, self._narrow = planes, part, None
        self._channels_last = copy.deepcopy(self.net.upsampler).to(memory_format=torch.channels_last)
        self.about = (
            f"GPAvatar at the paper's size: {self._rays.near.shape[1]} rays, 32 + 32 samples, K = 8 of "
            f"{len(self._head.mean)} vertices, planes 3 x 32 x 256², super-resolution 128² to 512²; weights at random"
        )
        self._exact: tuple[Rays, Tensor] | None = None

    def wait(self) -> None:
        """Until the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def use(self, way: Way) -> None:
        """Draw in this way from now on."""
        self._way = way

    def draw(self) -> Tensor:
        """A frame."""
        return self._picture(self._look(self._rays).fine.feats)

    def draw_some(self) -> Tensor:
        """A frame of one in `SOME` rays."""
        some = map_tensors(self._rays, lambda tensor: tensor[:, ::SOME].contiguous())
        return self._picture(self._look(some).fine.feats)

    def _look(self, rays: Rays) -> VolumeOutput:
        net, way = self.net, self._way
        points = prepared(net.point_field, self._signal.verts, way)
        field = replace(_without_points(net, self._planes, self._signal), points=points)
        return render_volume(field, rays, net.config.volume, precision=way.precision)

    def _picture(self, feats: Tensor) -> Tensor:
        """The super-resolution of a whole frame, whatever part of its rays was drawn."""
        if feats.shape[1] != 128 * 128:
            feats = feats[:, :1].expand(-1, 128 * 128, -1)
        low = feats.transpose(1, 2).unflatten(2, (128, 128))
        if self._way.precision == "reference":
            with _as_written():
                return self.net.upsampler(low.contiguous())
        if self._way.precision == "fast" and has_bfloat16(self.device):
            self._narrow = self._narrow or copy.deepcopy(self._channels_last).to(torch.bfloat16)
            return self._narrow(low.bfloat16()).float()
        return self._channels_last(low)

    def error(self) -> float:
        """‖features − theirs in float64‖ / ‖…‖ at one in 64 rays of what is drawn."""
        if self._exact is None:
            some = map_tensors(self._rays, lambda tensor: tensor[:, ::64].contiguous())
            net = copy.deepcopy(self.net).cpu().double()
            signal = map_tensors(self._signal, lambda tensor: tensor.cpu().double())
            field = _without_points(net, self._planes.cpu().double(), signal)
            index = nearest_index(signal.verts, net.config.point_field.num_neighbours, "scipy")
            field = replace(field, points=replace(net.point_field(signal.verts, 0), index=index))
            exact = map_tensors(some, lambda one: one.cpu().double() if one.is_floating_point() else one.cpu())
            self._exact = some, render_volume(field, exact, net.config.volume).fine.feats
        rays, wanted = self._exact
        return float((self._look(rays).fine.feats.cpu().double() - wanted).norm() / wanted.norm())

    def psnr_db(self, exact: Way, fast: Way) -> float:
        """Of the picture of one way against the other's."""
        pictures = []
        for way in (exact, fast):
            self.use(way)
            pictures.append(self.draw().clamp(0, 1))
        return float(-10 * (pictures[0] - pictures[1]).square().mean().log10())

    def gflop(self) -> float:
        """Of the matrix products and convolutions of the folded form."""
        config, samples = self.net.config, self._rays.near.numel() * 64
        point, radiance = config.point_field, config.radiance
        code = point.num_neighbours * self.net.point_field.code_dim * point.hidden_dim
        hidden, colour = radiance.hidden_dim, radiance.colour_hidden_dim
        layers = (config.attention.plane_dim + point.hidden_dim) * hidden + hidden**2
        layers += hidden * (colour + 1) + colour * radiance.out_dim
        with FlopCounterMode(display=False) as counted:
            copy.deepcopy(self._channels_last).to("meta")(torch.empty(1, 32, 128, 128, device="meta"))
        return (2 * samples * (code + layers) + counted.get_total_flops()) / 1e9

    def megabytes(self) -> float:
        """Planes, weights and what is drawn, once each, in float32."""
        weights = sum(parameter.numel() for parameter in self.net.parameters())
        weights -= sum(parameter.numel() for parameter in self.net.encoder.parameters())
        return 4 * (self._planes.numel() + weights + self._rays.near.numel() * 32 + 3 * 512**2) / 1e6


def _without_points(net: GPAvatar, planes: Tensor, signal: HeadSignal):
    from gpavatar.field.head_field import HeadField

    return HeadField(planes, net.radiance, None, signal.params, net.config.encoder.planes)


@contextmanager
def _as_written() -> Iterator[None]:
    """Layers without what they do for one picture without gradients."""
    quick: Callable = style_layers.quick
    style_layers.quick = lambda _: False
    try:
        yield
    finally:
        style_layers.quick = quick
