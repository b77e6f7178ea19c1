"""A whole training run: settings and data in, ``best_model/inference`` out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import yaml

from maskline import catalog
from maskline.data import layout
from maskline.data.dataset import Dataset
from maskline.errors import DatasetError, ParameterError
from maskline.export import export_network
from maskline.files import replace_file
from maskline.results import check_folder
from maskline.train import checkpoint, devices, journal, processes, results
from maskline.train.augment import Augment
from maskline.train.loop import Job, run
from maskline.train.optim import scaled_learning_rate
from maskline.train.settings import AUGMENT, Settings
from maskline.weights.load import load_network

log = logging.getLogger("maskline")

CONFIG_FILE = "config.yaml"
#: Settings that may change when a run is resumed.
FREE = ("data", "output", "resume", "device", "processes", "log_interval", "keep", "workers", "export", "num_classes")


def train(settings: Settings) -> dict[str, Any]:
    """Train a model, with checkpoints, log and curves in ``settings.output``; then export the best.

    Returns:
        The content of ``train_results.json``; nothing in processes that torchrun has started beside the first.

    Raises:
        DatasetError: the data set can't be read or has nothing to learn from.
        ParameterError: settings that contradict the data or the machine.
        DeviceError, DownloadError, WeightsError, OutputError, ExportError: see there.
    """
    chosen = devices.choose(settings.device, settings.processes)
    if settings.resume is not None:
        settings = as_before(settings, checkpoint.read(checkpoint.find(settings.resume)).settings)
    splits = layout.unify(layout.load(settings.data))
    job = prepare(replace(settings, processes=processes.count(chosen.processes)), splits)
    if processes.is_first():
        _open_output(job.settings)
    chosen.select()
    processes.run(run, job, chosen.processes)
    if not processes.is_first():
        return {}
    results.write(job.settings, job.labels, done=False)
    if job.settings.export:
        _export(job)
    return results.write(job.settings, job.labels, done=True)


def as_before(settings: Settings, before: Mapping[str, Any]) -> Settings:
    """The settings of a run that is resumed: those it was begun with, but for where and how it runs now.

    Raises:
        ParameterError: something else was asked for than it was begun with.
    """
    wanted = {}
    for field in fields(Settings):
        if field.name in FREE or field.name not in before:
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


def _open_output(settings: Settings) -> None:
    """Make the output folder ready; an earlier run in it moves away, unless it is the one to resume."""
    check_folder(settings.output)
    if settings.resume is None:
        earlier = checkpoint.set_aside(settings.output, (CONFIG_FILE, *results.NAMES, *journal.FILES))
        if earlier is not None:
            log.info("%s holds an earlier run: moved to %s", settings.output, earlier)
    _write_config(settings)


def prepare(settings: Settings, splits: Mapping[str, Dataset]) -> Job:
    """Settle what the settings leave to the recipe, and check them against the data.

    Raises:
        DatasetError: no train split, or nothing in it.
        ParameterError: another number of classes than the data set's.
    """
    row = catalog.get(settings.model)
    if not row.supported:
        raise ParameterError(f"{row.name} is planned, not working yet")
    data, val = splits.get("train", splits.get(layout.UNSPLIT)), splits.get("val")
    if data is None or not any(not annotation.crowd for annotation in data.annotations):
        found = ", ".join(splits) or "nothing"
        raise DatasetError(f"{settings.data} has no objects to learn from: expected a train split, found {found}")
    if settings.num_classes not in (None, len(data.categories)):
        raise ParameterError(
            f"num_classes is {settings.num_classes}, but {settings.data} has {len(data.categories)} categories: "
            "leave it out, or name the right data set"
        )
    if val is None or not val.images:
        log.warning("%s has no val split: nothing is evaluated, and the last weights count as the best", settings.data)
        val = None
    return Job(_settled(settings, row), data, val)


def _settled(settings: Settings, row: catalog.Model) -> Settings:
    recipe = row.recipe
    batch_size = settings.batch_size or recipe.batch_size
    images = batch_size * settings.processes * settings.accumulate
    rate = settings.learning_rate
    if rate is None:
        rate = scaled_learning_rate(recipe, images)
        meant = recipe.batch_size * recipe.devices
        if images != meant:
            log.info("learning rate: %.3g, from %.3g for %d images a step", rate, recipe.learning_rate, meant)
    return replace(
        settings,
        model=row.name,
        batch_size=batch_size,
        learning_rate=rate,
        augment=settings.augment or AUGMENT[row.family],
        clip_norm=settings.clip_norm or recipe.clip_norm,
    )


def _write_config(settings: Settings) -> None:
    values = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items()}
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    replace_file(settings.output / CONFIG_FILE, lambda file: file.write_text(text, encoding="utf-8"))


def _export(job: Job) -> None:
    """Write the graph of the best weights, which are the last where nothing was evaluated."""
    folder = job.settings.output / checkpoint.BEST
    network = load_network(job.row.name, folder / f"{folder.name}.safetensors")
    export_network(network, job.row, folder / "inference", labels=job.labels)
    log.info("exported to %s", folder / "inference")
