"""What a run leaves: the folder it begins with, and the result that `maskline.training.train` returns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from maskline._files import replace_file
from maskline.outputs.paths import TRAIN_RESULTS
from maskline.training import checkpoint
from maskline.training.checkpoint import Progress
from maskline.training.logger import FILES
from maskline.training.settings import TrainSettings

logger = logging.getLogger("maskline")

CONFIG_FILE = "config.yaml"


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How far a training run is: what `maskline.training.train` returns at the end.

    Attributes:
        model: name in the catalog.
        labels: class names, by index.
        output: folder of the run.
        epochs: finished, those before a resume included. ``patience`` may have ended the run early.
        history: of each evaluation on the val split, its ``epoch`` (from 0) and COCO's metrics in [0, 1], as
            `maskline.evaluate.Evaluation.metrics` names them: ``AP`` is the mask AP. What is undefined is left out.
            Empty without a val split.
        model_dir: the exported best weights, a model directory; None while the run goes on, and without ``export``.
        done: the run has ended well, and has been exported if asked for.
    """

    model: str
    labels: tuple[str, ...]
    output: Path
    epochs: int
    history: tuple[Mapping[str, Any], ...]
    model_dir: Path | None
    done: bool

    @classmethod
    def of(
        cls, settings: TrainSettings, labels: tuple[str, ...], progress: Progress, *, done: bool = False
    ) -> TrainResult:
        """The result of a run as far as it is."""
        model_dir = export_folder(settings.output) if done and settings.export else None
        return cls(settings.model, labels, settings.output, progress.epochs, progress.history, model_dir, done)

    @property
    def best_score(self) -> float | None:
        """Mask AP of the best weights on the val split, in [0, 1]; None if nothing was evaluated."""
        best = checkpoint.best_evaluation(self.history)
        return None if best is None else float(best["AP"])

    @property
    def best_epoch(self) -> int:
        """The epoch of the best weights, from 0: the last one if nothing was evaluated."""
        best = checkpoint.best_evaluation(self.history)
        return self.epochs - 1 if best is None else int(best["epoch"])

    @property
    def metrics(self) -> Mapping[str, float]:
        """COCO's metrics of the best weights on the val split, as in ``history``; empty if nothing was evaluated."""
        best = checkpoint.best_evaluation(self.history) or {}
        return {name: value for name, value in best.items() if name != "epoch"}

    @property
    def best_checkpoint(self) -> Path:
        """Folder of the best weights, ``best_model.safetensors``; the last weights if nothing was evaluated."""
        return self.output / checkpoint.BEST

    @property
    def last_checkpoint(self) -> Path:
        """Folder of the last weights, ``model_final.safetensors``, and of what resuming needs; there once ``done``."""
        return self.output / checkpoint.FINAL


#: Gets the result so far: when a run begins, after each checkpoint, and when it is done.
Report: TypeAlias = Callable[[TrainResult], object]


def export_folder(output: Path) -> Path:
    """Where a run puts its model directory."""
    return output / checkpoint.BEST / "inference"


def prepare_folder(settings: TrainSettings, epochs: int, *, reported: bool) -> None:
    """Make the output folder ready for a run that has finished this many epochs; what is not of it moves away.

    Args:
        reported: the caller has a `Report`, which keeps `TRAIN_RESULTS` up to date. Else those an earlier run has left
            move away, even when it is resumed: they would list checkpoints that are not there any more.
    """
    output = settings.output
    output.mkdir(parents=True, exist_ok=True)
    checkpoint.clear(output)
    if settings.resume is None:
        names = (checkpoint.FINAL, checkpoint.BEST, CONFIG_FILE, *TRAIN_RESULTS, *FILES)
        earlier = checkpoint.set_aside(output, [*checkpoint.numbered(output), *(output / n for n in names)])
    else:
        outdated = () if reported else TRAIN_RESULTS
        later = checkpoint.later_than(output, epochs)
        earlier = checkpoint.set_aside(output, [*later, *(output / name for name in outdated)])
    if earlier is not None:
        logger.info("%s holds an earlier run: moved to %s", output, earlier)
    values = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items()}
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    replace_file(output / CONFIG_FILE, lambda file: file.write_text(text, encoding="utf-8"))
