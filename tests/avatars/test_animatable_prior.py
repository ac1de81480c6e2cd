"""The animatable prior: what moves, what does not, and what a seed decides."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gpavatar.avatars.animatable_prior import AnimatablePrior, Canonical, PlaneField, PriorConfig
from gpavatar.avatars.face_generator import Drawn, NeuralTexture
from gpavatar.camera import Camera
from gpavatar.face.open_head import OpenHead
from gpavatar.face.plane_views import FaceSurface, FaceViews
from gpavatar.render.volume import VolumeConfig
from gpavatar.synthesis.mapping import MappingConfig
from gpavatar.synthesis.style_generator import FeatureTransform, StyleGeneratorConfig
from gpavatar.synthesis.super_resolution import SuperResolutionConfig
from gpavatar.triplane.face_planes import FacePlane, with_face
from gpavatar.triplane.lookup import PLANES
from gpavatar.types import ARKIT_NAMES, HeadParams

TINY = PriorConfig(
    mapping=MappingConfig(code_dim=8),
    backbone=StyleGeneratorConfig(size_px=64, style_dim=8, channel_base=256, max_channels=8),
    plane_dim=4,
    conditioned_px=(8, 16, 32),
    decoder_dim=8,
    feat_dim=5,
    volume=VolumeConfig(size_px=8, num_coarse=6, num_fine=6),
    super_resolution=SuperResolutionConfig(in_size_px=16, channels=[8]),
)
CAMERA = Camera.frontal(5.0, 2.2)
CAMERAS = Camera(CAMERA.c2w.expand(2, 4, 4), CAMERA.intrinsics.expand(2, 4))


@pytest.fixture(scope="module")
def prior() -> AnimatablePrior:
    torch.manual_seed(0)
    return AnimatablePrior(TINY).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def head() -> OpenHead:
    return OpenHead.load()


def faces(prior: AnimatablePrior, head: OpenHead, **weights: float) -> FaceViews:
    params = HeadParams.neutral(head.n_shape, head.n_expression, (2,))
    for name, weight in weights.items():
        params.expression[:, ARKIT_NAMES.index(name)] = weight
    return prior.views(head.verts(params), FaceSurface.of(head.topology))


@pytest.fixture(scope="module")
def person(prior) -> Canonical:
    return prior.canonical(prior.sample_styles(CAMERAS, torch.Generator().manual_seed(1)))


def covered(prior: AnimatablePrior, views: FaceViews, kind: str = "filled") -> Tensor:
    """How much of each texel of the planes is the face's, from the masks alone."""
    alpha = torch.zeros(2, 3, 1, 64, 64)
    for plane, own in (("xy", [0]), ("yz", [1, 2])):
        mask = getattr(views.fine, kind)[:, own].any(1).float()
        face = FacePlane(plane, torch.ones(2, 1, 64, 64), mask)
        alpha = with_face(alpha, face, *TINY.window.texels(plane, 64))
    return alpha


def test_expression_moves_only_what_the_mask_covers(prior, person, head):
    """The other expression's planes differ from these nowhere but under one of the two masks; plane xz never."""
    calm, moved = faces(prior, head), faces(prior, head, jawOpen=0.8, browInnerUp=1.0)
    before, after = prior.planes(person, calm), prior.planes(person, moved)
    under = ((covered(prior, calm) > 0) | (covered(prior, moved) > 0)).expand_as(before)
    changed = before != after
    assert not (changed & ~under).any() and not changed[:, PLANES.index("xz")].any()
    for plane in ("xy", "yz"):
        n = PLANES.index(plane)
        assert changed[:, n].float().mean() > 0.5 * under[:, n].float().mean() > 0.02
    assert torch.equal(before[~(covered(prior, calm) > 0).expand_as(before)], person.static[
        ~(covered(prior, calm) > 0).expand_as(before)
    ])  # fmt: skip


def test_the_three_planes_are_distinct_and_all_are_looked_up(prior, person, head):
    """Nothing of one plane stands in another, and each changes the picture (a plane named twice would not)."""
    planes = prior.planes(person, faces(prior, head))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (planes[:, one] - planes[:, other]).abs().mean() > 0.01
        assert (planes[:, one] - planes[:, other].transpose(-1, -2)).abs().mean() > 0.01
    before = prior.render(planes, person.styles[:, -1], CAMERAS).raw
    for n in range(3):
        changed = planes.index_fill(1, torch.tensor([n]), 0.0)
        assert not torch.allclose(prior.render(changed, person.styles[:, -1], CAMERAS).raw, before, atol=1e-4), n


