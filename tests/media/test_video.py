"""Reading video: whatever comes, the frames are those a player shows, at the times it shows them."""

from __future__ import annotations

import gc
import os
from fractions import Fraction
from pathlib import Path

import av
import awkward_files as awkward
import numpy as np
import pytest
from av.video.reformatter import Colorspace

from gpavatar.media.video import open_video
from gpavatar.types import InputError

UPRIGHT = ["red", "green", "blue", "grey"]


def clip(path: Path, count: int = 10, size: tuple[int, int] = (96, 64), **options) -> Path:
    return awkward.write_clip(path, [awkward.marked_frame(*size, index) for index in range(count)], **options)


def test_frames_times_and_info(tmp_path):
    reader = open_video(clip(tmp_path / "a.mp4", 20))
    frames = list(reader)
    assert [awkward.read_index(frame.image_u8) for frame in frames] == list(range(20))
    assert [frame.index for frame in frames] == list(range(20))
    assert [frame.time_s for frame in frames] == pytest.approx([index / 25 for index in range(20)], abs=1e-9)
    info = reader.info
    assert (info.width_px, info.height_px, info.num_frames_estimate, info.has_audio) == (96, 64, 20, False)
    assert info.fps == pytest.approx(25) and info.duration_s == pytest.approx(0.8, abs=0.001)
    assert reader.broken_at_s is None
    assert len(list(reader)) == 20, "a second iteration begins anew"


@pytest.mark.parametrize(
    ("rotation_deg", "expected"),
    [
        (90, ["blue", "red", "grey", "green"]),
        (180, ["grey", "blue", "green", "red"]),
        (270, ["green", "grey", "red", "blue"]),
    ],
)
def test_rotation_metadata_is_applied(tmp_path, rotation_deg, expected):
    reader = open_video(clip(tmp_path / "a.mp4", 3, rotation_deg=rotation_deg))
    frame = next(iter(reader)).image_u8
    assert awkward.corners(frame) == expected
    assert frame.flags.c_contiguous
    assert reader.info.rotation_deg == rotation_deg
    assert frame.shape[:2] == (reader.info.height_px, reader.info.width_px) == ((64, 96), (96, 64))[rotation_deg != 180]


def test_mirrored_by_metadata(tmp_path):
    frame = next(iter(open_video(clip(tmp_path / "a.mp4", 3, mirrored=True)))).image_u8
    assert awkward.corners(frame) == ["green", "red", "grey", "blue"]


def test_rotation_of_a_phone_written_by_hand(tmp_path):
    """The matrix that phones write for portrait (0 1 0, -1 0 0), patched into the track header."""
    path = clip(tmp_path / "a.mp4", 3)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 20] = np.array([0, 65536, 0, -65536, 0], ">i4").tobytes()
    path.write_bytes(data)
    assert awkward.corners(next(iter(open_video(path))).image_u8) == ["blue", "red", "grey", "green"]


def test_variable_frame_rate_is_kept(tmp_path):
    times = [0.0, 0.04, 0.05, 0.2, 0.21, 0.5, 1.0, 1.001]
    frames = list(open_video(clip(tmp_path / "a.mp4", len(times), times_s=times)))
    assert [frame.time_s for frame in frames] == pytest.approx(times, abs=1e-9)


@pytest.mark.parametrize("size", [(501, 333), (333, 500), (98, 35)])
def test_odd_sizes_come_contiguous(tmp_path, size):
    path = clip(tmp_path / "a.mkv", 2, size, codec="ffv1", pix_fmt="yuv444p")
    for frame in open_video(path):
        assert frame.image_u8.shape == (size[1], size[0], 3) and frame.image_u8.flags.c_contiguous
        assert awkward.corners(frame.image_u8) == UPRIGHT


@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p10le", "yuv422p12le", "yuv444p16le", "gbrp14le", "bgr0", "yuva420p", "yuva444p16le"]
)
def test_deep_and_transparent_formats_come_as_8_bit_rgb(tmp_path, pix_fmt):
    frame = next(iter(open_video(clip(tmp_path / "a.mkv", 1, codec="ffv1", pix_fmt=pix_fmt)))).image_u8
    assert frame.dtype == np.uint8
    measured = [frame[8, 8], frame[8, -8], frame[-8, 8], frame[-8, -8]]
    assert np.abs(np.int32(measured) - [awkward.RED, awkward.GREEN, awkward.BLUE, (30, 30, 30)]).max() <= 3


