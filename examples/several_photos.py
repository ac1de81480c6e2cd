"""Make an avatar from several photos once, save it, and pose it by hand: no driver, a smile from three sides.

python examples/several_photos.py me.safetensors photo1.jpg photo2.jpg ...
"""

import sys
from dataclasses import replace
from pathlib import Path

import gpavatar
from gpavatar.retarget import orbit


def main(avatar_file: str, *photos: str, size_px: int = 512) -> None:
    """Save the avatar, load it again, and write smile_0.png, smile_1.png, smile_2.png beside its file."""
    gpavatar.create_avatar(photos).save(avatar_file)
    avatar = gpavatar.load_avatar(avatar_file)

    smile = avatar.reference.params.expression.clone()
    for side in ("Left", "Right"):
        smile[avatar.expression_names.index(f"mouthSmile{side}")] = 0.8
    params = replace(avatar.reference.params, expression=smile)

    for number, time_s in enumerate((-1.0, 0.0, 1.0)):  # the orbit is at -30, 0 and 30 degrees then
        pose = gpavatar.Pose(params, orbit(avatar.reference.camera, time_s))
        picture = avatar.render(pose, size_px)
        gpavatar.write_image(Path(avatar_file).with_name(f"smile_{number}.png"), gpavatar.to_u8(picture.image))


if __name__ == "__main__":
    main(*sys.argv[1:])
