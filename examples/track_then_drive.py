"""Track a clip once, look at what was found, and drive several people with it.

python examples/track_then_drive.py clip.mp4 first.jpg second.jpg
"""

import sys
from pathlib import Path

import gpavatar


def main(clip: str, *photos: str, size_px: int = 512) -> None:
    """Write photo_driven.mp4 beside each photo."""
    track = gpavatar.track_clip(clip)
    print(f"{int(track.tracked.sum())} of {len(track)} frames tracked")

    model = gpavatar.load_model("textured_mesh", device="cpu")
    for photo in map(Path, photos):
        avatar = gpavatar.create_avatar([photo], model)
        out = photo.with_name(f"{photo.stem}_driven.mp4")
        with gpavatar.open_writer(out, size_px, size_px, audio_from=clip) as writer:
            for frame in avatar.drive(track, size_px=size_px, pose="relative", background="#404040"):
                writer.write(gpavatar.to_u8(frame.image), frame.driving.tracked.time_s)


if __name__ == "__main__":
    main(*sys.argv[1:])
