"""Writing: what is asked for stands under its name when whole, never before; times and sound are the driver's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import av
import awkward_files as awkward
import numpy as np
import pytest

from gpavatar.media.audio import AudioTrack
from gpavatar.media.files import temporary_name
from gpavatar.media.image import read_image
from gpavatar.media.provenance import Marks, read_credentials, sign
from gpavatar.media.video import open_video
from gpavatar.media.writer import DirectoryWriter, ImageWriter, VideoWriter, open_writer
from gpavatar.types import InputError, InputWarning

WIDTH, HEIGHT = 96, 64


def write(path: Path, times_s: list[float | None], size=(WIDTH, HEIGHT), **options) -> Path | None:
    with open_writer(path, *size, marks=None, **options) as writer:
        for index, time_s in enumerate(times_s):
            writer.write(awkward.marked_frame(*size, index), time_s)
    return path


def test_frames_come_back_in_order_and_colour(tmp_path):
    frames = list(open_video(write(tmp_path / "a.mp4", [None] * 30, fps=30.0)))
    assert [awkward.read_index(frame.image_u8) for frame in frames] == list(range(30))
    assert [frame.time_s for frame in frames] == pytest.approx([index / 30 for index in range(30)], abs=1e-9)
    patches = frames[3].image_u8[8:24, 8:40], frames[3].image_u8[8:24, 56:88], frames[3].image_u8[40:56, 8:40]
    colours = np.array([patch.mean((0, 1)) for patch in patches])
    assert np.abs(colours - [awkward.RED, awkward.GREEN, awkward.BLUE]).max() < 4


@pytest.mark.parametrize(
    "times_s",
    [
        [0.0, 0.04, 0.05, 0.2, 0.21, 0.5, 1.0, 1.001],
        [index * 1001 / 24_000 for index in range(12)],
        [7.52 + index / 25 for index in range(12)],
    ],
)
def test_time_stamps_are_those_of_the_reader(tmp_path, times_s):
    """A driver of variable rate is read, written, and read again: the same times, from 0."""
    driver = awkward.write_clip(
        tmp_path / "driver.mp4", [awkward.marked_frame(WIDTH, HEIGHT, i) for i in range(len(times_s))], times_s
    )
    reader = open_video(driver)
    with VideoWriter(tmp_path / "a.mp4", WIDTH, HEIGHT, fps=reader.info.fps) as writer:
        for frame in reader:
            writer.write(frame.image_u8, frame.time_s)
    written = [frame.time_s for frame in open_video(tmp_path / "a.mp4")]
    assert written == pytest.approx([time_s - times_s[0] for time_s in times_s], abs=1.01 / 12_000)
    assert np.array(written) == pytest.approx([frame.time_s - reader_start(driver) for frame in reader], abs=1e-5)


def reader_start(path: Path) -> float:
    return next(iter(open_video(path))).time_s


def test_plays_in_a_browser(tmp_path):
    """H.264 High or below, yuv420p, tagged BT.709 limited range, index before the data."""
    path = write(tmp_path / "a.mp4", [None] * 5)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, stream.pix_fmt) == ("h264", "yuv420p")
        tags = context.colorspace, context.color_range, context.color_primaries, context.color_trc
        assert tags == (1, 1, 1, 1)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("size", [(501, 333), (97, 64), (64, 97)])
def test_odd_sizes_are_padded_by_a_pixel(tmp_path, size):
    frame = next(iter(open_video(write(tmp_path / "a.mp4", [None] * 2, size)))).image_u8
    assert frame.shape[:2] == (size[1] + size[1] % 2, size[0] + size[0] % 2)
    assert awkward.corners(frame) == ["red", "green", "blue", "grey"]


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", "aac"), (".mp4", "libmp3lame"), (".mkv", "pcm_s16le"), (".mkv", "libopus")]
)
@pytest.mark.parametrize(("start_s", "end_s"), [(None, None), (0.72, 2.4)])
def test_sound_is_kept_in_time(tmp_path, suffix, codec, start_s, end_s):
    at_s = [0.3, 0.9, 1.5, 2.1, 2.7]
    rate = 48_000 if codec == "libopus" else 44_100
    frames = [awkward.marked_frame(WIDTH, HEIGHT, index) for index in range(75)]
    sound = awkward.clicks(3.2, at_s, rate)
    driver = awkward.write_clip(
        tmp_path / f"driver{suffix}",
        frames,
        sound=sound,
        sound_codec=codec,
        sound_rate=rate,
        container_options={"output_ts_offset": "5"} if start_s else {},
    )
    heard_in_driver = awkward.click_times(*awkward.read_sound(driver))
    assert len(heard_in_driver) == 5
    reader = open_video(driver, start_s=start_s, end_s=end_s)
    with VideoWriter(tmp_path / "a.mp4", WIDTH, HEIGHT, fps=reader.info.fps, audio_from=driver) as writer:
        for frame in reader:
            writer.write(frame.image_u8, frame.time_s)
    with av.open(str(tmp_path / "a.mp4")) as container:
        copied = {"aac": "aac", "libmp3lame": "mp3"}
        assert container.streams.audio[0].codec_context.codec.canonical_name == copied.get(codec, "aac")
        duration_s = container.duration / av.time_base
    expected = [at - (start_s or 0) for at in heard_in_driver if (start_s or 0) <= at < (end_s or 9)]
    assert awkward.click_times(*awkward.read_sound(tmp_path / "a.mp4")) == pytest.approx(expected, abs=0.012)
    assert duration_s == pytest.approx((end_s or 3.0) - (start_s or 0.0), abs=0.05)


def test_copied_sound_is_right_from_its_first_sample(tmp_path):
    """A tone that is cut in its middle: no packet is decoded without the one before it."""
    rate = 44_100
    tone = 0.5 * np.sin(2 * np.pi * 441 * np.arange(2 * rate) / rate).astype(np.float32)
    frames = [awkward.marked_frame(WIDTH, HEIGHT)] * 50
    driver = awkward.write_clip(tmp_path / "driver.mp4", frames, sound=tone, sound_rate=rate)
    write(tmp_path / "a.mp4", [0.72 + index / 25 for index in range(10)], audio_from=driver)
    samples, _, start_s = awkward.read_sound(tmp_path / "a.mp4")
    assert start_s == pytest.approx(0, abs=0.024)
    loudness = np.sqrt((samples[:12_000].reshape(-1, 400) ** 2).mean(1))  # 400 samples are 4 periods
    assert loudness == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


def test_driver_without_sound(tmp_path):
    driver = write(tmp_path / "driver.mp4", [None] * 5)
    write(tmp_path / "a.mp4", [None] * 5, audio_from=driver)
    assert not open_video(tmp_path / "a.mp4").info.has_audio


def test_sound_from_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "d.mp4").write_text("not a film " * 50)
    with pytest.raises(InputError, match=r"d\.mp4: not a video"):
        VideoWriter(tmp_path / "a.mp4", WIDTH, HEIGHT, audio_from=tmp_path / "d.mp4")
    assert os.listdir(tmp_path) == ["d.mp4"]


def test_nothing_under_the_name_until_whole(tmp_path):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, WIDTH, HEIGHT) as writer:
        for _ in range(60):
            writer.write(awkward.marked_frame(WIDTH, HEIGHT))
        assert not path.exists()
    assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("name", ["a.mp4", "a.png", "frames"])
def test_after_an_exception_nothing_is_left(tmp_path, name):
    with pytest.raises(ZeroDivisionError), open_writer(tmp_path / name, WIDTH, HEIGHT) as writer:
        writer.write(awkward.marked_frame(WIDTH, HEIGHT))
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.png", "frames"])
def test_what_a_killed_run_left_is_gone_after_the_next(tmp_path, name, monkeypatch):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: process.pid)
        temporary_name(tmp_path / name).write_bytes(b"half")
    write(tmp_path / name, [None])
    assert os.listdir(tmp_path) == [name]


def test_an_older_result_survives_a_failed_run(tmp_path):
    path = write(tmp_path / "a.mp4", [None] * 5)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), VideoWriter(path, WIDTH, HEIGHT) as writer:
        writer.write(awkward.marked_frame(WIDTH, HEIGHT))
        raise ZeroDivisionError
    assert path.read_bytes() == before


def test_interrupted_run_leaves_a_playable_part(tmp_path):
    sound = awkward.clicks(3.0, [0.3, 1.5], 44_100)
    driver = awkward.write_clip(
        tmp_path / "d.mp4", [awkward.marked_frame(WIDTH, HEIGHT)] * 50, sound=sound, sound_rate=44_100
    )
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", WIDTH, HEIGHT, audio_from=driver) as writer:
        for index in range(20):
            writer.write(awkward.marked_frame(WIDTH, HEIGHT, index), index / 25)
        raise KeyboardInterrupt
    assert sorted(os.listdir(tmp_path)) == ["a.partial.mp4", "d.mp4"]
    reader = open_video(tmp_path / "a.partial.mp4")
    assert [awkward.read_index(frame.image_u8) for frame in reader] == list(range(20))
    assert awkward.click_times(*awkward.read_sound(tmp_path / "a.partial.mp4")) == pytest.approx([0.3], abs=0.03)


def test_interrupted_while_finishing(tmp_path, monkeypatch):
    """Ctrl-C during the last wait: what is written stands, as partial."""
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", WIDTH, HEIGHT) as writer:
        for index in range(10):
            writer.write(awkward.marked_frame(WIDTH, HEIGHT, index))
        join = writer._thread.join

        def interrupted_once():
            monkeypatch.setattr(writer._thread, "join", join)
            raise KeyboardInterrupt

        monkeypatch.setattr(writer._thread, "join", interrupted_once)
        writer.finish()
    assert os.listdir(tmp_path) == ["a.partial.mp4"]
    assert len(list(open_video(tmp_path / "a.partial.mp4"))) == 10


def test_finish_names_what_it_wrote(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", WIDTH, HEIGHT) as writer:
        writer.write(awkward.marked_frame(WIDTH, HEIGHT))
        assert writer.finish(partial=True) == tmp_path / "a.partial.mp4"
        assert writer.finish() is None, "a second time there is nothing to do"
    with VideoWriter(tmp_path / "b.mp4", WIDTH, HEIGHT) as writer:
        assert writer.finish() is None
    assert os.listdir(tmp_path) == ["a.partial.mp4"]


def test_frame_may_be_overwritten_after_write(tmp_path):
    canvas = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    with VideoWriter(tmp_path / "a.mp4", WIDTH, HEIGHT) as writer:
        for index in range(30):
            canvas[:] = awkward.marked_frame(WIDTH, HEIGHT, index)
            writer.write(canvas)
    read = [awkward.read_index(frame.image_u8) for frame in open_video(tmp_path / "a.mp4")]
    assert read == list(range(30))


def test_error_of_the_encoder_reaches_the_caller(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="boom"), VideoWriter(tmp_path / "a.mp4", WIDTH, HEIGHT) as writer:

        def fail(image_u8, time_s):
            raise RuntimeError("boom")

        monkeypatch.setattr(writer, "_encode", fail)
        for _ in range(20):
            writer.write(awkward.marked_frame(WIDTH, HEIGHT))
            time.sleep(0.01)
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"a\.mp4: cannot be written"):
        VideoWriter(tmp_path / "file" / "a.mp4", WIDTH, HEIGHT)
    with pytest.raises(InputError, match=r"cannot write \.docx files"):
        open_writer(tmp_path / "a.docx", WIDTH, HEIGHT)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(InputError, match="not an empty directory"):
        open_writer(tmp_path / "full", WIDTH, HEIGHT)


FULL_DISK = """
import resource, sys, numpy as np
from gpavatar.media.writer import open_writer
from gpavatar.types import InputError, InputWarning
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
rng = np.random.default_rng(0)
for path in sys.argv[1:]:
    try:
        with open_writer(path, 256, 256) as writer:
            for _ in range(12):
                writer.write(rng.integers(0, 255, (256, 256, 3), np.uint8))
    except InputError as error:
        print(error)