def test_the_mouth_is_the_generators_and_the_face_the_textures(prior, person, head):
    """Where the surface is seen, features are those of the texture; in the open mouth they are made from around it."""
    views = faces(prior, head, jawOpen=0.9)
    seen: list[Tensor] = []
    grow = prior.face_generator.generator.grow[-2]  # makes 32 px from what was left at 16 px
    hook = grow.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    prior.planes(person, views)
    hook.remove()
    drawn, surface = views.middle.drawn(person.texture.middle)[:, 0], views.middle.surface[:, 0]
    assert torch.equal(seen[0][surface.expand_as(drawn)], drawn[surface.expand_as(drawn)])
    hole = views.middle.filled[:, 0] & ~surface
    assert hole.any() and seen[0][hole.expand_as(drawn)].abs().sum() > 0
    mouth = (covered(prior, views) > 0.5) & (covered(prior, views, "surface") == 0)
    planes = prior.planes(person, views)
    assert mouth[:, 0].any() and (planes != person.static)[mouth.expand_as(planes)].all()  # not the static ones' either


def test_both_sides_have_a_mask(prior, person, head):
    """Taking a side view away changes plane yz, whichever side it is; where both see the face they are averaged."""
    views = faces(prior, head)
    sides = views.fine.only([1, 2])
    assert sides.surface.all(1).any()
    flat = Drawn.of(sides, torch.full((2, 3, 32, 32), 0.7))
    torch.testing.assert_close(flat.feats, 0.7 * flat.surface.expand_as(flat.feats).float())
    whole = prior.planes(person, views)
    for side in (1, 2):
        kept = [n != side for n in range(3)]
        mask = torch.tensor(kept)[:, None, None, None]
        half = [replace(maps, surface=maps.surface & mask) for maps in (views.coarse, views.middle, views.fine)]
        planes = prior.planes(person, FaceViews(*half))
        assert not torch.equal(planes[:, PLANES.index("yz")], whole[:, PLANES.index("yz")])
        assert torch.equal(planes[:, PLANES.index("xy")], whole[:, PLANES.index("xy")])


