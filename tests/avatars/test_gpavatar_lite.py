"""Laws of `gpavatar_lite`: what is drawn before anything was learned, of one photo and of several."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gpavatar.avatars import gpavatar_lite
from gpavatar.avatars.gpavatar_lite import GPAvatarLite, GPAvatarLiteConfig
from gpavatar.avatars.gpavatar_lite_picture import smoothed
from gpavatar.avatars.gpavatar_lite_warp import alike, carry, grown
from gpavatar.camera import Camera
from gpavatar.face.open_head import PARTS
from gpavatar.face.raster import rasterize, to_screen
from gpavatar.face.refine import landmark_offsets
from tests.avatars.tiny_lite import HEAD, SIZE, learned, person, photo, pose, stacked, tiny


def psnr(image: Tensor, truth: Tensor, weight: Tensor) -> float:
    error = ((image - truth).square() * weight).sum() / (3 * weight.sum())
    return float(-10 * torch.log10(error))


@torch.no_grad()
def test_untrained_head_that_does_not_move_is_its_photo():
    """All but a few pixels of the outline, where the other side of the face is preferred to a grazing view."""
    net, at = tiny().eval(), pose(0.2, jawOpen=0.3)
    image, alpha = photo(at)
    out = net(person(net, at), at)
    person_there = (alpha > 0.5) & (out.alpha > 0.5)
    colour = out.image / out.alpha.clamp_min(0.1)
    wrong = ((colour - image).abs().amax(1, keepdim=True) > 0.01) & person_there
    assert wrong.sum() < 0.02 * person_there.sum()
    assert psnr(colour, image, person_there & ~wrong) > 50
    assert (out.alpha - alpha).abs().mean() < 0.02


@torch.no_grad()
def test_larger_photos_give_larger_pictures():
    """The pixels of the photo where the head is as it was, and the same picture at either size where it is not."""
    net, at, target = learned(tiny()).eval(), pose(0.2, jawOpen=0.3), pose(0.3)
    image, alpha = photo(at)
    fine = functional.interpolate(image, scale_factor=2.0, mode="bicubic").clamp(0, 1)
    fine += 0.1 * torch.rand(fine.shape, generator=torch.Generator().manual_seed(0))
    large = functional.interpolate(alpha, scale_factor=2.0)
    untrained, poses = tiny().eval(), stacked(at)
    out = untrained(untrained.encode(fine[:, None], large[:, None], poses), at, size_px=2 * SIZE)
    assert out.image.shape[-1] == 2 * SIZE and psnr(out.image, fine * large, large) > 40
    made = net.encode(fine[:, None], large[:, None], poses)
    small, enlarged = net(made, target), net(made, target, size_px=2 * SIZE)
    assert small.image.shape[-1] == SIZE and (made.fine.shape[-1], enlarged.image.shape[-1]) == (2 * SIZE, 2 * SIZE)
    again = functional.avg_pool2d(torch.cat([enlarged.image, enlarged.alpha], 1), 2)
    assert (again - torch.cat([small.image, small.alpha], 1)).abs().mean() < 0.02


@torch.no_grad()
def test_untrained_head_that_turns_takes_its_colours_along():
    """The colour at a vertex that both views show is the photo's at that vertex."""
    net, source, target = tiny().eval(), pose(-0.1), pose(0.15)
    made = person(net, source)
    out = net(made, target)
    both = (made.views.vert_seen[0, 0] > 0.8) & (HEAD.head.head_weight > 0.99)
    colours = [
        torch.nn.functional.grid_sample(picture, at.camera.project(at.verts)[:, None] * 2 - 1)[0, :, 0, both]
        for picture, at in ((made.views.picture[:, 0, :3], source), (out.base, target))
    ]
    assert (colours[0] - colours[1]).abs().mean() < 0.02
    moved = torch.nn.functional.grid_sample(
        made.views.picture[:, 0, :3], target.camera.project(target.verts)[:, None] * 2 - 1
    )
    assert (colours[0] - moved[0, :, 0, both]).abs().mean() > 0.1  # it does turn


@torch.no_grad()
def test_photos_have_no_order():
    net = learned(tiny()).eval()
    a, b, target = pose(-0.05), pose(0.22, jawOpen=0.5), pose(0.1)
    one, other = net(person(net, a, b, seeds=(0, 1)), target), net(person(net, b, a, seeds=(1, 0)), target)
    assert torch.allclose(one.image, other.image, atol=1e-4) and torch.allclose(one.depth, other.depth, atol=1e-4)


