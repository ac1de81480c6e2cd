"""An avatar that grows: the photos of every day are added to what the days before have made of the person.

python examples/growing_avatar.py me.safetensors today1.jpg today2.jpg ...     # and tomorrow again
"""

import sys
from pathlib import Path

import gpavatar


def main(avatar_file: str, *photos: str, model: str = "textured_mesh") -> None:
    """Make the avatar, or add to it; `model` may be the weights of a learned method, FILE.safetensors."""
    if Path(avatar_file).exists():
        avatar = gpavatar.extend_avatar(gpavatar.load_avatar(avatar_file, model=model), photos)
    else:
        avatar = gpavatar.create_avatar(photos, model)
    if avatar.left_out.faults:
        print(avatar.left_out)
    avatar.save(avatar_file)


if __name__ == "__main__":
    main(*sys.argv[1:])
