"""Ways to bring frames together in a U-Net."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
import torch.nn.functional as functional

from gpavatar.synthesis.fusion_unet import WINDOW, FusionUNet, FusionUNetConfig
from gpavatar.synthesis.residual_trunk import Pyramid, ResidualTrunk, TrunkConfig
from gpavatar.types import map_tensors

TRUNK = TrunkConfig([1, 2, 1, 1], 8)


def unet(fusion: str, learned: float = 0.1) -> FusionUNet:
    """`learned`: how far its memories are from what they begin as."""
    torch.manual_seed(0)
    net = FusionUNet(4, FusionUNetConfig(TRUNK, fusion)).double()
    torch.manual_seed(1)
    for parameter in net.fusions.parameters():
        parameter.data += learned * torch.randn_like(parameter)
    return net


def pictures(number: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(number, 4, 32, 32, generator=generator, dtype=torch.float64)


def same(a: Pyramid, b: Pyramid) -> None:
    torch.testing.assert_close(a.maps, b.maps)


def differ(a: Pyramid, b: Pyramid) -> bool:
    return all(float((x - y).detach().abs().max()) > 1e-6 for x, y in zip(a.maps, b.maps, strict=True))


def test_sizes_at_full_width():
    """At 256 px: 512, 384, 256 and 96 channels at 16, 32, 64 and 128 px."""
    with torch.device("meta"):
        net = FusionUNet(7, FusionUNetConfig(TrunkConfig()))
        maps = net.step(taps := net.trunk(torch.empty(1, 7, 256, 256)), net.begin(taps)).maps
    assert [tuple(m.shape[1:]) for m in taps.maps] == [(512, 16, 16), (256, 32, 32), (128, 64, 64), (64, 128, 128)]
    assert [tuple(m.shape[1:]) for m in maps] == [(512, 16, 16), (384, 32, 32), (256, 64, 64), (96, 128, 128)]


def test_a_picture_is_read_by_itself(generator):
    trunk = ResidualTrunk(4, TRUNK).double()
    both = pictures(2, generator)
    same(map_tensors(trunk(both), lambda m: m[1:]), trunk(both[1:]))
    alone = trunk.eval()(both[1:])
    same(alone, trunk.train()(both[1:]))


@pytest.mark.parametrize("fusion", ["none", "recurrent", "window"])
def test_every_parameter_learns_from_the_finest_map(fusion, generator):
    net = unet(fusion)
    taps = net.trunk(pictures(1, generator))
    once = {
        "none": net.single,
        "recurrent": lambda t: net.step(t, net.step(t, net.begin(t))),
        "window": lambda t: net.window([t]),
    }[fusion]
    finest = once(taps).half
    (finest * torch.randn_like(finest)).sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or float(p.grad.abs().max()) == 0] == []


def test_a_level_hears_the_coarser_one_as_it_is_after_this_very_frame(generator):
    """The head of fusion_unet.py written out, over two frames."""
    net = unet("recurrent")
    state = net.begin(net.trunk(pictures(1, generator)))
    for picture in pictures(2, generator):
        taps = net.trunk(picture[None])
        h0 = net.fusions[0](net.levels[0](taps.sixteenth), state.sixteenth)
        h1 = net.fusions[1](net.levels[1](torch.cat([functional.pixel_shuffle(h0, 2), taps.eighth], 1)), state.eighth)
        h2 = net.fusions[2](net.levels[2](torch.cat([functional.pixel_shuffle(h1, 2), taps.quarter], 1)), state.quarter)
        h3 = net.fusions[3](net.levels[3](torch.cat([functional.pixel_shuffle(h2, 2), taps.half], 1)), state.half)
        state = net.step(taps, state)
        same(state, Pyramid(h0, h1, h2, h3))


def test_absent_frames_of_a_batch_change_nothing(generator):
    """Sequences of unequal length in one batch: whatever stands in the padding, even its channels permuted."""
    net, first, second = unet("recurrent"), pictures(2, generator), pictures(2, generator)
    state = net.step(net.trunk(first), net.begin(net.trunk(first)))
    present = torch.tensor([True, False])
    padded = net.step(net.trunk(second), state, present)
    permuted = second.clone()
    permuted[1] = permuted[1, [2, 0, 3, 1]]
    same(padded, net.step(net.trunk(permuted), state, present))
    same(map_tensors(padded, lambda m: m[1:]), map_tensors(state, lambda m: m[1:]))
    alone = net.step(net.trunk(second[:1]), map_tensors(state, lambda m: m[:1]))
    same(map_tensors(padded, lambda m: m[:1]), alone)
    assert differ(padded, net.step(net.trunk(permuted), state))


def test_memories_begin_as_the_answer_to_one_picture(generator):
    """A window of one picture is that picture's answer; a recurrent memory holds 1 − σ(−½) of it at its coarsest, and
    of the same picture over and over all."""
    alone, window, recurrent = (unet(fusion, learned=0.0) for fusion in ("none", "window", "recurrent"))
    taps = alone.trunk(pictures(1, generator))
    same(window.window([taps]), single := alone.single(taps))
    coarsest = [recurrent.begin(taps)]
    for _ in range(20):
        coarsest.append(recurrent.step(taps, coarsest[-1]))
    size = single.sixteenth.square().sum()
    share = [float((state.sixteenth * single.sixteenth).sum() / size) for state in coarsest]
    assert share[1] == pytest.approx(0.62, abs=0.1)
    assert share[-1] == pytest.approx(1.0, abs=0.1)


def test_a_window_is_filled_with_its_last_frame(generator):
    net = unet("window")
    taps = [net.trunk(picture[None]) for picture in pictures(WINDOW, generator)]
    same(net.window(taps[:2]), net.window([taps[0], taps[1], taps[1], taps[1]]))
    assert differ(net.window(taps[:2]), net.window(taps))
    assert differ(net.window(taps), net.window(taps[::-1]))  # places in the window are not alike
    batch = Pyramid(*(torch.cat([getattr(t, f.name) for t in taps[:2]]) for f in fields(Pyramid)))
    same(map_tensors(net.window([batch]), lambda m: m[1:]), net.window([taps[1]]))
