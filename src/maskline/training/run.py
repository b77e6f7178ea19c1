"""A whole training run: settings and data in, ``best_model/inference`` out."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from maskline import catalog
from maskline._progress import status
from maskline._wording import counted
from maskline.data import reading
from maskline.data.categories import unify_categories
from maskline.data.crowds import count
from maskline.data.dataset import Dataset
from maskline.data.file_tree import UNSPLIT
from maskline.errors import DatasetError, ExportError, MasklineError, ParameterError
from maskline.exporting import export_network
from maskline.outputs.paths import check_folder
from maskline.training import checkpoint, devices, processes
from maskline.training.augment import Augment
from maskline.training.logger import LogFile
from maskline.training.loop import TrainingJob, run
from maskline.training.optim import scaled_learning_rate
from maskline.training.results import Report, TrainResult, export_folder
from maskline.training.samples import is_object
from maskline.training.settings import DEFAULT_OUTPUT, TrainSettings, recipe_augment
from maskline.weights.load import load_network

logger = logging.getLogger("maskline")

# fmt: off
#: TrainSettings that may change when a run is resumed.
RESUMABLE_OVERRIDES = (
    "data", "data_format", "images", "output", "resume", "device", "processes", "log_interval", "keep", "workers",
    "threads",
    "export", "num_classes",
)
# fmt: on


def train(settings: TrainSettings, report: Report | None = None) -> TrainResult:
    """Train a model, with checkpoints, log and curves in ``settings.output``; then export the best.

    Args:
        report: called in the process that writes, with the result so far: when the run begins, after each checkpoint,
            and at the end. With several processes it must be a function of a module, which can be pickled.

    Returns:
        What the run has reached, and where that is. The same in each process that torchrun has started, but the files
        are there only when the first one returns.

    Raises:
        DatasetError: the data set can't be read or has nothing to learn from.
        ParameterError: settings that contradict the data or the machine.
        DeviceError, DownloadError, WeightsError, OutputError, ExportError: see there.
    """
    chosen = devices.choose(settings.device, settings.processes)
    if settings.resume is not None:
        settings = as_before(settings, checkpoint.find(settings.resume))
    splits = unify_categories(reading.load_splits(settings.data, settings.data_format, settings.images))
    job = prepare(replace(settings, processes=processes.count(chosen.processes)), splits)
    check_folder(job.settings.output)
    chosen.select()
    progress = processes.run(run, replace(job, report=report), chosen.processes, settings.threads)
    if progress is None:
        progress = checkpoint.read(job.settings.output / checkpoint.FINAL)
    result = TrainResult.of(job.settings, job.labels, progress, done=True)
    if processes.is_first():
        if job.settings.export:
            _export(job)
        if report is not None:
            report(result)
    return result


def as_before(settings: TrainSettings, folder: Path) -> TrainSettings:
    """The settings of a run that goes on from a checkpoint, in its own folder: as begun, but for how it runs now.

    Raises:
        ParameterError: something else was asked for than it was begun with.
    """
    before = checkpoint.read(folder).settings
    if settings.output != DEFAULT_OUTPUT and settings.output.resolve() != folder.parent.resolve():
        raise ParameterError(
            f"output is {settings.output}, but a run goes on where it is, in {folder.parent}: leave it out"
        )
    settings = replace(settings, output=folder.parent, resume=folder)
    wanted = {}
    for field in fields(TrainSettings):
        if field.name in RESUMABLE_OVERRIDES or field.name not in before:
            continue
        given, kept = getattr(settings, field.name), before[field.name]
        if given not in (field.default, _as_stored(kept, field.name)):
            raise ParameterError(
                f"{field.name} is {given}, but the run to resume was begun with {kept}: leave it out, or start a "
                "new run from its weights"
            )
        wanted[field.name] = _as_stored(kept, field.name)
    return replace(settings, **wanted)


def _as_stored(value: Any, name: str) -> Any:
    """A value of settings from JSON."""
    if name != "augment" or value is None:
        return value
    drawn: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in value.items()}
    return Augment(**drawn)


def prepare(settings: TrainSettings, splits: Mapping[str, Dataset]) -> TrainingJob:
    """Settle what the settings leave to the recipe, and check them against the data.

    Raises:
        DatasetError: no train split, or nothing in it.
        ParameterError: another number of classes than the data set's.
    """
    spec = catalog.get(settings.model)
    data, val = splits.get("train", splits.get(UNSPLIT)), splits.get("val")
    if data is None:
        raise DatasetError(f"{settings.data} has no train split: it has {', '.join(splits) or 'none'}")
    learned = {annotation.category_id for annotation in data.annotations if is_object(annotation)}
    if not learned:
        crowds = count(data)
        why = f": {counted(crowds, 'annotation')}, only crowd regions; see `maskline check`" if crowds else ""
        raise DatasetError(
            f"{settings.data} has no objects to learn from in {counted(len(data.images), 'training image')}{why}"
        )
    if settings.num_classes not in (None, len(data.categories)):
        classes = counted(len(data.categories), "class", "classes")
        raise ParameterError(
            f"num_classes is {settings.num_classes}, but {settings.data} has {classes}: "
            "leave it out, or name the right data set"
        )
    notes = []
    if val is None or not val.images:
        notes.append(f"{settings.data} has no val split: nothing is evaluated, and the last weights count as the best")
        val = None
    if crowds := count(data):
        total = counted(len(data.annotations), "training annotation")
        notes.append(f"crowd regions are not learned from: {crowds} of {total}")
    if unknown := [category.name for category in data.categories if category.id not in learned]:
        notes.append(f"classes without training objects, which can't be learned: {', '.join(unknown)}")
    settled = _settled(settings, spec)
    images, meant = _images(settled), spec.recipe.batch_size * spec.recipe.devices
    if settings.learning_rate is None and images != meant:
        told = f"{settled.learning_rate:.3g}, from {spec.recipe.learning_rate:.3g} for {meant}"
        notes.append(f"learning rate for {counted(images, 'image')} a step: {told}")
    return TrainingJob(settled, data, val, tuple(notes))


def _settled(settings: TrainSettings, spec: catalog.Model) -> TrainSettings:
    settings = replace(
        settings,
        model=spec.name,
        batch_size=settings.batch_size or spec.recipe.batch_size,
        augment=settings.augment or recipe_augment(spec.name),
        clip_norm=settings.clip_norm or spec.recipe.clip_norm,
        save_interval=settings.save_interval or settings.eval_interval,
    )
    rate = settings.learning_rate or scaled_learning_rate(spec.recipe, _images(settings))
    return replace(settings, learning_rate=rate)


def _images(settings: TrainSettings) -> int:
    """Of one step."""
    assert settings.batch_size is not None
    return settings.batch_size * settings.processes * settings.accumulate


def _export(job: TrainingJob) -> None:
    """Write the graph of the best weights, which are the last where nothing was evaluated."""
    folder = job.settings.output / checkpoint.BEST
    weights, target = folder / f"{folder.name}.safetensors", export_folder(job.settings.output)
    with LogFile() as file:
        file.open(job.settings.output)
        network = load_network(job.spec.name, weights)
        try:
            with status(f"exporting the best weights, to {target}"):
                export_network(network, job.spec, target, labels=job.labels)
        except MasklineError as error:
            command = shlex.join(
                ["maskline", "export", job.spec.name, "--weights", f"{weights}", "--output", f"{target}"]
            )
            longer = "train longer, or " if isinstance(error, ExportError) else ""
            told = f"not exported: {error}; the weights are kept: {longer}try again by `{command}`"
            file.error(told)
            raise type(error)(told) from None
        logger.info("exported to %s", target)