@torch.no_grad()
def test_photos_count_by_how_the_head_stands():
    """w of a turn of 0.1 radians more, by hand; the picture is that of the photo whose head stands as in the frame."""
    net, target = tiny().eval(), pose(0.1)
    nobody = torch.zeros(1, 2, 3)  # the camera goes round the origin: a neck there does not move
    turned = dataclasses.replace(stacked(pose(0.15), pose(-0.05)), neck=nobody)
    weights = alike(dataclasses.replace(target, neck=nobody[:, 0]), turned)
    assert torch.allclose(weights, torch.tensor([[1.001, 0.001 + math.exp(-3.0)]]), atol=1e-4)
    far, near = pose(-0.3), pose(0.1)
    alone, beside = net(person(net, near), target), net(person(net, near, far), target)
    swapped = net(person(net, near, far, seeds=(1, 0)), target)
    changed, other = ((alone.image - one.image).abs().mean() for one in (beside, swapped))
    assert changed < 0.015 and other > 0.08  # what only the far photo shows is its own


@torch.no_grad()
def test_a_photo_given_twice_is_given_once():
    net, at, target = learned(tiny()).eval(), pose(-0.2), pose(0.1, eyeBlinkLeft=1.0)
    once, twice = net(person(net, at), target), net(person(net, at, at, seeds=(0, 0)), target)
    assert torch.allclose(once.image, twice.image, atol=1e-4)


@torch.no_grad()
def test_a_photo_that_shows_nothing_has_no_say():
    """Its head lies beside its frame."""
    net, at, target = tiny().eval(), pose(-0.1), pose(0.1)
    away = dataclasses.replace(at, camera=Camera(at.camera.c2w, at.camera.intrinsics + torch.tensor([0, 0, 5.0, 0])))
    alone, beside = net(person(net, at), target), net(person(net, at, away), target)
    seen = alone.image.abs().sum(1, keepdim=True) > 0
    difference = (alone.base - beside.base).abs() * seen
    assert difference.mean() < 0.01 and difference.median() < 1e-4
    swapped = net(person(net, away, at, seeds=(1, 0)), target)
    assert torch.allclose(swapped.image, beside.image, atol=1e-4)


def test_size_and_cost():
    """Issued with the model: at most 8 M parameters and 12 GFLOP a frame. Measured: 4.14 M and 3.9."""
    net = GPAvatarLite(GPAvatarLiteConfig(), HEAD).eval()
    assert sum(parameter.numel() for parameter in net.parameters()) < 4.5e6
    at = pose()
    with torch.no_grad():
        made = net.encode(torch.rand(1, 1, 3, 256, 256), torch.ones(1, 1, 1, 256, 256), stacked(at))
        with FlopCounterMode(display=False) as counter:
            net(made, at)
    assert 2e9 < counter.get_total_flops() < 6e9


