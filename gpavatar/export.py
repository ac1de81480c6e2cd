"""Weights of others in our format.

python -m gpavatar.export --from-official one_model.ckpt -o gpavatar_official.safetensors
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from gpavatar.config import run_program

CARD = (
    "The weights that the authors of GPAvatar (Chu et al., ICLR 2024) released at github.com/xg-chu/GPAvatar, as they "
    "are. Trained by them on VFHQ. Their code is under the MIT licence; FLAME, which drives it, is not."
)


def export(
    from_official: Path,
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    half: bool = False,
) -> None:
    """Convert the authors' released GPAvatar checkpoint for `reenact --model`.

    Every entry of the file must be known, and none may be missing. Nothing in it is executed.

    Args:
        from_official: The authors' one_model.ckpt.
        output: Where to write (.safetensors).
        half: 16 bits per number: half the size.
    """
    from gpavatar.avatars.checkpoint import ANY_HEAD, WeightsInfo, config_yaml, save_weights, to_half
    from gpavatar.avatars.official import convert, official_config, read_released
    from gpavatar.types import InputError

    if output.suffix != ".safetensors":
        raise InputError(f"{output}: the result is a .safetensors file; name it so")
    with Console(stderr=True).status("converting"):
        tensors = convert(read_released(from_official), str(from_official))
        info = WeightsInfo("gpavatar", "flame", ANY_HEAD, config_yaml(official_config()), CARD)
        save_weights(to_half(tensors) if half else tensors, output, info)
    print(f"{output}: {len(tensors)} tensors; drive it with reenact --model {output}")


if __name__ == "__main__":
    sys.exit(run_program(export, prog="python -m gpavatar.export"))
