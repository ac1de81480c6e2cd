"""Videos, stills, animations and directories through one iterator."""

from __future__ import annotations

import awkward_files as awkward
import numpy as np
import pytest
from PIL import Image

from gpavatar.media.frames import open_frames
from gpavatar.media.image import write_image
from gpavatar.types import InputError, InputWarning


def picture(index: int) -> Image.Image:
    return Image.fromarray(awkward.marked_frame(96, 64, index))


def test_directory_in_natural_order(tmp_path):
    for index in (1, 2, 10, 9, 11):
        write_image(tmp_path / f"frame_{index}.png", awkward.marked_frame(96, 64, index))
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".hidden.png").write_text("nor is this")
    reader = open_frames(tmp_path, fps=10.0)
    frames = list(reader)
    assert [awkward.read_index(frame.image_u8) for frame in frames] == [1, 2, 9, 10, 11]
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert (reader.info.num_frames_estimate, reader.info.fps, reader.info.duration_s) == (5, 10.0, 0.5)
    part = open_frames(tmp_path, fps=10.0, start_s=0.1, end_s=0.3)
    assert [awkward.read_index(frame.image_u8) for frame in part] == [2, 9]
    write_image(tmp_path / "frame_3²4.png", awkward.marked_frame(96, 64, 12))  # a digit that is no number
    assert [awkward.read_index(frame.image_u8) for frame in open_frames(tmp_path)] == [1, 2, 12, 9, 10, 11]
    assert [frame.time_s for frame in part] == pytest.approx([0.1, 0.2])


def test_still_image_is_one_frame(tmp_path):
    write_image(tmp_path / "a.jpg", awkward.marked_frame(96, 64))
    reader = open_frames(tmp_path / "a.jpg", max_side_px=48)
    assert [(frame.index, frame.time_s, frame.image_u8.shape) for frame in reader] == [(0, 0.0, (32, 48, 3))]
    assert reader.info.num_frames_estimate == 1


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animation_keeps_its_delays(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    delays = [100, 40, 200, 60]
    picture(0).save(path, save_all=True, append_images=[picture(10 * i) for i in (1, 2, 3)], duration=delays)
    reader = open_frames(path)
    frames = list(reader)
    assert [frame.time_s for frame in frames] == pytest.approx([0.0, 0.1, 0.14, 0.34])
    counts = [awkward.read_index(frame.image_u8) for frame in frames]
    assert np.abs(np.array(counts) - [0, 10, 20, 30]).max() <= 1  # a palette has 256 colours
    part = list(open_frames(path, start_s=0.1, end_s=0.3, max_side_px=48))
    assert [frame.time_s for frame in part] == pytest.approx([0.1, 0.14])
    assert part[0].index == 0 and part[0].image_u8.shape == (32, 48, 3)


def test_content_decides_not_the_suffix(tmp_path):
    path = awkward.write_clip(tmp_path / "a.mp4", [awkward.marked_frame(96, 64, i) for i in range(5)])
    assert len(list(open_frames(path.rename(tmp_path / "a.jpg")))) == 5
    picture(0).save(tmp_path / "b.mp4", "PNG")
    assert len(list(open_frames(tmp_path / "b.mp4"))) == 1


def test_second_picture_of_a_photo_is_no_frame(tmp_path):
    picture(0).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[picture(1)])
    assert len(list(open_frames(tmp_path / "a.jpg"))) == 1


def test_frames_of_different_sizes(tmp_path):
    write_image(tmp_path / "1.png", awkward.marked_frame(96, 64))
    write_image(tmp_path / "2.png", awkward.marked_frame(98, 64))
    with pytest.raises(InputError, match=r"2\.png: 98x64 px, but the first frame has 96x64"):
        list(open_frames(tmp_path))


@pytest.mark.parametrize("name", ["empty directory", "missing.mp4", "text.mp4", "photo.heic"])
def test_nothing_to_read(tmp_path, name):
    path = tmp_path / name
    if name == "empty directory":
        path.mkdir()
    elif name == "text.mp4":
        path.write_text("hello " * 99)
    elif name == "photo.heic":
        path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    with pytest.raises(InputError) as caught:
        open_frames(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_range_beyond_the_end(tmp_path):
    write_image(tmp_path / "1.png", awkward.marked_frame(96, 64))
    with pytest.raises(InputError, match="holds 1 frames, none between"):
        open_frames(tmp_path, start_s=3.0)


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_an_animation_that_breaks_off_is_read_up_to_there(tmp_path, suffix):
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 255, (32, 40, 3), np.uint8)) for _ in range(6)]
    path = tmp_path / f"a{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    reader = open_frames(path)
    with pytest.warns(InputWarning, match=rf"a\{suffix}: breaks off at 0\.\d\d s"):
        read = list(reader)
    assert 2 <= len(read) <= 5 and reader.broken_at_s == pytest.approx(read[-1].time_s + 0.04)


def test_an_animation_of_absurd_length_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("gpavatar.media.frames.MAX_ANIMATION_PIXELS", 3000)
    frames = [Image.new("L", (20, 20), shade) for shade in range(0, 200, 25)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=r"a\.gif: 8 frames of 20x20 px are more"):
        open_frames(tmp_path / "a.gif")
