"""A frame of the lite model, of a synthetic person, for the programs about rendering."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch
from parts.scenes import Way, prepared
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gpavatar.avatars.checkpoint import WeightsInfo, config_yaml, save_weights
from gpavatar.avatars.gpavatar_lite import GPAvatarLite, GPAvatarLiteConfig, LiteOutput
from gpavatar.avatars.gpavatar_lite_method import GPAvatarLiteMethod
from gpavatar.avatars.gpavatar_lite_warp import HeadPose, LiteHead
from gpavatar.data.synthetic import synthetic_clip
from gpavatar.face.open_head import OpenHead
from gpavatar.field.knn import nearest_index
from gpavatar.field.point_field import BoundPointField
from gpavatar.types import SourceFrame, map_tensors

PHOTOS_PX = 256


class RoundedIndex:
    """Neighbours as float32 has them: of two vertices in one place float64's rounding would choose by chance."""

    def __init__(self, cloud: Tensor, k: int):
        self._index = nearest_index(cloud.float(), k, num_queries=2**20)

    def query(self, points: Tensor) -> Tensor:
        """See `gpavatar.field.knn.NearestIndex`."""
        return self._index.query(points.float())


class LiteScene:
    """The lite model drives one of `photos` photos; weights from a file, or at random."""

    one_in = 1

    def __init__(self, device: torch.device, weights: Path | None = None, photos: int = 1):
        torch.manual_seed(0)
        self.device = device
        with tempfile.TemporaryDirectory() as folder:
            used = weights or _random_weights(Path(folder) / "lite.safetensors")
            self._model = GPAvatarLiteMethod(device, used)
        frames = [_source(frame) for frame in synthetic_clip(7, photos + 1, PHOTOS_PX)]
        self._state = self._model.encode(frames[:photos])
        self._target = frames[photos]
        self.net = self._model.net
        self.about = (
            f"The lite model: {self.net.config.rays_px}² rays, {self.net.config.shell_samples} + "
            f"{self.net.config.cube_samples} samples, K = {self.net.config.point_field.num_neighbours}, {photos} photo"
            f"{'s' if photos > 1 else ''}, picture of {self.net.config.size_px}²; weights "
            f"{'at random' if weights is None else 'of ' + weights.name}"
        )
        self._exact: Tensor | None = None
        self._plain = self.net.point_field.forward, self.net._raw

    def wait(self) -> None:
        """Until the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def use(self, way: Way) -> None:
        """Draw in this way from now on."""
        self._way, self._model.precision = way, way.precision
        net = self.net
        net.point_field.forward, net._raw = self._plain
        if way.precision == "reference":
            net.point_field.forward = lambda verts, _=0: prepared(net.point_field, verts, way)
        if way.literal:
            net._raw = lambda frame, points, near, known, matte: net.networks(
                frame.person.planes, frame.points, points, near, known
            )

    def draw(self) -> Tensor:
        """A frame."""
        return self._output().image

    draw_some = draw

    def _output(self) -> LiteOutput:
        return self._model._drawn(self._state, self._target.params, self._target.camera, self.net.config.size_px)

    def error(self) -> float:
        """‖what the rays find − the same in float64‖ / ‖…‖."""
        if self._exact is None:
            net = copy.deepcopy(self.net).cpu().double()
            net.point_field.forward = lambda verts, _=0: _rounded(net.point_field, verts)
            net._raw = type(net)._raw.__get__(net)
            person, pose = self._model.person(self._state), self._pose()
            large = [map_tensors(one, _widened) for one in (person, pose)]
            self._exact = net.look(*large).feats
        found = self.net.look(self._model.person(self._state), self._pose(), precision=self._way.precision).feats
        return float((found.cpu().double() - self._exact).norm() / self._exact.norm())

    def _pose(self) -> HeadPose:
        params, camera = self._target.params[None], self._target.camera[None]
        return self._model.head.pose(
            *(map_tensors(one, lambda x: x.to(self.device)) for one in (params, camera)),
            self._state.photos.offsets.mean(0),
        )

    def psnr_db(self, exact: Way, fast: Way) -> float:
        """Of the picture of one way against the other's."""
        pictures = []
        for way in (exact, fast):
            self.use(way)
            pictures.append(self.draw().clamp(0, 1))
        return float(-10 * (pictures[0] - pictures[1]).square().mean().log10())

    def gflop(self) -> float:
        """Of the matrix products and convolutions, as the reference has them where nothing is left out."""
        with FlopCounterMode(display=False) as counted:
            self.net(self._model.person(self._state), self._pose())
        return counted.get_total_flops() / 1e9

    def megabytes(self) -> float:
        """Planes, maps and pictures of the photos, weights and what is drawn, once each, in float32."""
        person = self._model.person(self._state)
        weights = sum(p.numel() for p in self.net.parameters()) - sum(p.numel() for p in self.net.encoder.parameters())
        photos = person.views.picture.numel() + person.maps.numel() + person.planes.numel()
        return 4 * (weights + photos + 3 * self.net.config.size_px**2) / 1e6


def _widened(tensor: Tensor) -> Tensor:
    return tensor.cpu().double() if tensor.is_floating_point() else tensor.cpu()


def _rounded(net, verts: Tensor) -> BoundPointField:
    cloud = net.cloud(verts)
    bound = type(net).forward(net, verts, 0)
    return BoundPointField(net, cloud, RoundedIndex(cloud, net.config.num_neighbours), bound.per_vertex)


def _random_weights(path: Path) -> Path:
    head = OpenHead.load()
    net = GPAvatarLite(GPAvatarLiteConfig(), LiteHead(head))
    for layer in (net.choice[-1], net.radiance[-1], net.picture.last):
        torch.nn.init.normal_(layer.weight, std=0.05)
    save_weights(net.state_dict(), path, WeightsInfo("gpavatar_lite", head.name, head.sha256, config_yaml(net.config)))
    return path


def _source(frame) -> SourceFrame:
    head = OpenHead.load()
    marks = frame.camera.project_px(head.topology.mediapipe.on(frame.verts, head.faces), PHOTOS_PX, PHOTOS_PX)
    empty = torch.zeros_like(frame.alpha)
    return SourceFrame(frame.image, frame.alpha, empty, frame.alpha, empty, frame.params, frame.camera, marks)