def test_everything_learns_after_a_first_step():
    net = learned(tiny())
    out = net(person(net, pose(-0.2), pose(0.3)), pose(0.1, jawOpen=0.4), jitter=True)
    (out.image.square().mean() + out.alpha.square().mean() + out.low.mean() + out.depth.mean()).backward()
    # Of the style network's first level nothing but noise of a strength of 0 depends on these.
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_toy_overfit():
    """Two photos of one person, the second is the truth for the first. Measured: 0.123 -> 0.080."""
    net, source, target = tiny().train(), pose(-0.2), pose(0.2, jawOpen=0.6)
    (image, alpha), truth = photo(source), photo(target, seed=3)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    losses = []
    for _ in range(25):
        out = net(net.encode(image[:, None], alpha[:, None], stacked(source)), target)
        loss = (out.image - truth[0] * truth[1]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.75 * losses[0]


@torch.no_grad()
def test_pieces_and_left_out_samples_change_nothing(monkeypatch):
    net, target = learned(tiny()).eval(), pose(0.1)
    made = person(net, pose(-0.3), pose(0.3))
    whole = net(made, target)
    monkeypatch.setattr(gpavatar_lite, "CHUNK", 100)
    pieces = net(made, target)
    monkeypatch.setattr(
        net,
        "_raw",
        lambda frame, points, near, known, matte: net.networks(frame.person.planes, frame.points, points, near, known),
    )
    everywhere = net(made, target)
    for other in (pieces, everywhere):
        assert torch.allclose(whole.low, other.low, atol=1e-5) and torch.allclose(whole.image, other.image, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("turned", [0.0, 0.4])
def test_carried_where_the_head_was(turned):
    """A point on a vertex lands on that vertex in the photo; one of the shoulders shifts with the neck."""
    net, source, target = tiny(), pose(0.0, mouthSmileLeft=1.0), pose(turned, jawOpen=1.0)
    made = person(net, source)
    mesh = HEAD.driven(target, made.views)
    frame = net.frame(made, mesh)
    skull = (HEAD.head.head_weight[HEAD.cloud] > 0.999).nonzero()[::7, 0]
    points = mesh.verts[:, HEAD.cloud[skull]]
    near = frame.points.near(points)
    found = carry(mesh, made.views, points, near.numbers, near.weights, frame.table)
    truth = source.camera.project(source.verts[:, HEAD.cloud[skull]])
    assert (found.at[0, 0] - truth[0]).norm(dim=-1).median() < 1e-4
    shoulder = mesh.verts[:, HEAD.head.head_weight.argmin()][:, None] + torch.tensor([0.4, -0.3, 0.0])
    near = frame.points.near(shoulder)
    found = carry(mesh, made.views, shoulder, near.numbers, near.weights, frame.table)
    view, neck, own = (target.camera.to_view(p) for p in (shoulder, target.neck[:, None], source.neck[:, None]))
    own = source.camera.to_view(source.neck[:, None])
    moved = view - neck + own
    there = moved[..., :2] / moved[..., 2:] * source.camera.intrinsics[:, None, :2] + 0.5
    assert (found.at[0, 0] - there[0]).norm() < 0.03


@torch.no_grad()
def test_teeth_stand_side_by_side():
    """Through the middle of the upper front teeth, from the first to the last, there is nothing but teeth."""
    parts = HEAD.head.face_parts
    teeth = parts == PARTS.index("teeth_upper")
    at = pose(0.0, jawOpen=0.6, mouthSmileLeft=0.8, mouthSmileRight=0.8)
    front = HEAD.head.faces[teeth].unique()
    front = front[at.verts[0, front, 2] > at.verts[0, front, 2].max() - 0.08]
    row = int(at.camera.project(at.verts[:, front])[0, :, 1].quantile(0.7) * 1024)
    for fuller, whole in ((0, False), (1, True)):
        verts = at.verts - (1 - fuller) * HEAD.fuller
        fragments = rasterize(to_screen(verts, at.camera, 1024, 1024), HEAD.drawn, 1024, 1024)
        inside = at.camera.project(verts[:, front])[0, :, 0] * 1024
        across = slice(int(inside.min()) + 4, int(inside.max()) - 4)
        seen = parts[parts != PARTS.index("lashes")][fragments.face_ids[0, row, across]]
        assert bool((seen == PARTS.index("teeth_upper")).all()) == whole


@torch.no_grad()
def test_landmark_offsets_of_a_batch():
    at = stacked(pose(0.1), pose(-0.2, jawOpen=0.5))
    at = dataclasses.replace(at, verts=at.verts[0], neck=at.neck[0], camera=at.camera[0])
    points = HEAD.head.topology.mediapipe.on(at.verts, HEAD.head.faces)
    landmarks = at.camera.project(points) + 0.01 * torch.randn(2, 478, 2, generator=torch.Generator().manual_seed(0))
    landmarks[1, 100:200] = torch.nan
    found = HEAD.landmark_offsets(at, landmarks)
    for one in range(2):
        truth = landmark_offsets(HEAD.head, at.verts[one], at.camera[one], landmarks[one])
        lining = torch.zeros(len(truth), dtype=torch.bool).index_fill(0, HEAD.lining, True)
        assert torch.allclose(found[one, ~lining], truth[~lining], atol=1e-5)
        assert (found[one, lining] - truth[lining]).norm(dim=-1).median() < 2e-3  # nearest skin: at rest, not posed
    unknown = HEAD.landmark_offsets(at, torch.full_like(landmarks, torch.nan))
    assert not unknown.any()


def test_grown():
    """What is known stays, the rest lies between; one known pixel fills all; nothing known is nothing."""
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, SIZE, SIZE, generator=rng)
    weight = (torch.rand(2, 1, SIZE, SIZE, generator=rng) > 0.9).float()
    known = weight.expand_as(image) > 0
    found = grown(image, weight)
    assert torch.equal(found[known], image[known])
    assert image[known].min() <= found.min() and found.max() <= image[known].max()
    one = torch.zeros_like(weight[:1])
    one[0, 0, 5, 9] = 1.0
    assert torch.allclose(grown(image[:1], one), image[:1, :, 5:6, 9:10].expand(-1, -1, SIZE, SIZE), atol=1e-6)
    assert not grown(image, torch.zeros_like(weight)).any()


def test_no_chequered_pattern():
    """A constant stays, a chequer of single pixels vanishes."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    chequer = ((rows + columns) % 2).float().expand(1, 2, -1, -1)
    found = smoothed(chequer)[..., 1:-1, 1:-1]
    assert torch.allclose(found, torch.full_like(found, 0.5), atol=1e-6)
    assert torch.allclose(smoothed(torch.ones_like(chequer)), torch.ones_like(chequer), atol=1e-6)


@pytest.mark.parametrize("change", [{"pixels": False}, {"expression": "none"}])
@torch.no_grad()
def test_ablations_leave_their_part_out(change):
    """Without pixels the photo's colours are not in the picture; without points the field does not move it."""
    net, at = learned(tiny(**change)).eval(), pose(0.1)
    out = net(person(net, at), at)
    if "pixels" in change:
        image, alpha = photo(at)
        assert psnr(out.base, image * alpha, alpha) < 15
    else:
        net.point_field.features.add_(1.0)
        assert torch.equal(net(person(net, at), at).image, out.image)
