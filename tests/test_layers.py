"""Who may import whom, read from the source: docs/architecture.md in code."""

from __future__ import annotations

import ast
import configparser
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import gpavatar

PACKAGE = Path(gpavatar.__file__).parent
REPOSITORY = PACKAGE.parent

BASE = ["types", "camera", "config", "limits", "version", "assets", "retarget", "streaming", "bands"]
BASE += ["interrupt", "waiting"]
ROW_1 = ["media", "pretrained", "face", "tracking", "data"]
ROW_2 = ["synthesis", "triplane", "field", "render", "avatars", "training", "evaluation"]
ALSO = {"avatars": ["media", "face"], "training": ROW_1, "evaluation": ROW_1}
PIPELINE = ["methods", "building", "pipeline"]
PROGRAMS = ["reenact", "track", "train", "eval", "verify", "export", "live", "viewer", "__main__", "__init__"]

# What a name that is imported is called where packages are listed.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "mediapipe",
    "pytorch_lightning": "pytorch-lightning",
    "lightning_fabric": "pytorch-lightning",
    "yaml": "pyyaml",
}
DISTRIBUTIONS |= {"c2pa": "c2pa-python", "faiss": "faiss-cpu", "dlib": "dlib-bin"}
# Backends that are used where a user has them; no registry carries a build for every Python.
FOUND_AT_RUN_TIME = {"nvdiffrast", "pytorch3d"}


def may_use(unit: str) -> set[str]:
    """The units of the package (folders and top-level files) that `unit` may import."""
    for row in (ROW_1, ROW_2):
        if unit in row:
            return {unit, *BASE, *row[: row.index(unit)], *ALSO.get(unit, [])}
    if unit in BASE:
        return set(BASE)
    if unit in PIPELINE:
        return {*BASE, *ROW_1, *ROW_2, *PIPELINE[: PIPELINE.index(unit)]}
    if unit in PROGRAMS:
        return {*BASE, *ROW_1, *ROW_2, *PIPELINE}
    return set()


@dataclass(frozen=True)
class Import:
    """One imported name, e.g. gpavatar.media.video, and whether it happens when the module is loaded."""

    name: str
    line: int
    on_load: bool


def imports_of(path: Path) -> Iterator[Import]:
    """Every import of a file; `from a import b` counts as a.b. What stands under TYPE_CHECKING is never loaded."""

    def visit(node: ast.AST, on_load: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, on_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (Import(f"{module}.{alias.name}", node.lineno, on_load) for alias in node.names)
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        lazy |= isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, on_load and not lazy)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), True)


def violations(package: Path) -> list[str]:
    """Every import inside the package that goes against the direction, and every file that has no place in it."""
    found = []
    for path in sorted(package.rglob("*.py")):
        where = path.relative_to(package)
        unit = where.parts[0].removesuffix(".py")
        if not may_use(unit):
            found.append(f"{where}: {unit} has no place in the order of tests/test_layers.py")
            continue
        for imported in imports_of(path):
            parts = imported.name.split(".")
            if parts[0] == "":
                found.append(f"{where}:{imported.line}: a relative import; write gpavatar. ...")
            elif parts[0] == "gpavatar" and parts[1] != "__version__" and parts[1] not in may_use(unit):
                found.append(f"{where}:{imported.line}: {unit} may not use {parts[1]}")
    return found


def requirements() -> dict[str, set[str]]:
    """The packages that setup.cfg asks for, by extra; the base is ''."""
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    extras = {"": setup["options"]["install_requires"], **setup["options.extras_require"]}
    return {extra: set(re.findall(r"^[\w-]+", text, re.MULTILINE)) for extra, text in extras.items()}


