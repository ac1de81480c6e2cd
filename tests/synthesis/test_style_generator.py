"""StyleGAN2's generator, and what may be done to it on the way."""

from __future__ import annotations

import pytest
import torch

from gpavatar.synthesis.style_generator import FeatureTransform, Level, StyleGenerator, StyleGeneratorConfig

CONFIG = StyleGeneratorConfig(size_px=16, style_dim=6, channel_base=64, max_channels=8)  # 8 x 4², 8 x 8², 4 x 16²


@pytest.fixture
def made(generator) -> tuple[StyleGenerator, torch.Tensor]:
    torch.manual_seed(0)
    return StyleGenerator(CONFIG, out_dim=5, num_constants=2).eval(), torch.randn(2, 6, 6, generator=generator)


def test_resolutions_double_and_channels_follow_the_base(made):
    net, styles = made
    levels = net(styles)
    assert [tuple(level.feats.shape) for level in levels] == [(2, 8, 4, 4), (2, 8, 8, 8), (2, 4, 16, 16)]
    assert [tuple(level.image.shape) for level in levels] == [(2, 5, 4, 4), (2, 5, 8, 8), (2, 5, 16, 16)]
    assert StyleGeneratorConfig().num_styles == 14 and [StyleGeneratorConfig().channels(n) for n in (64, 128, 256)] == [
        512, 256, 128,
    ]  # fmt: skip


def test_every_style_counts_in_its_own_resolution_and_later(made):
    net, styles = made
    before = net(styles)
    for layer in range(6):
        changed = net(styles.index_add(1, torch.tensor([layer]), torch.ones(2, 1, 6)))
        same = [
            torch.equal(a.feats, b.feats) and torch.equal(a.image, b.image)
            for a, b in zip(before, changed, strict=True)
        ]
        first = [0, 0, 1, 1, 2, 2][layer]  # two convolutions and an output share the first place of the next resolution
        assert same == [n < first for n in range(3)], layer


def test_a_transform_of_zeros_changes_nothing_and_half_of_the_channels_are_kept(made, generator):
    net, styles = made
    zero = torch.zeros(2, 4, 8, 8)
    plain, same = net(styles), net(styles, transforms=[FeatureTransform(zero, zero)])
    assert torch.equal(plain[-1].image, same[-1].image)
    transform = FeatureTransform(*torch.randn(2, 2, 4, 8, 8, generator=generator))
    x = torch.randn(2, 8, 8, 8, generator=generator)
    assert torch.equal(transform(x)[:, :4], x[:, :4])
    torch.testing.assert_close(transform(x)[:, 4:], x[:, 4:] * (1 + transform.scale) + transform.shift)
    changed = net(styles, transforms=[transform])
    assert torch.equal(changed[0].feats, plain[0].feats) and not torch.equal(changed[1].feats, plain[1].feats)
    with pytest.raises(AssertionError):
        net(styles, transforms=[FeatureTransform(*torch.zeros(2, 2, 4, 32, 32))])


def test_what_is_edited_is_what_goes_on(made):
    net, styles = made

    def wiped(level: Level) -> Level:
        return Level(torch.zeros_like(level.feats), level.image) if level.feats.shape[-1] == 8 else level

    levels, again = net(styles, edit=wiped), net(styles.flip(0), edit=wiped)
    assert not levels[1].feats.any()
    torch.testing.assert_close(levels[2].feats, again[2].feats)  # nothing of the person is left but the style's scale
    assert not torch.allclose(net(styles)[2].feats, net(styles.flip(0))[2].feats)


def test_noise_is_fresh_in_training_alone_and_constants_have_their_own_image(made):
    net, styles = made
    for conv in (net.first, *net.grow, *net.refine):
        torch.nn.init.constant_(conv.noise_strength, 0.5)
    assert torch.equal(net(styles)[-1].image, net(styles)[-1].image)
    assert not torch.equal(net(styles)[-1].image, net(styles, constant=1)[-1].image)
    net.train()
    assert not torch.equal(net(styles)[-1].image, net(styles)[-1].image)