"""


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    """A limit on the size of files stands for a disk that fills up."""
    paths = [tmp_path / name for name in ("a.mp4", "a.png", "frames")]
    command = [sys.executable, "-c", FULL_DISK, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    message = "cannot be written (File too large); choose another place or free some space"
    assert done.stdout.splitlines() == [f"{path}: {message}" for path in paths], done.stderr
    assert os.listdir(tmp_path) == []


def test_single_image(tmp_path):
    write(tmp_path / "a.png", [None])
    assert np.array_equal(read_image(tmp_path / "a.png"), awkward.marked_frame(WIDTH, HEIGHT))
    with pytest.raises(InputError, match="an image holds one frame"):
        write(tmp_path / "b.png", [None] * 2)
    assert os.listdir(tmp_path) == ["a.png"]


def test_directory_of_frames(tmp_path):
    with open_writer(tmp_path / "frames", WIDTH, HEIGHT, marks=None) as writer:
        for index in range(3):
            writer.write(awkward.marked_frame(WIDTH, HEIGHT, index))
    assert sorted(os.listdir(tmp_path / "frames")) == ["000000.png", "000001.png", "000002.png"]
    assert np.array_equal(read_image(tmp_path / "frames/000002.png"), awkward.marked_frame(WIDTH, HEIGHT, 2))
    with pytest.raises(KeyboardInterrupt), open_writer(tmp_path / "more", WIDTH, HEIGHT) as writer:
        writer.write(awkward.marked_frame(WIDTH, HEIGHT))
        raise KeyboardInterrupt
    assert sorted(os.listdir(tmp_path)) == ["frames", "more.partial"]


def test_kind_by_suffix(tmp_path):
    kinds = {"a.mp4": VideoWriter, "b.MOV": VideoWriter, "c.jpg": ImageWriter, "d": DirectoryWriter}
    for name, kind in kinds.items():
        writer = open_writer(tmp_path / name, WIDTH, HEIGHT)
        assert type(writer) is kind
        writer.discard()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.png", "frames"])
def test_a_result_that_cannot_be_signed_is_not_there(tmp_path, monkeypatch, name):
    """The disk fills up while the credentials are put in: one line, and nothing under the name or beside it."""

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gpavatar.media.writer.sign", full)
    with pytest.raises(InputError, match="No space left on device"), open_writer(tmp_path / name, 96, 64) as writer:
        writer.write(awkward.marked_frame(96, 64))
    assert os.listdir(tmp_path) == []


def test_nothing_unsigned_ever_stands_under_the_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "a.mp4", []

    def watched(source, signed, *rest):
        seen.append((path.exists(), source.name, signed.name))
        sign(source, signed, *rest)

    monkeypatch.setattr("gpavatar.media.writer.sign", watched)
    with open_writer(path, 96, 64) as writer:
        writer.write(awkward.marked_frame(96, 64))
    assert seen == [(False, temporary_name(path).name, temporary_name(path, "signed").name)]
    assert os.listdir(tmp_path) == ["a.mp4"] and read_credentials(path).valid


def test_what_a_process_left_that_was_killed_while_signing_goes_with_the_next(tmp_path):
    path = tmp_path / "a.mp4"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for step in ("", "signed"):
        mine = temporary_name(path, step)
        mine.with_name(mine.name.replace(f".{os.getpid()}.", f".{gone.pid}.")).write_bytes(b"half")
    write(path, [None] * 2)
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_marks_change_the_picture_and_no_marks_change_nothing(tmp_path):
    frame = awkward.marked_frame(96, 64)
    for name, marks in (("marked", Marks()), ("plain", None)):
        with open_writer(tmp_path / f"{name}.png", 96, 64, marks=marks) as writer:
            writer.write(frame)
    assert np.array_equal(read_image(tmp_path / "plain.png"), frame)
    assert not np.array_equal(read_image(tmp_path / "marked.png"), frame)


def test_sound_that_steps_back_or_turns_into_something_else_is_left_out(tmp_path, monkeypatch):
    """The pictures are worth more: they are all there, with a warning."""
    sound = awkward.clicks(2.0, [0.3, 1.5], 44_100)
    frames = [awkward.marked_frame(WIDTH, HEIGHT)] * 50
    driver = awkward.write_clip(tmp_path / "d.mp4", frames, sound=sound, sound_rate=44_100)
    emit, count = AudioTrack._emit, []

    def damaged(self, piece):
        count.append(piece)
        if len(count) == 20:
            raise ValueError("Frame does not match AudioResampler setup.")
        yield from emit(self, piece)

    monkeypatch.setattr(AudioTrack, "_emit", damaged)
    with pytest.warns(InputWarning, match=r"d\.mp4: its sound is damaged"):
        write(tmp_path / "a.mp4", [index / 25 for index in range(50)], audio_from=driver)
    assert len(list(open_video(tmp_path / "a.mp4"))) == 50 and len(count) == 20