@pytest.mark.parametrize("pix_fmt", ["gray", "gray16le"])
def test_grey_comes_as_rgb(tmp_path, pix_fmt):
    frame = next(iter(open_video(clip(tmp_path / "a.mkv", 1, codec="ffv1", pix_fmt=pix_fmt)))).image_u8
    assert frame.shape == (64, 96, 3) and np.ptp(frame.astype(int), axis=-1).max() == 0
    assert frame[-8, -8, 0] == pytest.approx(30, abs=2)


@pytest.mark.parametrize(("size", "standard"), [((96, 64), Colorspace.ITU601), ((128, 720), Colorspace.ITU709)])
@pytest.mark.parametrize("tagged", [True, False])
def test_colours_by_the_tag_or_by_size(tmp_path, size, standard, tagged):
    """Untagged files: BT.709 from 720 lines on, BT.601 below, as players do; no brightness is lost on the way."""
    path = clip(tmp_path / "a.mp4", 1, size, colorspace=standard, tagged=tagged, options={"crf": "4"})
    with av.open(str(path)) as container:
        assert (next(container.decode(video=0)).colorspace == standard) == tagged
    frame = next(iter(open_video(path))).image_u8
    colours = [patch.mean((0, 1)) for patch in (frame[4:16, 4:16], frame[4:16, -16:-4], frame[-16:-4, 4:16])]
    assert (
        np.abs(np.array(colours) - [awkward.RED, awkward.GREEN, awkward.BLUE]).max() <= 3
    )  # the wrong standard is 15 off


