"""The dual discriminator: what it looks at, and what it is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gpavatar.synthesis.discriminator import DiscriminatorConfig, DualDiscriminator, group_deviation

SMALL = DiscriminatorConfig(size_px=16, channel_base=64, max_channels=8, pose_dim=6, group_size=2)


def inputs(generator) -> tuple[torch.Tensor, ...]:
    image, raw = torch.rand(4, 3, 16, 16, generator=generator), torch.rand(4, 3, 8, 8, generator=generator)
    return image, raw, torch.rand(4, 3, 12, 12, generator=generator), torch.randn(4, 16, generator=generator)


def test_all_that_it_is_given_counts(generator):
    torch.manual_seed(0)
    judge, given = DualDiscriminator(SMALL), inputs(generator)
    before = judge(*given)
    assert before.shape == (4,)
    for number in range(4):
        changed = [one + 0.2 if number == n else one for n, one in enumerate(given)]
        assert not torch.allclose(judge(*changed), before, atol=1e-5), number


def test_conditions_can_be_left_out_but_not_half(generator):
    torch.manual_seed(0)
    image, raw, landmarks, pose = inputs(generator)
    assert DualDiscriminator(replace(SMALL, with_pose=False))(image, raw, landmarks).shape == (4,)
    assert DualDiscriminator(replace(SMALL, with_landmarks=False))(image, raw, None, pose).shape == (4,)
    for missing in ((image, raw, landmarks), (image, raw, None, pose)):
        with pytest.raises(AssertionError):
            DualDiscriminator(SMALL)(*missing)


def test_pictures_of_one_size_are_stacked_as_they_are(generator):
    image, raw, landmarks, _ = inputs(generator)
    stacked = DualDiscriminator(SMALL).stack(image, raw, landmarks)
    torch.testing.assert_close(stacked[:, :3], 2 * image - 1)
    flat = DualDiscriminator(SMALL).stack(image, torch.full_like(raw, 0.25), landmarks)
    torch.testing.assert_close(flat[:, 3:6], torch.full((4, 3, 16, 16), -0.5))
    assert stacked.shape == (4, 9, 16, 16)


def test_the_group_statistic_by_hand(generator):
    x = torch.randn(4, 3, 5, 5, generator=generator)
    found = group_deviation(x, 2)
    for member, other in ((0, 2), (1, 3)):
        value = ((x[member] - x[other]).abs() / 2).mean()  # standard deviation of two numbers
        torch.testing.assert_close(found[[member, other]], value.expand(2, 1, 5, 5))
    assert group_deviation(x[:1].expand(4, -1, -1, -1), 4).max() < 2e-4  # all alike
    assert group_deviation(x[:3], 4).unique().numel() == 1  # does not divide: one group