def test_zero_offsets_and_transforms_are_the_coarse_person_exactly(prior, person):
    zeros = NeuralTexture(*(torch.zeros(2, dim, size, size) for dim, size in prior.texture_shapes))
    halves = [(dim // 2, size) for dim, size in prior.static_shapes[2:]]
    transforms = [FeatureTransform(*torch.zeros(2, 2, dim, size, size)) for dim, size in halves]
    same = prior.canonical(person.styles, zeros, transforms)
    assert torch.equal(same.static, person.static)
    assert all(torch.equal(getattr(same.texture, n), getattr(person.texture, n)) for n in ("image", "coarse", "fine"))
    moved = prior.canonical(person.styles, replace(zeros, coarse=zeros.coarse + 1))
    torch.testing.assert_close(moved.texture.coarse, person.texture.coarse + 1)


def test_a_seed_is_a_person_and_truncation_zero_the_mean_face(prior, head):
    views = faces(prior, head)

    def drawn(seed: int, truncation: float = 1.0) -> Tensor:
        styles = prior.sample_styles(CAMERAS, torch.Generator().manual_seed(seed), truncation)
        return prior(styles, views, CAMERAS).image

    assert torch.equal(drawn(1), drawn(1)) and not torch.allclose(drawn(1), drawn(2), atol=1e-3)
    mean = prior(prior.mean_styles(2), views, CAMERAS).image
    assert torch.equal(drawn(1, 0.0), mean) and torch.equal(drawn(2, 0.0), mean)
    assert (drawn(1, 0.01) - mean).abs().max() < 0.1 * (drawn(1) - mean).abs().max()


@torch.no_grad()
def test_chunks_and_batches_change_nothing(prior, person, head):
    views = faces(prior, head)
    whole = prior.animate(person, views, CAMERAS)
    for samples in (7, 40):
        prior.config = replace(TINY, volume=replace(TINY.volume, max_samples=samples))
        parts = prior.animate(person, views, CAMERAS)
        prior.config = TINY
        torch.testing.assert_close(parts.image, whole.image, atol=1e-6, rtol=1e-5)
    one = Canonical(person.styles[:1], NeuralTexture(*(getattr(person.texture, n)[:1] for n in
                    ("image", "coarse", "middle", "fine"))), person.static[:1])  # fmt: skip
    first = FaceViews(*(replace(m, uv=m.uv[:1], surface=m.surface[:1], filled=m.filled[:1]) for m in
                        (views.coarse, views.middle, views.fine)))  # fmt: skip
    alone = prior.animate(one, first, CAMERAS[:1])
    torch.testing.assert_close(alone.image, whole.image[:1], atol=1e-5, rtol=1e-4)


def test_what_misses_the_cube_is_black_and_ranges_hold(prior, person, head):
    """A camera that sees far beyond the cube, at several sizes, with jitter."""
    wide = Camera(CAMERAS.c2w, torch.tensor([0.6, 0.6, 0.5, 0.5]).expand(2, 4))
    for size in (4, 8, 12):
        out = prior.animate(person, faces(prior, head), wide, size_px=size, jitter=True)
        assert out.raw.shape[-1] == size and out.image.shape[-1] == 32
        edge = torch.ones(size, size, dtype=torch.bool)
        edge[1:-1, 1:-1] = False
        assert not out.raw[..., edge].any() and not out.opacity[:, 0, edge].any()
        assert 0 <= out.feats.min() and out.feats.max() < 1.001 and out.opacity.max() <= 1
        inner = out.opacity[:, 0] > 0.05
        assert inner.any() and (out.depth[:, 0][inner] > 5 - 3**0.5).all() and (out.depth[:, 0][inner] < 8).all()


def test_nothing_is_outside_the_cube(prior, person, generator):
    points = 3 * torch.rand(2, 200, 3, generator=generator) - 1.5
    sigma = PlaneField(prior.decoder, person.static)(points, points).sigma
    inside = (points.abs() <= 1).all(-1)
    assert (sigma[inside] > 0).all() and not sigma[~inside].any() and 20 < inside.sum() < 200


def test_gradients_reach_everything_that_draws(head):
    torch.manual_seed(0)
    prior = AnimatablePrior(TINY)
    styles = prior.styles(torch.randn(2, 8), CAMERAS)
    prior(styles, faces(prior, head, jawOpen=0.5), CAMERAS).image.square().mean().backward()
    learning = {name: p.grad for name, p in prior.named_parameters() if p.requires_grad}
    assert [name for name, gradient in learning.items() if gradient is None or not gradient.any()] == []


def test_the_papers_sizes():
    """Facts of the released networks: 14 styles, features and images by resolution; convolutions counted by hand."""
    with torch.device("meta"):
        prior = AnimatablePrior(PriorConfig())
    assert prior.num_styles == 14
    assert prior.texture_shapes == ((32, 32), (512, 32), (512, 64), (256, 128))
    assert prior.static_shapes[2:] == ((512, 16), (512, 32), (512, 64), (256, 128), (128, 256))
    for generator, out_dim, constants, last, last_image in (
        (prior.texture_generator, 32, 1, 6, 4),  # features up to 128 px, images up to 32 px
        (prior.static_generator, 96, 1, 7, 7),
        (prior.face_generator, 32, 2, 7, 7),
    ):
        dims = [512, 512, 512, 512, 512, 256, 128][:last]  # at 4, 8, ... 256 px
        convs = [(512, 512), *(pair for a, b in zip(dims, dims[1:], strict=False) for pair in ((a, b), (b, b)))]
        # kernel, the style's affine map, bias, noise strength
        kernels = sum(9 * a * b + 512 * a + a + b + 1 for a, b in convs)
        outputs = sum(dim * out_dim + 512 * dim + dim + out_dim for dim in dims[:last_image])
        count = sum(parameter.numel() for parameter in generator.parameters())
        assert count == kernels + outputs + constants * 512 * 16
    assert sum(parameter.numel() for parameter in prior.parameters()) == pytest.approx(85.6e6, rel=0.001)
