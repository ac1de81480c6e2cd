"""Files that are damaged, or made to do harm: they are listed with their reason, and the run goes on."""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import archive
from data_prep.archive import unpack
from data_prep.clips import Tools
from data_prep.find import find_folder
from data_prep.manifest import OutputError
from data_prep.run import run
from gpavatar.media.files import temporary_name
from gpavatar.types import InputError
from tests.data_prep.conftest import SMALL


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as file:
        for member in members:
            file.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


def zip_of(path: Path, name: str, data: bytes, mode: int = 0o100644) -> Path:
    info = zipfile.ZipInfo(name)
    info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(info, data)
    return path


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "upwards.tar": lambda p: tar_of(p, member("a/../../../evil.mp4")),
    "absolute.tar": lambda p: tar_of(p, member("/tmp/evil.mp4")),
    "backslash.tar": lambda p: tar_of(p, member("..\\evil.mp4")),
    "symlink.tar": lambda p: tar_of(p, member("link", tarfile.SYMTYPE, "/etc"), member("link/evil.mp4")),
    "hardlink.tar": lambda p: tar_of(p, member("hard.mp4", tarfile.LNKTYPE, "/etc/passwd")),
    "device.tar": lambda p: tar_of(p, member("zero.mp4", tarfile.CHRTYPE)),
    "pipe.tar": lambda p: tar_of(p, member("pipe.mp4", tarfile.FIFOTYPE)),
    "upwards.zip": lambda p: zip_of(p, "../evil.mp4", b"x"),
    "symlink.zip": lambda p: zip_of(p, "link.mp4", b"/etc/passwd", mode=0o120777),
    "bomb.zip": lambda p: zip_of(p, "bomb.mp4", bytes(archive.FREE_BYTES + 1)),
    "no.tar": lambda p: p.write_bytes(b"nothing of the kind" * 99) and p,
    "cut.zip": lambda p: p.write_bytes(zip_of(p, "a.mp4", os.urandom(999)).read_bytes()[:500]) and p,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_leaves_nothing(name, tmp_path) -> None:
    path = HOSTILE[name](tmp_path / name)
    with pytest.raises(InputError, match=name) as refused:
        unpack(path, tmp_path / "out" / "inner")
    assert "\n" not in str(refused.value)
    assert not list((tmp_path / "out").iterdir())
    assert not list(tmp_path.parent.rglob("evil.mp4"))


def test_damage_within_an_archive_is_one_line(tmp_path) -> None:
    """Of every kind of compression; what is damaged may be a header, a checksum or the end."""
    for suffix, mode in ((".tar.xz", "w:xz"), (".tar.gz", "w:gz"), (".tar.bz2", "w:bz2")):
        whole = tmp_path / f"whole{suffix}"
        with tarfile.open(whole, mode) as file:
            file.addfile(member("a.mp4", size=200_000), io.BytesIO(os.urandom(200_000)))
        data, rng = whole.read_bytes(), random.Random(1)
        for number in range(40):
            broken = bytearray(data)
            broken[rng.randrange(len(data))] ^= 0x55
            (tmp_path / f"broken{suffix}").write_bytes(broken)
            try:
                unpack(tmp_path / f"broken{suffix}", tmp_path / f"inner{suffix}{number}")
            except InputError as error:
                assert "damaged or not an archive" in str(error) and "\n" not in str(error)


def test_a_full_disk_is_not_the_archives_fault(tmp_path, monkeypatch) -> None:
    path = zip_of(tmp_path / "plain.zip", "a.mp4", b"abc")

    def full(*_) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(archive, "_unpack_into", full)
    with pytest.raises(OutputError, match="No space left on device"):
        unpack(path, tmp_path / "out" / "inner")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_killed_run_unpacked_in_part_is_cleared(tmp_path) -> None:
    path, gone = zip_of(tmp_path / "plain.zip", "a.mp4", b"abc"), temporary_name(tmp_path / "inner")
    left = gone.with_name(gone.name.replace(f".{os.getpid()}.", ".4194305."))  # no process has this number
    left.mkdir()
    (left / "half.mp4").write_bytes(b"half")
    unpack(path, tmp_path / "inner")
    assert not left.exists() and (tmp_path / "inner" / "a.mp4").read_bytes() == b"abc"


