"""Settings of a training run. Imports neither torch nor NumPy, as the command line and the documents need it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from maskline._cpu import MOST_THREADS
from maskline._options import Checked, Option, like
from maskline.data.options import DatasetOptions

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
OFFICIAL, BACKBONE, SCRATCH = "official", "backbone", "scratch"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions(Checked):
    """Settings that PaddleX's section ``Train`` takes too, under the same names. None: the model's recipe.

    Attributes:
        num_classes: only checked against the data set.
        learning_rate: used as it is.
        augment: see `maskline.training.augment.Augment`.
        eval_interval: each evaluation comes with a checkpoint.
        threads: None leaves it to torch.
        unaligned: see `maskline.models.families.overrides_of`.
    """

    num_classes: Annotated[int | None, Option("Number of classes that the data set must have.", flag="")] = None
    batch_size: Annotated[int | None, Option("Images per step on each device.", most=4096, unset="the model's")] = None
    learning_rate: Annotated[
        float | None,
        Option("Base learning rate.", above=0, most=1000, unset="the model's, scaled to the images per step"),
    ] = None
    warmup_steps: Annotated[
        int | None,
        Option("Warm-up steps of the learning rate, at most a tenth of the run.", least=0, unset="the model's"),
    ] = None
    clip_norm: Annotated[
        float | None, Option("Largest norm of the gradient.", above=0, most=1_000_000, unset="the model's")
    ] = None
    augment: Annotated[
        Mapping[str, Any] | None,
        Option(
            "Augmentation settings other than the recipe's, such as copy_paste=0.5; can be repeated.",
            metavar="NAME=VALUE",
        ),
    ] = None
    accumulate: Annotated[int, Option("Batches per optimizer step (gradient accumulation).", most=4096)] = 1
    log_interval: Annotated[int, Option("Steps between log lines.")] = 10
    eval_interval: Annotated[int, Option("Epochs between evaluations.")] = 1
    save_interval: Annotated[int | None, Option("Epochs between checkpoints.", unset="as often as evaluations")] = None
    patience: Annotated[int | None, Option("Stop after this many evaluations without a better AP.")] = None
    processes: Annotated[int, Option("Training processes on the CPU; each GPU has one.", most=256)] = 1
    workers: Annotated[int, Option("Data-loading processes per device.", least=0, most=256)] = 2
    threads: Annotated[
        int | None, Option("CPU threads per training process.", most=MOST_THREADS, unset="one per core")
    ] = None
    drop_background: Annotated[bool, Option("Leave out training images without objects.")] = False
    seed: Annotated[int, Option("Random seed.", least=0)] = 0
    unaligned: Annotated[
        bool,
        Option(
            "Use RoIAlign without the half-pixel shift, for Mask R-CNN weights trained with PaddleDetection since "
            "August 2024. Not needed for files written by maskline."
        ),
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings(TrainOptions):
    """A training run.

    Attributes:
        model: a model of the catalog.
        data: the data set, a folder or an annotation file, with a train split and, to evaluate, a val split.
        resume: continues as if the run had never stopped.
        precision: of the network; loss and weights are fp32.
    """

    model: Annotated[str, Option("Model of the catalog.", flag="")]
    data: Annotated[Path, Option("Folder of the data set, or its annotation file.", flag="")]
    data_format: Annotated[str | None, like(DatasetOptions, "data_format")] = None
    images: Annotated[Path | None, like(DatasetOptions, "images")] = None
    output: Annotated[Path, Option("Folder for checkpoints, logs and the exported model.")] = Path("output")
    epochs: Annotated[int, Option("Passes over the training images; the learning-rate schedule is scaled to them.")] = (
        40
    )
    weights: Annotated[
        str,
        Option(
            "Initial weights: official, backbone (the recipe's pretrained one), scratch, or a file.",
            metavar="NAME|FILE",
        ),
    ] = OFFICIAL
    resume: Annotated[
        Path | None, Option("Output folder of a run, or one of its checkpoints, to resume.", metavar="DIR")
    ] = None
    device: Annotated[
        str | None, Option("Where to train: cpu, gpu, gpu:0,1 …", unset="the first GPU if there is one, else cpu")
    ] = None
    precision: Annotated[Precision, Option("Precision of the network; loss and weights stay in fp32.")] = "fp32"
    keep: Annotated[int, Option("Checkpoints to keep besides the best.", most=100_000)] = 5
    export: Annotated[bool, Option("Export the best weights at the end.")] = True
