"""Training output: progress bar or log lines, ``train.log``, TensorBoard, curves."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from maskline import _plots
from maskline._files import replace_file
from maskline._progress import steps_bar
from maskline.errors import OutputError

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

RECENT = 20  # steps to average speed and loss over
LOG_FILE, CURVES_FILE, TENSORBOARD_FOLDER = "train.log", "curves.png", "tensorboard"
SAMPLES_FOLDER = "samples"  # predictions at each evaluation
FILES = (LOG_FILE, CURVES_FILE, TENSORBOARD_FOLDER, SAMPLES_FOLDER)

logger = logging.getLogger("maskline")
lines = logging.getLogger("maskline.training.steps")  # step lines; on the terminal only without a bar


class LogFile:
    """Context that appends everything logged to ``train.log``.

    Records are buffered until `open`, so that a run that can't start leaves no files.
    """

    def __enter__(self) -> LogFile:
        self._level = logger.level
        logger.setLevel(logging.INFO)
        self._handler: logging.Handler = MemoryHandler(1 << 16, flushLevel=logging.CRITICAL + 1)
        logger.addHandler(self._handler)
        return self

    def open(self, output: Path) -> None:
        """Start to write. Raises OutputError."""
        kept = self._handler
        assert isinstance(kept, MemoryHandler)
        try:
            output.mkdir(parents=True, exist_ok=True)
            file = logging.FileHandler(output / LOG_FILE, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{output} can't be written to: {error.strerror}") from error
        file.setFormatter(logging.Formatter("[%(asctime)s] %(levelname)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
        kept.setTarget(file)
        kept.flush()
        logger.removeHandler(kept)
        logger.addHandler(file)
        self._handler = file

    def error(self, text: str) -> None:
        """Write an error to the file only, because it is also raised."""
        self._handler.handle(logger.makeRecord(logger.name, logging.ERROR, "", 0, text, (), None))

    def __exit__(self, *exception: object) -> None:
        logger.removeHandler(self._handler)
        self._handler.close()
        logger.setLevel(self._level)


class TrainingLogger:
    """Logger of a run, a context; only the first process has one."""

    def __init__(self, output: Path, *, epochs: int, epoch_steps: int, log_interval: int) -> None:
        self.output, self.epochs, self.epoch_steps = output, epochs, epoch_steps
        self.interval = min(log_interval, epoch_steps)  # at least one line per epoch
        self.losses: list[tuple[int, float]] = []
        self._recent: deque[tuple[float, float, float, int]] = deque(maxlen=RECENT)  # loss, step s, data s, images
        self._bar: Bar | None = None
        self._shown = ExitStack()

    def __enter__(self) -> TrainingLogger:
        from torch.utils.tensorboard import SummaryWriter

        try:
            self._board = SummaryWriter(self.output / TENSORBOARD_FOLDER)
        except OSError as error:
            raise OutputError(f"{self.output} can't be written to: {error.strerror}") from error
        if sys.stderr.isatty():
            self._open_bar()
        return self

    def __exit__(self, *exception: object) -> None:
        self._shown.close()
        self._board.close()

    def _open_bar(self) -> None:
        self._bar = self._shown.enter_context(steps_bar(transient=False))
        self._task = self._bar.add_task("training", total=self.epochs * self.epoch_steps)
        self._shown.callback(self._lines_to_terminal, True)
        self._lines_to_terminal(False)

    @staticmethod
    def _lines_to_terminal(shown: bool) -> None:
        """Show or hide step lines on the terminal; they always go to the file."""
        lines.propagate = shown
        for handler in (h for h in logger.handlers if isinstance(h, logging.FileHandler)):
            (lines.removeHandler if shown else lines.addHandler)(handler)

    def step(
        self, step: int, losses: Mapping[str, float], rate: float, images: int, spent: float, waited: float
    ) -> None:
        """Log a step.

        Args:
            step: index over all epochs.
            losses: terms of the loss.
            rate: learning rate.
            images: number of images over all processes.
            spent: seconds for the step, ``waited`` included.
            waited: seconds spent waiting for images.
        """
        loss = sum(losses.values())
        self.losses.append((step, loss))
        self._recent.append((loss, spent, waited, images))
        text = self._text(step, losses, rate)
        if self._bar is not None:
            self._bar.update(self._task, completed=step + 1, description=self._short(step, rate))
        if (step + 1) % self.interval == 0:
            lines.info("%s", text)
            for name, value in {"loss": loss, **losses, "learning_rate": rate}.items():
                self._board.add_scalar(f"train/{name}", value, step)

    def _text(self, step: int, losses: Mapping[str, float], rate: float) -> str:
        """Format a step as PaddleDetection's log does."""
        epoch, within = divmod(step, self.epoch_steps)
        _, spent, waited, images = (sum(column) / len(self._recent) for column in zip(*self._recent, strict=True))
        left = timedelta(seconds=round(spent * (self.epochs * self.epoch_steps - step - 1)))
        parts = " ".join(f"{name}: {value:.6f}" for name, value in losses.items())
        reserved, allocated = peak_memory()
        return (
            f"Epoch: [{epoch}] [{within + 1}/{self.epoch_steps}] learning_rate: {rate:.6f} "
            f"loss: {sum(losses.values()):.6f} {parts} eta: {left} batch_cost: {spent:.4f} data_cost: {waited:.4f} "
            f"ips: {images / spent:.4f} images/s, max_mem_reserved: {reserved} MB, max_mem_allocated: {allocated} MB"
        )

    def _short(self, step: int, rate: float) -> str:
        loss, spent, _, images = (sum(column) / len(self._recent) for column in zip(*self._recent, strict=True))
        return (
            f"epoch {step // self.epoch_steps + 1}/{self.epochs}  loss {loss:.3f}  lr {rate:.2g}  "
            f"{images / spent:.1f} images/s  {peak_memory()[0]} MB"
        )

    def evaluation(self, step: int, metrics: Mapping[str, Any], best: float) -> None:
        """Log an evaluation."""
        numbers = {name: value for name, value in metrics.items() if isinstance(value, float)}
        logger.info("evaluation: %s", ", ".join(f"{name} {value:.4f}" for name, value in numbers.items()))
        logger.info("Best test mask ap is %.3f.", best)
        for name, value in numbers.items():
            self._board.add_scalar(f"val/{name}", value, step)

    def epoch_loss(self) -> float:
        """Mean loss of the last epoch."""
        losses = [loss for _, loss in self.losses[-self.epoch_steps :]]
        return sum(losses) / max(len(losses), 1)

    def curves(self, epoch_losses: Sequence[float], history: Sequence[Mapping[str, Any]]) -> None:
        """Plot loss and AP over epochs, those before a resume included."""
        steps = [((step + 1) / self.epoch_steps, loss) for step, loss in self.losses]
        replace_file(self.output / CURVES_FILE, partial(_draw, steps, epoch_losses, history))


