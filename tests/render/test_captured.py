"""A function that is recorded once and replayed is the function."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

import pytest
import torch

from gpavatar.render import captured
from gpavatar.render.captured import Captured


def both(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.sin() + y, (x * y).sum()


def test_the_result_is_the_functions(device, generator):
    """On a GPU the second and third call are replays; a new shape is recorded anew; earlier results stay."""
    fast, kept = Captured(both), []
    for rows in (3, 3, 3, 5, 3):
        given = torch.randn(2, rows, 4, generator=generator).to(device).unbind()
        kept.append((fast(*given), both(*given)))
    for found, wanted in kept:
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


class TapeGraph:
    """Stands in for a CUDA graph: replays what was called between begin and end by calling it again, in place."""

    def replay(self):
        found = self.function(*self.given)
        for kept, new in zip(self.results, found, strict=True):
            kept.copy_(new)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recording_by_a_stand_in(dtype, generator, monkeypatch):
    """Inputs are copied to where the graph reads, outputs from where it writes, one recording per shape."""
    calls = []

    @contextmanager
    def recording(graph):
        yield
        calls.append(graph)

    class Aside:
        def wait_stream(self, other): ...

    for name, stand_in in {
        "Stream": Aside, "current_stream": Aside, "stream": lambda aside: nullcontext(), "CUDAGraph": TapeGraph,
        "graph": recording,
    }.items():  # fmt: skip
        monkeypatch.setattr(captured.torch.cuda, name, stand_in)

    recorded: dict[int, captured._Recording] = {}
    for rows in (3, 3, 5, 3):
        given = torch.randn(2, rows, 4, generator=generator, dtype=dtype).unbind()
        if rows not in recorded:
            recorded[rows] = captured._Recording(both, given)
            graph = recorded[rows]._graph
            graph.function, graph.given, graph.results = both, recorded[rows]._given, recorded[rows]._results
        found = recorded[rows].replayed(given)
        torch.testing.assert_close(found, both(*given), rtol=0, atol=0)
        assert found[0].data_ptr() != recorded[rows]._results[0].data_ptr()
    assert len(calls) == 2
