"""Shared by all tests. setup.cfg switches on the shape check of every public function; test_types.py proves it."""

from __future__ import annotations

import os
import shutil
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch


def pytest_configure(config):
    """Parallel workers share the cores instead of each claiming all of them. No test signs with the user's own key.
    Without a GPU, Triton's kernels run in its interpreter: it must know before anything imports it."""
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
    config.own_folder = os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="gpavatar-tests-config-")
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


def pytest_unconfigure(config):
    """Leave nothing behind."""
    shutil.rmtree(config.own_folder)


@pytest.fixture
def generator() -> torch.Generator:
    """Random numbers that are the same in every run."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> torch.device:
    """Every device there is: the CPU always, CUDA where the machine has it."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def photo() -> Path:
    """A real photo that anybody can have: the astronaut, 512 x 512."""
    from gpavatar.assets import fetch

    return fetch("astronaut")


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    """Ten frames of a real clip, 640 x 360 at 30 frames/s, with a tone as its sound."""
    import av

    from gpavatar.assets import fetch

    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(fetch("pexels_clip"))) as source, av.open(str(path), "w") as target:
        video = target.add_stream("libx264", rate=30, width=640, height=360, options={"crf": "18"})
        sound = target.add_stream("aac", rate=48000, layout="mono")
        for index, frame in zip(range(10), source.decode(video=0), strict=False):
            picture = av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"), "rgb24")
            picture.pts, picture.time_base = index, Fraction(1, 30)
            target.mux(video.encode(picture))
        target.mux(video.encode(None))
        wave = np.sin(np.arange(16000) * (2 * np.pi * 440 / 48000), dtype=np.float32)[None]
        tone = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
        tone.sample_rate, tone.pts = 48000, 0
        target.mux(sound.encode(tone))
        target.mux(sound.encode(None))
    return path
