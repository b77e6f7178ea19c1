"""What a training run is told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from maskline._checks import check_count
from maskline.errors import ParameterError, UnknownNameError
from maskline.models.families import family_of
from maskline.training.augment import Augment

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
DEFAULT_OUTPUT = Path("output")
OFFICIAL, BACKBONE, SCRATCH = "official", "backbone", "scratch"


def recipe_augment(model: str) -> Augment:
    """The augmentation of a model's recipe. Raises UnknownNameError if there is no such model."""
    return Augment(**family_of(model).augment)


def as_augment(values: Mapping[str, Any], model: str) -> Augment:
    """The augmentation of a model's recipe, with some of its values replaced.

    Raises:
        UnknownNameError: there is no such value.
        ParameterError: it is of the wrong type or out of range.
    """
    known = [field.name for field in fields(Augment)]
    for name in values:
        if name not in known:
            raise UnknownNameError.of("augmentation", str(name), known)
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return replace(recipe_augment(model), **given)
    except TypeError:
        raise ParameterError(
            f"augment is {dict(values)!r}: expected numbers, or lists of them for jitter and sizes"
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """A run. None: what the model's recipe says, for a run of this length and on these devices.

    Attributes:
        model: a model of the catalog.
        data: the data set, a folder or an annotation file, with a train and, unless nothing shall be evaluated, a val
            split.
        data_format: its format, a key of `maskline.data.reading.FORMATS`; None recognizes it.
        images: the folder with its images, if they are not below ``data``.
        output: where checkpoints, logs and images go.
        epochs: passes over the training images.
        batch_size: images of one step on each device.
        learning_rate: the highest. None: the recipe's, scaled to the images of a step.
        warmup_steps: at most a tenth of the run.
        weights: what to start from: ``official`` weights, the pretrained ``backbone`` of the recipe, ``scratch``, or a
            ``.pdparams`` or ``.safetensors`` file.
        num_classes: only checked; it is the data set's that counts.
        resume: a run's output folder or one of its checkpoints; goes on there as if it had never stopped.
        device: ``cpu``, ``gpu``, ``gpu:0,1`` ...; None: the first GPU if there is one.
        processes: on the CPU; on GPUs there is one for each.
        precision: of the network's arithmetic; the loss and the weights are fp32.
        accumulate: batches of one step.
        augment: what is done to images and masks.
        clip_norm: the gradient's largest norm.
        log_interval: steps between lines of the log.
        eval_interval: epochs between evaluations, each with a checkpoint.
        save_interval: epochs between checkpoints.
        patience: evaluations without a better AP after which the run ends; None: never.
        keep: checkpoints that stay, beside the best.
        drop_background: leave out training images without objects.
        workers: processes that read images, for each device.
        threads: processor threads of each process that trains; None leaves it to torch: one for each core.
        seed: all randomness follows from it.
        unaligned: the weights to start from, of a Mask R-CNN, were trained with RoIAlign's first form, see
            `maskline.models.families.overrides_of`. Files of ours say so themselves.
        export: write ``best_model/inference`` at the end.
    """

    model: str
    data: Path
    data_format: str | None = None
    images: Path | None = None
    output: Path = DEFAULT_OUTPUT
    epochs: int = 40
    batch_size: int | None = None
    learning_rate: float | None = None
    warmup_steps: int | None = None
    weights: str = OFFICIAL
    num_classes: int | None = None
    resume: Path | None = None
    device: str | None = None
    processes: int = 1
    precision: Precision = "fp32"
    accumulate: int = 1
    augment: Augment | None = None
    clip_norm: float | None = None
    log_interval: int = 10
    eval_interval: int = 1
    save_interval: int | None = None
    patience: int | None = None
    keep: int = 5
    drop_background: bool = False
    workers: int = 2
    threads: int | None = None
    seed: int = 0
    unaligned: bool = False
    export: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "processes", "accumulate", "log_interval", "eval_interval", "keep"):
            check_count(getattr(self, name), name)
        for name in ("batch_size", "num_classes", "save_interval", "patience", "threads"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name)
        if self.precision not in PRECISIONS:
            raise ParameterError(f"precision is {self.precision!r}: expected one of {', '.join(PRECISIONS)}")
        for name in ("learning_rate", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ParameterError(f"{name} is {value!r}: expected a number above 0")
        for name in ("workers", "seed", "warmup_steps"):
            if (getattr(self, name) or 0) < 0:
                raise ParameterError(f"{name} is {getattr(self, name)}: expected a whole number from 0")
        if not isinstance(self.augment, Augment | None):
            raise ParameterError(f"augment is {self.augment!r}: expected an Augment, as `as_augment` makes it")