def test_every_module_keeps_the_direction():
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("media/video.py", "from gpavatar.face.raster import rasterize", "media/video.py:1: media may not use face"),
        ("face/flame.py", "import gpavatar.tracking.fit", "face/flame.py:1: face may not use tracking"),
        ("face/flame.py", "def f():\n    from gpavatar import pipeline", "face/flame.py:2: face may not use pipeline"),
        ("types.py", "from gpavatar.media import image", "types.py:1: types may not use media"),
        ("avatars/mesh.py", "from gpavatar.training import losses", "avatars/mesh.py:1: avatars may not use training"),
        (
            "avatars/mesh.py",
            "from gpavatar.pretrained import matting",
            "avatars/mesh.py:1: avatars may not use pretrained",
        ),
        ("pipeline.py", "from gpavatar.reenact import reenact", "pipeline.py:1: pipeline may not use reenact"),
        ("reenact.py", "from gpavatar.track import track", "reenact.py:1: reenact may not use track"),
        ("media/video.py", "from .image import read_image", "media/video.py:1: a relative import; write gpavatar. ..."),
        ("helpers.py", "", "helpers.py: helpers has no place in the order of tests/test_layers.py"),
    ],
)
def test_the_checker_bites(tmp_path, file, line, said):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(line)
    assert violations(tmp_path) == [said]


def test_the_checker_lets_pass_what_is_allowed(tmp_path):
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking" / "fit.py").write_text(
        "from gpavatar.face.morphable import A\nfrom gpavatar.types import B\n"
    )
    (tmp_path / "reenact.py").write_text(
        "from gpavatar import __version__\nfrom gpavatar.pipeline import C\nimport torch"
    )
    assert violations(tmp_path) == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_imports(path):
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    importlib.import_module(".".join(parts).removesuffix(".__init__"))


def test_every_import_is_asked_for_in_setup_cfg():
    declared = requirements()
    everything = set().union(*declared.values())
    missing = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for imported in imports_of(path):
            top = imported.name.split(".")[0]
            if top in sys.stdlib_module_names or top == "gpavatar":
                continue
            trains = path.parent.name == "training" or path.relative_to(PACKAGE).as_posix() == "data/module.py"
            there = declared[""] | (declared["train"] if trains else set())
            there |= declared["gpu"] if path.stem.endswith("_triton") else set()
            there = there if imported.on_load else everything | FOUND_AT_RUN_TIME
            if DISTRIBUTIONS.get(top, top) not in there:
                missing.append(f"{path.relative_to(PACKAGE)}:{imported.line}: {top}")
    assert missing == []


def test_kernels_for_a_gpu_are_loaded_by_each_other_or_when_asked_for():
    for path in sorted(PACKAGE.rglob("*.py")):
        loaded = [one.name for one in imports_of(path) if one.on_load and "_triton" in one.name]
        assert path.stem.endswith("_triton") or not loaded, path


def test_torchvision_is_nowhere_and_lightning_only_where_training_happens():
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE)
        tops = {imported.name.split(".")[0] for imported in imports_of(path)}
        assert not tops & {"torchvision", "lpips", "facenet_pytorch"}, where
        if where.parts[0] != "training" and str(where) not in ("data/module.py", "train.py", "eval.py"):
            assert not tops & {"pytorch_lightning", "lightning_fabric", "lightning", "wandb"}, where


def test_drawing_needs_no_detector_no_video_and_no_compiler():
    modules = ["gpavatar.types", "gpavatar.camera", "gpavatar.avatars.base"]
    for folder in ("face", "synthesis", "triplane", "field", "render"):
        modules += [f"gpavatar.{folder}.{path.stem}" for path in (PACKAGE / folder).glob("*.py")]
    modules = [module for module in modules if not module.endswith(("__init__", "_numba", "_triton"))]
    code = f"import sys, importlib; sys.modules.update(dict.fromkeys({['mediapipe', 'numba', 'cv2', 'av']}))\n"
    code += f"for name in {modules}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_setup_cfg_lists_every_folder():
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    listed = set(setup["options"]["packages"].split()) - {"gpavatar.checkpoints"}
    folders = {path.parent.relative_to(REPOSITORY) for path in PACKAGE.rglob("*.py")}
    assert listed == {".".join(folder.parts) for folder in folders}