def test_a_plain_archive_is_unpacked_once(tmp_path) -> None:
    path = tar_of(tmp_path / "a.tar", member("x/", tarfile.DIRTYPE), member("x/one.mp4", size=9), member("two.mp4"))
    unpack(path, tmp_path / "inner")
    assert sorted(p.name for p in (tmp_path / "inner").rglob("*.mp4")) == ["one.mp4", "two.mp4"]
    (tmp_path / "inner" / "two.mp4").unlink()
    unpack(path, tmp_path / "inner")
    assert not (tmp_path / "inner" / "two.mp4").exists()


def test_too_many_files_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 2)
    path = tar_of(tmp_path / "a.tar", *(member(f"{i}.mp4") for i in range(3)))
    with pytest.raises(InputError, match="more than 2"):
        unpack(path, tmp_path / "inner")


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with some changed, cut, doubled or cleared."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 4, 40))):
        at, size = rng.randrange(len(result)), rng.randrange(1, 200)
        kind = rng.randrange(4)
        if kind == 0:
            result[at] = rng.randrange(256)
        elif kind == 1:
            result[at : at + size] = bytes(len(result[at : at + size]))
        elif kind == 2:
            del result[at : at + size]
        else:
            result[at:at] = result[at : at + size]
    return bytes(result)


def png_bomb() -> bytes:
    """A PNG that claims 60000 x 60000 pixels."""
    header = (60000).to_bytes(4, "big") * 2 + bytes((8, 2, 0, 0, 0))
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )


def test_the_run_goes_on(two_clips, tmp_path, recwarn) -> None:
    """One good file among damaged and hostile ones."""
    folder, rng = tmp_path / "in", random.Random(1)
    folder.mkdir()
    good = (two_clips / "smiling.mp4").read_bytes()
    (folder / "good.mp4").write_bytes(good)
    for number in range(6):
        (folder / f"mutant{number}.mp4").write_bytes(mutated(good, rng))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("not a video")
    (folder / "bomb.png").write_bytes(png_bomb())
    (folder / "link.mp4").symlink_to("/etc/passwd")
    (folder / "folder_link").symlink_to("/etc")
    HOSTILE["upwards.tar"](folder / "upwards.tar")
    with tarfile.open(folder / "fine.tar", "w") as file:
        file.add(two_clips / "others" / "still.png", "somebody/still.png")

    outcome = run(find_folder(folder, tmp_path / "out" / "work" / "unpacked"), tmp_path / "out", SMALL)
    verdicts = {clip.clip: clip.dropped for clip in outcome.clips}
    assert verdicts["good_0"] == "" and verdicts["fine_tar_somebody_still_0"] == ""
    assert {one.file for one in outcome.found.refused} == {"link.mp4", "folder_link", "upwards.tar"}
    quarantined = {one.source: one.quarantined for one in outcome.sources if one.quarantined}
    assert quarantined.keys() >= {"empty", "text", "bomb"}
    assert all(why and "\n" not in why for why in quarantined.values())
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    assert len(lines) == len(outcome.clips) + len(quarantined) + 3


def test_what_is_not_the_footages_fault_stops_the_run(two_clips, tmp_path, monkeypatch) -> None:
    def no_model(*_):
        raise RuntimeError("no model")

    monkeypatch.setattr(Tools, "of_process", no_model)
    with pytest.raises(RuntimeError, match="no model"):
        run(find_folder(two_clips, tmp_path / "unpacked"), tmp_path / "out", SMALL)
    assert not list((tmp_path / "out" / "work" / "sources").iterdir())


def test_a_full_disk_stops_the_run_and_blames_no_file(two_clips, tmp_path, monkeypatch) -> None:
    replace = Path.replace

    def full(source: Path, target: Path) -> Path:
        if Path(target).suffix == ".npz":
            raise OSError(28, "No space left on device")
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", full)
    out = tmp_path / "out"
    with pytest.raises(Exception, match="No space left"):
        run(find_folder(two_clips, tmp_path / "unpacked"), out, SMALL)
    monkeypatch.undo()
    assert not list((out / "work" / "sources").iterdir())
    shutil.rmtree(out)
