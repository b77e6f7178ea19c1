"""A complete training run: from settings and data to ``best_model/inference``."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from maskline import catalog
from maskline._options import settings_of
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
from maskline.training.augment import as_augment
from maskline.training.logger import LogFile
from maskline.training.loop import TrainingJob, run_process
from maskline.training.optim import scaled_learning_rate
from maskline.training.results import Report, TrainResult, export_folder
from maskline.training.samples import is_object
from maskline.training.settings import TrainSettings
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
    """Train a model, with checkpoints, log and curves in ``settings.output``; then export the best weights.

    Args:
        report: called in the first process with the result so far: at the start, after each checkpoint, and at the end.
            With several processes it must be a function that can be pickled.

    Returns:
        The result, equal in all processes started by torchrun; the files are complete when the first process returns.

    Raises:
        DatasetError: the data set can't be read, or has no objects.
        ParameterError: settings that contradict the data or the machine.
        DeviceError, DownloadError, WeightsError, OutputError, ExportError: as their classes describe.
    """
    as_augment(settings.augment or {}, settings.model)  # so that a wrong one is refused before anything is read
    chosen = devices.choose(settings.device, settings.processes)
    if settings.resume is not None:
        settings = resumed_settings(settings, checkpoint.find(settings.resume))
    splits = unify_categories(reading.load_splits(settings.data, settings.data_format, settings.images))
    job = prepare(replace(settings, processes=processes.count(chosen.processes)), splits)
    check_folder(job.settings.output)
    chosen.select()
    progress = processes.run(run_process, replace(job, report=report), chosen.processes, settings.threads)
    if progress is None:
        progress = checkpoint.read(job.settings.output / checkpoint.FINAL)
    result = TrainResult.of(job.settings, job.labels, progress, done=True)
    if processes.is_first():
        if job.settings.export:
            _export(job)
        if report is not None:
            report(result)
    return result


def resumed_settings(settings: TrainSettings, folder: Path) -> TrainSettings:
    """Settings to resume a run in its own folder: the stored ones, except for `RESUMABLE_OVERRIDES`.

    Raises:
        ParameterError: a setting differs from the stored one.
    """
    before = checkpoint.read(folder).settings
    elsewhere = settings.output.resolve() != folder.parent.resolve()
    if elsewhere and settings.output != settings_of(TrainSettings)["output"].default:
        raise ParameterError(f"output is {settings.output}, but the run to resume is in {folder.parent}: leave it out")
    settings = replace(settings, output=folder.parent, resume=folder)
    stored = {}
    for field in fields(TrainSettings):
        if field.name in RESUMABLE_OVERRIDES or field.name not in before:
            continue
        given, kept = getattr(settings, field.name), before[field.name]
        if given != field.default and not _means_the_same(field.name, given, kept, settings.model):
            raise ParameterError(
                f"{field.name} is {given}, but the run to resume was started with {kept}: leave it out, or start a "
                "new run from its weights"
            )
        stored[field.name] = kept
    return replace(settings, **stored)


def _means_the_same(name: str, given: Any, kept: Any, model: str) -> bool:
    """Whether a setting equals that of a checkpoint, which has the whole augmentation, in JSON's types."""
    if name == "augment":
        return as_augment(given, model) == as_augment(kept or {}, model)
    return bool(given == kept)


def prepare(settings: TrainSettings, splits: Mapping[str, Dataset]) -> TrainingJob:
    """Fill in settings from the recipe, and check them against the data.

    Raises:
        DatasetError: there is no train split, or it has no objects.
        ParameterError: ``num_classes`` is not the data set's.
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
            "leave it out, or give the right data set"
        )
    notes = []
    if val is None or not val.images:
        notes.append(f"{settings.data} has no val split: no evaluation, and the last weights count as the best")
        val = None
    if crowds := count(data):
        total = counted(len(data.annotations), "training annotation")
        notes.append(f"crowd regions are not learned from: {crowds} of {total}")
    if unknown := [category.name for category in data.categories if category.id not in learned]:
        notes.append(f"classes without training objects, which can't be learned: {', '.join(unknown)}")
    settled = _with_recipe_defaults(settings, spec)
    images, recipe_images = _images(settled), spec.recipe.batch_size * spec.recipe.devices
    if settings.learning_rate is None and images != recipe_images:
        scaled = f"{settled.learning_rate:.3g}, scaled from {spec.recipe.learning_rate:.3g} for {recipe_images}"
        notes.append(f"learning rate for {counted(images, 'image')} per step: {scaled}")
    return TrainingJob(settled, data, val, tuple(notes))


def _with_recipe_defaults(settings: TrainSettings, spec: catalog.Model) -> TrainSettings:
    settings = replace(
        settings,
        model=spec.name,
        batch_size=settings.batch_size or spec.recipe.batch_size,
        augment=asdict(as_augment(settings.augment or {}, spec.name)),
        clip_norm=settings.clip_norm or spec.recipe.clip_norm,
        save_interval=settings.save_interval or settings.eval_interval,
    )
    rate = settings.learning_rate or scaled_learning_rate(spec.recipe, _images(settings))
    return replace(settings, learning_rate=rate)


def _images(settings: TrainSettings) -> int:
    """Number of images per step."""
    assert settings.batch_size is not None
    return settings.batch_size * settings.processes * settings.accumulate


def _export(job: TrainingJob) -> None:
    """Export the best weights; without evaluation, the last."""
    folder = job.settings.output / checkpoint.BEST
    weights, target = checkpoint.weights_file(folder), export_folder(job.settings.output)
    with LogFile() as file:
        file.open(job.settings.output)
        network = load_network(job.spec.name, weights)
        try:
            with status(f"exporting the best weights to {target}"):
                export_network(network, job.spec, target, labels=job.labels)
        except MasklineError as error:
            command = shlex.join(
                ["maskline", "export", job.spec.name, "--weights", f"{weights}", "--output", f"{target}"]
            )
            longer = "train longer, or " if isinstance(error, ExportError) else ""
            message = f"not exported: {error}; the weights are kept: {longer}try again with `{command}`"
            file.error(message)
            raise type(error)(message) from None
        logger.info("exported to %s", target)
