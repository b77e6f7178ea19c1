"""The output folder of a run, and the result that `maskline.training.train` returns."""

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
    """Result of a training run so far; `maskline.training.train` returns the final one.

    Attributes:
        model: name in the catalog.
        labels: class names, by index.
        output: folder of the run.
        epochs: finished epochs, those before a resume included; fewer than requested if ``patience`` stopped the run.
        history: ``epoch`` (from 0) and COCO metrics in [0, 1] of each evaluation on the val split, named as in
            `maskline.evaluate.Evaluation.metrics`: ``AP`` is the mask AP. Undefined metrics are left out. Empty
            without a val split.
        model_dir: model directory of the best weights; None while the run is in progress, and without ``export``.
        done: the run is complete, export included.
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
        """From the progress of a run."""
        model_dir = export_folder(settings.output) if done and settings.export else None
        return cls(settings.model, labels, settings.output, progress.epochs, progress.history, model_dir, done)

    @property
    def best_score(self) -> float | None:
        """Mask AP of the best weights on the val split, in [0, 1]; None without evaluation."""
        best = checkpoint.best_evaluation(self.history)
        return None if best is None else float(best["AP"])

    @property
    def best_epoch(self) -> int:
        """Epoch of the best weights, from 0; the last one without evaluation."""
        best = checkpoint.best_evaluation(self.history)
        return self.epochs - 1 if best is None else int(best["epoch"])

    @property
    def metrics(self) -> Mapping[str, float]:
        """COCO metrics of the best weights on the val split, as in ``history``; empty without evaluation."""
        best = checkpoint.best_evaluation(self.history) or {}
        return {name: value for name, value in best.items() if name != "epoch"}

    @property
    def best_checkpoint(self) -> Path:
        """Folder of the best weights, ``best_model.safetensors``; the last weights without evaluation."""
        return self.output / checkpoint.BEST

    @property
    def last_checkpoint(self) -> Path:
        """Folder of the last weights, ``model_final.safetensors``, and of the state to resume; exists once ``done``."""
        return self.output / checkpoint.FINAL


#: Called with the result so far: at the start of a run, after each checkpoint, and at the end.
Report: TypeAlias = Callable[[TrainResult], object]


def export_folder(output: Path) -> Path:
    """Path of a run's model directory."""
    return output / checkpoint.BEST / "inference"


def prepare_folder(settings: TrainSettings, epochs: int, *, reported: bool) -> None:
    """Prepare the output folder for a run after ``epochs`` epochs; files of other runs are moved to a folder.

    Args:
        reported: the caller has a `Report`, which keeps `TRAIN_RESULTS` up to date. Without one, existing results are
            moved too, even on resume, because they would list checkpoints that no longer exist.
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
        logger.info("%s has an earlier run: moved to %s", output, earlier)
    values = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items()}
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    replace_file(output / CONFIG_FILE, lambda file: file.write_text(text, encoding="utf-8"))
