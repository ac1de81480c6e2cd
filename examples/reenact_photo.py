"""Drive a photo by a clip: the whole job in a few lines.

python examples/reenact_photo.py me.jpg clip.mp4 out.mp4
"""

import sys

import gpavatar


def main(photo: str, clip: str, out: str, size_px: int = 512) -> None:
    """Write the person on the photo, doing what the clip does, with the clip's sound."""
    avatar = gpavatar.create_avatar([photo])
    with gpavatar.open_writer(out, size_px, size_px, audio_from=clip) as writer:
        for frame in avatar.drive(clip, size_px=size_px):
            writer.write(gpavatar.to_u8(frame.image), frame.driving.tracked.time_s)


if __name__ == "__main__":
    main(*sys.argv[1:])
