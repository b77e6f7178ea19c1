"""The two functions most programs need."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from maskline import catalog, hub
from maskline.checks import check_count, check_threshold
from maskline.config import load_pipeline
from maskline.config.pipeline import PIPELINE
from maskline.errors import ParameterError
from maskline.runtime import acceleration, opening
from maskline.runtime.device import device_text, parse_devices
from maskline.runtime.model_dir import GRAPH_FILES, WEIGHTS_SUFFIXES
from maskline.runtime.predictor import Predictor
from maskline.runtime.thresholds import Threshold

logger = logging.getLogger("maskline")


def create_model(
    model_name: str | Path | None = None,
    model_dir: str | Path | None = None,
    *,
    device: str | None = None,
    threshold: Threshold | None = None,
    batch_size: int = 1,
    grow_boxes: bool = False,
    threads: int | None = None,
    use_hpip: bool | None = None,
    hpi_config: Mapping[str, Any] | None = None,
    engine: str | None = None,
    engine_config: Mapping[str, Any] | None = None,
    cpu_fallback: bool = False,
    pp_option: object = None,
    genai_config: object = None,
) -> Predictor:
    """A model ready to predict. Without name and directory: the embedded one, which needs no download.

    Args:
        model_name: a model of the catalog, ``embedded``, or (as older documents have it) a model directory of another
            name.
        model_dir: an exported model, see `maskline.runtime.model_dir.open_model_dir`; without it the official one,
            fetched and exported on first use.
        device, threshold, batch_size, grow_boxes: see `Predictor`.
        threads, use_hpip, hpi_config, engine, engine_config: see `maskline.runtime.acceleration.choose`.
        cpu_fallback: the CPU stands in, with a warning, for a device that is not there; else that is an error. The
            variable ``MASKLINE_DEVICE_FALLBACK``, if set, wins.
        pp_option, genai_config: of the reference's; ignored, with a warning.

    Raises:
        UnknownNameError: no such model; the message names the nearest.
        DownloadError, MissingDependencyError: the official model can't be had here.
        ModelError, DeviceError, ParameterError: see there.
    """
    chosen = acceleration.choose(
        use_hpip=use_hpip, hpi_config=hpi_config, engine=engine, engine_config=engine_config, threads=threads
    )
    chosen = replace(chosen, cpu_fallback=cpu_fallback)
    _tell_ignored(pp_option=pp_option, genai_config=genai_config)
    _check_now(device, threshold, batch_size)
    if isinstance(model_name, os.PathLike):
        model_name = os.fsdecode(model_name)
    if not isinstance(model_name, str | None):
        raise ParameterError(f"model_name is {model_name!r}: expected a model's name, or the path of its folder")
    if model_dir is None and model_name in (None, catalog.EMBEDDED):
        model_name, model_dir = None, hub.EMBEDDED
    if model_dir is None and model_name is not None and not catalog.has(model_name) and _is_path(model_name):
        model_name, model_dir = None, model_name
    name = None if model_name is None else catalog.get(model_name).name
    if model_dir is None:
        assert name is not None
        device = device_text(opening.settle(device, chosen))  # before anything is fetched
        model_dir = hub.model_dir(name)
    return Predictor(
        model_dir,
        model_name=name,
        device=device,
        threshold=threshold,
        batch_size=batch_size,
        grow_boxes=grow_boxes,
        acceleration=chosen,
    )


def create_pipeline(
    pipeline: str | Path | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    model_name: str | None = None,
    model_dir: str | Path | None = None,
    device: str | None = None,
    threshold: Threshold | None = None,
    batch_size: int | None = None,
    grow_boxes: bool = False,
    threads: int | None = None,
    use_hpip: bool | None = None,
    hpi_config: Mapping[str, Any] | None = None,
    engine: str | None = None,
    engine_config: Mapping[str, Any] | None = None,
    cpu_fallback: bool = False,
    pp_option: object = None,
    hpi_params: object = None,
    serial_number: object = None,
    update_license: object = None,
) -> Predictor:
    """The instance segmentation pipeline, ready to predict.

    Args:
        pipeline: ``instance_segmentation`` or the path of a YAML file.
        config: the content of such a file; wins over ``pipeline``.
        model_name, model_dir: the model in place of the file's; a name that is the file's own keeps its ``model_dir``.
        device, threshold, batch_size, grow_boxes, threads, use_hpip, hpi_config, engine, engine_config: as for
            `create_model`; what is given wins over the file's.
        cpu_fallback: as for `create_model`; always so for a device that the file names, as in the reference.
        pp_option, hpi_params, serial_number, update_license: of the reference's; ignored, with a warning.

    Raises:
        ParameterError: neither is given, or a bad value. Else as `create_model`.
    """
    source = pipeline if config is None else config
    if source is None:
        raise ParameterError("create_pipeline() needs a pipeline name, a YAML file, or a config")
    if config is not None and pipeline is not None and str(pipeline) != PIPELINE:
        logger.warning("pipeline is %r, but config is given too and names %r: config is used", str(pipeline), PIPELINE)
    _tell_ignored(
        pp_option=pp_option, hpi_params=hpi_params, serial_number=serial_number, update_license=update_license
    )
    settings = load_pipeline(source).with_model(model_name, model_dir)
    return create_model(
        settings.model_name,
        settings.model_dir,
        device=settings.device if device is None else device,
        threshold=settings.threshold if threshold is None else threshold,
        batch_size=settings.batch_size if batch_size is None else batch_size,
        grow_boxes=grow_boxes,
        threads=threads,
        use_hpip=settings.use_hpip if use_hpip is None else use_hpip,
        hpi_config=settings.hpi_config if hpi_config is None else hpi_config,
        engine=settings.engine if engine is None else engine,
        engine_config=settings.engine_config if engine_config is None else engine_config,
        cpu_fallback=cpu_fallback or (device is None and settings.device is not None),
    )


def _check_now(device: str | None, threshold: object, batch_size: object) -> None:
    """Refuse wrong values before anything is downloaded."""
    check_count(batch_size, "batch_size")
    if device is not None:
        parse_devices(device)
    if threshold is not None:
        check_threshold(threshold)


def _tell_ignored(**given: object) -> None:
    names = [name for name, value in given.items() if value is not None and value is not False]
    if names:
        logger.warning("%s: of Paddle's plug-ins, without effect here", ", ".join(names))


def _is_path(name: str) -> bool:
    return (
        Path(name).is_dir()
        or name.endswith((*WEIGHTS_SUFFIXES, *(Path(file).suffix for file in GRAPH_FILES.values())))
        or "/" in name
        or "\\" in name
    )
