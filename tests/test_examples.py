"""The examples run, and each fits on a screen."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_has_under_forty_lines_and_is_run_here(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40
    assert f'load("{path.stem}")' in Path(__file__).read_text(encoding="utf-8")


def test_importing_the_package_is_quick_and_brings_nothing_along() -> None:
    heavy = "{'torch', 'mediapipe', 'cv2', 'numba', 'av'}"
    code = f"import sys, gpavatar; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_building_a_model_needs_no_detector() -> None:
    code = "import sys, gpavatar; gpavatar.load_model('textured_mesh', 'cpu'); assert 'mediapipe' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there() -> None:
    import gpavatar

    for name in gpavatar.__all__:
        assert getattr(gpavatar, name).__name__ == name
    assert not set(gpavatar.__all__) ^ set(gpavatar._HOMES)


@pytest.mark.download
def test_reenact_photo(photo: Path, clip: Path, tmp_path: Path) -> None:
    load("reenact_photo").main(str(photo), str(clip), str(tmp_path / "out.mp4"), size_px=128)
    assert (tmp_path / "out.mp4").stat().st_size > 1000


@pytest.mark.download
def test_growing_avatar(photo: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """Made on one day and added to on the next, by a method that needs no time."""
    from gpavatar import methods

    monkeypatch.setitem(methods.METHODS, "flat", "flat_avatar:FlatAvatar")
    example, file = load("growing_avatar"), tmp_path / "me.safetensors"
    example.main(str(file), str(photo), model="flat")
    first = file.read_bytes()
    example.main(str(file), str(photo), model="flat")
    assert file.read_bytes() == first and capsys.readouterr().out == ""


@pytest.mark.download
def test_several_photos(photo: Path, tmp_path: Path) -> None:
    load("several_photos").main(str(tmp_path / "me.safetensors"), str(photo), str(photo), size_px=128)
    pictures = [path.read_bytes() for path in sorted(tmp_path.glob("smile_*.png"))]
    assert len(set(pictures)) == 3


@pytest.mark.download
def test_track_then_drive(photo: Path, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "me.png").write_bytes(photo.read_bytes())
    load("track_then_drive").main(str(clip), str(tmp_path / "me.png"), size_px=128)
    assert (tmp_path / "me_driven.mp4").stat().st_size > 1000
