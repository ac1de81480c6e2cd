"""How far a training is: a bar over all its steps in a terminal, a line at each log elsewhere."""

from __future__ import annotations

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class StepProgress(Callback):
    """Steps, time and, as of the last log, loss and speed, on stderr. Stands after `Speed`, which it quotes."""

    def __init__(self, log_every: int):
        self.log_every, self.console = log_every, Console(stderr=True)
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, TextColumn("{task.description}"), console=self.console)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The bar begins where the run goes on."""
        self.step = trainer.global_step
        self.shown = trainer.is_global_zero and self.console.is_terminal
        if self.shown:
            self.task = self.bar.add_task("", total=trainer.max_steps, completed=trainer.global_step)
            self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_) -> None:
        """A step was taken, unless more batches belong to it."""
        step = trainer.global_step
        if step == self.step:
            return
        self.step = step
        if self.shown:
            self.bar.update(self.task, completed=step)
        if step % self.log_every == 0 and trainer.is_global_zero:
            found = trainer.callback_metrics
            said = f"loss {float(found['train/loss']):.4f}, {float(found['speed/samples_per_s']):.2f} pairs/s"
            if self.shown:
                self.bar.update(self.task, description=said)
            else:
                self.console.print(f"step {step} of {trainer.max_steps}: {said}", highlight=False)

    def on_validation_start(self, *_) -> None:
        """The steps stand still for a while."""
        if self.shown:
            self.bar.update(self.task, description="validating")

    def on_validation_end(self, *_) -> None:
        """They go on."""
        if self.shown:
            self.bar.update(self.task, description="")

    def on_train_end(self, *_) -> None:
        """The bar stays as it is."""
        self.bar.stop()

    def on_exception(self, *_) -> None:
        """As at the end."""
        self.bar.stop()