def peak_memory() -> tuple[int, int]:
    """Peak reserved and allocated device memory, in MB; on the CPU, twice the process's peak."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_reserved() >> 20, torch.cuda.max_memory_allocated() >> 20
    if sys.platform == "win32":
        import psutil

        most = psutil.Process().memory_info().peak_wset
    else:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return most >> 20, most >> 20


def _draw(
    steps: Sequence[tuple[float, float]],
    epoch_losses: Sequence[float],
    history: Sequence[Mapping[str, Any]],
    path: Path,
) -> None:
    figure = _plots.figure(9, 6, "constrained", path.parent)
    above, below = figure.subplots(2, 1, sharex=True)
    if steps:
        above.plot(*zip(*steps, strict=True), alpha=0.25, color="tab:blue", label="each step")
    above.plot(range(1, len(epoch_losses) + 1), epoch_losses, marker=".", color="tab:blue", label="mean of an epoch")
    above.set(ylabel="loss", ylim=(0, 1.3 * max(epoch_losses, default=1)))
    for name, title, style in (("AP", "mask AP", "-"), ("AP50", "mask AP50", "--"), ("bbox_AP", "box AP", ":")):
        points = [(entry["epoch"] + 1, entry[name]) for entry in history if entry.get(name) is not None]
        if points:
            below.plot(*zip(*points, strict=True), style, marker=".", label=title)
    below.set(xlabel="epoch", ylabel="val")
    _plots.whole_numbers(below.xaxis)
    for axes in (above, below):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.savefig(path, format="png", dpi=110)