def test_no_brightness_is_lost(tmp_path):
    """Noise in every colour: the mean of what is read is the mean of what was written."""
    noise = np.random.default_rng(0).integers(30, 220, (64, 96, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    path = awkward.write_clip(tmp_path / "a.mp4", [noise], options={"crf": "8"})
    bias = next(iter(open_video(path))).image_u8.mean((0, 1)) - noise.mean((0, 1))
    assert np.abs(bias).max() < 0.4


def test_half_pictures_are_merged(tmp_path):
    """Interlaced film of a moving edge: no comb is left."""
    frames = []
    for index in range(8):
        frame = np.full((96, 128, 3), 40, np.uint8)
        frame[0::2, : 20 + 8 * index] = 220
        frame[1::2, : 24 + 8 * index] = 220
        frames.append(frame)
    options = {"flags": "+ildct+ilme", "top": "1", "b": "8M", "bf": "0"}
    path = awkward.write_clip(tmp_path / "a.mpg", frames, codec="mpeg2video", options=options)
    combs = [np.abs(np.diff(frame.astype(int), axis=0)).max() for frame in frames]
    read = list(open_video(path))
    assert len(read) == len(frames)
    assert min(combs) > 150
    assert max(np.abs(np.diff(frame.image_u8.astype(int), axis=0)).mean() for frame in read[2:-2]) < 2.0


def test_pixel_shape_is_made_square(tmp_path):
    reader = open_video(clip(tmp_path / "a.mp4", 1, (96, 64), codec="mpeg4", pixel_shape=Fraction(2, 1)))
    assert (reader.info.width_px, reader.info.height_px) == (192, 64)
    assert next(iter(reader)).image_u8.shape == (64, 192, 3)


def test_4k_is_scaled_while_reading(tmp_path):
    path = clip(tmp_path / "a.mp4", 2, (3840, 2160), options={"preset": "ultrafast"})
    reader = open_video(path, max_side_px=1280)
    frame = next(iter(reader)).image_u8
    assert frame.shape == (720, 1280, 3) == (reader.info.height_px, reader.info.width_px, 3)
    assert awkward.corners(frame) == UPRIGHT
    assert next(iter(open_video(path))).image_u8.shape == (2160, 3840, 3)


def test_small_video_is_not_scaled_up(tmp_path):
    path = clip(tmp_path / "a.mp4", 1, (64, 96), rotation_deg=90)
    assert open_video(path, max_side_px=512).info.width_px == 96
    assert next(iter(open_video(path, max_side_px=48))).image_u8.shape == (32, 48, 3)


@pytest.mark.parametrize(("start_s", "end_s"), [(0.5, 1.0), (1.37, None), (None, 0.4), (0.04, 0.08), (1.96, None)])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_start_and_end_are_exact(tmp_path, suffix, start_s, end_s):
    path = clip(tmp_path / f"a.{suffix}", 50, options={"g": "30", "bf": "3"})
    expected = [i for i in range(50) if (start_s or 0) <= i / 25 + 1e-9 and i / 25 < (end_s or 9) - 1e-9]
    reader = open_video(path, start_s=start_s, end_s=end_s)
    frames = list(reader)
    assert [awkward.read_index(frame.image_u8) for frame in frames] == [index % 45 for index in expected]
    assert [frame.time_s for frame in frames] == pytest.approx([index / 25 for index in expected], abs=1e-9)
    assert [frame.index for frame in frames] == list(range(len(expected)))
    assert abs(reader.info.num_frames_estimate - len(expected)) <= 1
    assert reader.broken_at_s is None


@pytest.mark.parametrize("name", ["live.webm", "bare.h264"])
@pytest.mark.parametrize(("counted_bytes", "slack"), [(64 << 20, 0), (4000, 15)])
def test_a_file_that_does_not_say_its_length_is_no_still(tmp_path, monkeypatch, name, counted_bytes, slack):
    """What browsers record, and streams without a container: frames are counted, of a long file the first ones."""
    monkeypatch.setattr("gpavatar.media.video.COUNTED_BYTES", counted_bytes)
    live = {"codec": "libvpx", "container_options": {"live": "1"}}
    path = clip(tmp_path / name, 40, **(live if name == "live.webm" else {}))
    reader = open_video(path)
    assert len(list(reader)) == 40 and abs(reader.info.num_frames_estimate - 40) <= slack
    assert open_video(path, end_s=0.4).info.num_frames_estimate == 10


@pytest.mark.parametrize("suffix", ["ts", "mkv", "mp4"])
@pytest.mark.filterwarnings("error")
def test_clock_begins_where_sound_or_pictures_begin(tmp_path, suffix):
    """Files cut out of a broadcast start at any time; sound before or after the pictures keeps its distance."""
    offset = {"output_ts_offset": "5"}
    path = clip(tmp_path / f"a.{suffix}", container_options=offset, sound=awkward.clicks(0.6, [0.3]))
    with av.open(str(path)) as container:
        starts = {stream.type: float(stream.start_time * stream.time_base) for stream in container.streams}
    assert starts["video"] == pytest.approx(5.0)
    reader = open_video(path)
    times = [frame.time_s for frame in reader]
    assert times[0] == pytest.approx(starts["video"] - min(starts.values()), abs=1e-6)
    assert np.diff(times) == pytest.approx(0.04, abs=1e-4)
    assert reader.info.duration_s == pytest.approx(0.4, abs=0.07)
    part = open_video(path, start_s=times[0] + 0.2)
    assert [awkward.read_index(frame.image_u8) for frame in part] == [5, 6, 7, 8, 9]


def test_time_stamps_that_do_not_advance_are_nudged(tmp_path):
    """Forged in the file: the two entries of the time-to-sample table become one frame of 0 length and one of 2."""
    path = clip(tmp_path / "a.mp4", 4, times_s=[0.0, 0.04, 0.08, 0.2], options={"bf": "0"})
    data = bytearray(path.read_bytes())
    table = data.index(b"stts") + 8
    data[table + 4 : table + 8] = (3).to_bytes(4)
    data[table + 8 : table + 12] = (0).to_bytes(4)
    path.write_bytes(data)
    times = [frame.time_s for frame in open_video(path)]
    assert len(times) == 4 and np.diff(times).min() >= 0.001 - 1e-9


def test_stream_without_time_stamps_runs_at_its_rate(tmp_path):
    path = clip(tmp_path / "a.h264", 10)
    assert [frame.time_s for frame in open_video(path)] == pytest.approx([i / 25 for i in range(10)], abs=1e-6)
    part = list(open_video(path, start_s=0.2, end_s=0.32))
    assert [awkward.read_index(frame.image_u8) for frame in part] == [5, 6, 7]


def test_truncated_film_is_read_up_to_there(tmp_path):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(50)]
    path = awkward.write_clip(tmp_path / "a.mp4", frames, container_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    reader = open_video(path)
    with pytest.warns(UserWarning, match=r"a\.mp4: breaks off at 1\.\d\d s of 2\.00 s"):
        read = list(reader)
    assert 20 <= len(read) <= 32
    assert reader.broken_at_s == pytest.approx(read[-1].time_s + 0.04)


def test_damage_in_the_middle_loses_only_its_frames(tmp_path):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(50)]
    path = awkward.write_clip(tmp_path / "a.mp4", frames, container_options={"movflags": "faststart"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)
    read = list(open_video(path))
    assert len(read) >= 40 and read[-1].time_s == pytest.approx(49 / 25)


def cut_off(path: Path, keep: float) -> None:
    rng = np.random.default_rng(0)
    awkward.write_clip(path, [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(20)])
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * keep)])


