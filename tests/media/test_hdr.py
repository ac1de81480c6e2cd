"""HDR signals on an ordinary screen."""

from __future__ import annotations

import av
import awkward_files as awkward
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace, ColorTrc

from gpavatar.media.hdr import HDR_CURVES, sdr_from_hdr, to_sdr_u8
from gpavatar.media.video import open_video


def greys(values) -> np.ndarray:
    return np.repeat(np.asarray(values, float)[:, None], 3, 1)


@pytest.mark.parametrize(
    ("curve", "white", "tenth"), [(ColorTrc.SMPTE2084, 0.5807, 0.3583), (ColorTrc.ARIB_STD_B67, 0.7499, 0.3415)]
)
def test_paper_white_and_a_tenth_of_it(curve, white, tenth):
    """203 cd/m² is close to white (highlights need the rest), 20.3 cd/m² is a tenth of it: sRGB 0.349."""
    measured = sdr_from_hdr(greys([0, tenth, white]), curve)
    assert measured == pytest.approx(greys([0, 0.349, 0.966]), abs=0.01)


@pytest.mark.parametrize("curve", HDR_CURVES)
def test_greys_stay_grey_and_in_order(curve):
    measured = sdr_from_hdr(greys(np.linspace(0, 1, 101)), curve)
    assert np.ptp(measured, axis=1).max() < 1e-3
    assert (np.diff(measured[:, 0]) >= 0).all() and measured.min() >= 0 and measured.max() <= 1


@pytest.mark.parametrize("curve", HDR_CURVES)
def test_table_agrees_with_the_definition(curve):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    error = np.abs(to_sdr_u8(image, curve) - 255 * sdr_from_hdr(image / 255, curve))
    assert error.mean() < 1.0 and np.quantile(error, 0.99) <= 16


def test_hdr_video_is_converted(tmp_path):
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p10le"
        stream.codec_context.color_trc = ColorTrc.ARIB_STD_B67
        stream.codec_context.colorspace = Colorspace.BT2020
        frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 191, np.uint8), "rgb24")
        frame = frame.reformat(format="yuv420p10le", dst_colorspace=Colorspace.BT2020, dst_color_range=ColorRange.MPEG)
        frame.color_trc, frame.pts = ColorTrc.ARIB_STD_B67, 0
        output.mux([*stream.encode(frame), *stream.encode(None)])
    read = next(iter(open_video(path))).image_u8
    assert read.mean() == pytest.approx(0.966 * 255, abs=3)
    assert awkward.corners(read) == ["grey"] * 4
