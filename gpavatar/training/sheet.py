"""A fixed sheet of sample images, drawn again every few minutes: what numbers do not show."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as functional
from einops import rearrange
from jaxtyping import Float
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from gpavatar.data.batch import Batch
from gpavatar.data.loader import Place
from gpavatar.media.files import whole_file
from gpavatar.media.image import save_image, to_u8
from gpavatar.training.config import LogConfig
from gpavatar.types import map_tensors

MAX_PX = 256  # side of a picture on a sheet


@dataclass(frozen=True)
class Sheet:
    """Rows of examples, columns of what there is to see of them."""

    names: tuple[str, ...]
    pictures: Float[Tensor, "example column 3 size size"]  # [0, 1]

    def image(self) -> Float[Tensor, "3 height width"]:
        """All in one picture."""
        size = min(MAX_PX, self.pictures.shape[-1])
        pictures = functional.interpolate(self.pictures.flatten(0, 1).float(), (size, size), mode="area")
        return rearrange(pictures, "(example column) c h w -> c (example h) (column w)", column=len(self.names))


class Sheets(Callback):
    """Writes sheets/step_N.jpg, the same examples each time, with the averaged weights; also before the first step."""

    def __init__(self, folder: Path, config: LogConfig):
        self.folder, self.config = folder / "sheets", config
        self._examples: Batch | None = None
        self._last = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The first examples of validation; without validation sets, of training."""
        if not (trainer.is_global_zero and self.config.sheet_examples):
            return
        loader = trainer.datamodule.val_dataloader() or trainer.train_dataloader
        examples = loader.batch(Place(0, 0))
        self._examples = map_tensors(examples, lambda tensor: tensor[: self.config.sheet_examples])
        self.write(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_) -> None:
        """When it is time."""
        if self._examples is not None and time.monotonic() - self._last >= 60 * self.config.sheet_minutes:
            self.write(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What came of it."""
        if self._examples is not None:
            self.write(trainer, pl_module)

    def write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the examples."""
        with pl_module.averaged():
            sheet = pl_module.draw(self._examples)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{trainer.global_step:08d}.jpg"
        with whole_file(path) as temporary:
            save_image(temporary, to_u8(sheet.image()), quality=92)
        self._last = time.monotonic()
        for logger in trainer.loggers if self.config.sheets_to_wandb else []:
            if isinstance(logger, WandbLogger):
                logger.log_image("sheet", [str(path)], step=trainer.global_step)


def enlarged(image: Float[Tensor, "batch channel low low"], size_px: int) -> Float[Tensor, "batch channel size size"]:
    """Every pixel a square."""
    return functional.interpolate(image, (size_px, size_px), mode="nearest")


def as_grey(values: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 height width"]:
    """Each picture's finite values stretched to [0.1, 1]; the others black."""
    known = values.isfinite()
    low = torch.where(known, values, torch.inf).amin((2, 3), keepdim=True)
    high = torch.where(known, values, -torch.inf).amax((2, 3), keepdim=True)
    return torch.where(known, 0.1 + 0.9 * (values - low) / (high - low).clamp_min(1e-6), 0.0)
