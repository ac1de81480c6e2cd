"""Track a clip once, look at what was found, and drive two people with it.

python examples/track_then_drive.py clip.mp4 first.jpg second.jpg
"""

import sys
from pathlib import Path

import gpavatar


def main(clip: str, *photos: str, size_px: int = 512) -> None:
    """Write clip.npz, and for each photo photo_driven.mp4 beside it."""
    track = gpavatar.track_clip(clip)
    print(
        f"{len(track)} frames, {int(track.tracked.sum())} tracked; jaw opens up to {track.params.expression.amax():.2f}"
    )
    track_file = Path(clip).with_suffix(".npz")
    gpavatar.save_track(track_file, track)

    model = gpavatar.load_model("textured_mesh", device="cpu")
    for photo in map(Path, photos):
        avatar = gpavatar.create_avatar([photo], model)
        with gpavatar.open_writer(photo.with_name(f"{photo.stem}_driven.mp4"), size_px, size_px) as writer:
            for frame in avatar.drive(track_file, size_px=size_px, pose="relative"):
                writer.write(gpavatar.to_u8(frame.image), frame.driving.tracked.time_s)


if __name__ == "__main__":
    main(*sys.argv[1:])