def write_music_with_cover(path: Path) -> None:
    with av.open(str(path), "w") as output:
        audio = output.add_stream("aac", rate=16_000, layout="mono")
        cover = output.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 96, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(awkward.marked_frame(96, 64), "rgb24").reformat(format="yuvj420p")
        output.mux([*cover.encode(picture), *cover.encode(None)])
        output.mux(awkward.sound_packets(audio, awkward.clicks(0.5, [0.2]), 16_000))


BROKEN = {
    "missing": (lambda path: None, "no such file"),
    "empty": (lambda path: path.touch(), "is empty"),
    "text": (lambda path: path.write_text("not a film\n" * 50), "not a video or image"),
    "noise": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(20_000)), "not a video or image"),
    "no index": (lambda path: cut_off(path, 0.5), "cut off before its index"),
    "half an index": (lambda path: cut_off(path, 0.995), "header damaged|cut off"),
    "only sound": (lambda path: awkward.write_sound(path, awkward.clicks(0.5, [0.2])), "only sound"),
    "cover picture": (write_music_with_cover, "only sound"),
    "no frames": (lambda path: clip(path, 0), "not one frame|cut off|no pictures"),
    "directory": (lambda path: path.mkdir(), "is a directory"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_unreadable_files_give_one_line_that_names_them(tmp_path, kind):
    path = tmp_path / "driving.mp4"
    make, message = BROKEN[kind]
    make(path)
    with pytest.raises(InputError, match=message) as caught:
        list(open_video(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("start_s", "end_s"), [(5.0, None), (0.3, 0.2), (-1.0, None), (0.2, 0.2)])
def test_ranges_that_hold_nothing(tmp_path, start_s, end_s):
    with pytest.raises(InputError, match="start"):
        open_video(clip(tmp_path / "a.mp4"), start_s=start_s, end_s=end_s)


def test_memory_stays_flat(tmp_path):
    path = clip(tmp_path / "a.mp4", 400, (640, 480), options={"preset": "ultrafast"})

    def resident_mb() -> float:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    for frame in open_video(path):
        if frame.index == 50:
            before = resident_mb()
    assert resident_mb() - before < 40  # 350 more frames hold 307 MB


def test_a_stream_larger_than_its_container_says_is_not_decoded(tmp_path, monkeypatch):
    """The size stands in the container and, for H.264, in the stream too: the decoder is told the limit."""
    path = clip(tmp_path / "a.mp4", 3, (256, 192))
    monkeypatch.setattr("gpavatar.media.video.check_frame_size", lambda *_: None)
    assert len(list(open_video(path))) == 3
    monkeypatch.setattr("gpavatar.media.video.MAX_VIDEO_PIXELS", 128 * 96)
    with pytest.raises(InputError, match="not one frame"):
        open_video(path)


def test_time_stamps_beyond_reason_count_as_none(tmp_path):
    """In a transport stream of 33 bits a damaged stamp is a day; in Matroska it may be centuries."""
    path = tmp_path / "a.mkv"
    times_s = [0, 0.04, 0.08, 3e6, 3e6 + 0.04]
    awkward.write_clip(path, [awkward.marked_frame(96, 64, index) for index in range(5)], times_s)
    read = [frame.time_s for frame in open_video(path)]
    assert read == pytest.approx([0, 0.04, 0.08, 0.12, 0.16], abs=0.02)


@pytest.mark.parametrize("shape", [Fraction(60_000, 1), Fraction(1, 60_000)])
def test_an_absurd_pixel_shape_is_ignored(tmp_path, shape):
    path = awkward.write_clip(tmp_path / "a.mkv", [awkward.marked_frame(96, 64)] * 2, pixel_shape=shape)
    assert (open_video(path).info.width_px, open_video(path).info.height_px) == (96, 64)
