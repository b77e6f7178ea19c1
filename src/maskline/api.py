"""The two functions most programs need."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskline import catalog, hub
from maskline.checks import check_count, check_threshold
from maskline.config import load_pipeline
from maskline.errors import ParameterError
from maskline.runtime import acceleration
from maskline.runtime.device import parse_devices
from maskline.runtime.model_dir import GRAPH_FILES
from maskline.runtime.predictor import Predictor
from maskline.runtime.thresholds import Threshold

log = logging.getLogger("maskline")


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
    pp_option: object = None,
    genai_config: object = None,
) -> Predictor:
    """A model ready to predict. Without name and directory: the embedded one, which needs no download.

    Args:
        model_name: a row of the catalog, ``embedded``, or (as older documents have it) a model directory of another
            name.
        model_dir: an exported model; without it the official one, fetched and exported on first use.
        device, threshold, batch_size, grow_boxes: see `Predictor`.
        threads, use_hpip, hpi_config, engine, engine_config: see `maskline.runtime.acceleration.choose`.
        pp_option, genai_config: of the reference's; ignored, with a warning.

    Raises:
        UnknownNameError: no such model; the message names the nearest.
        DownloadError, MissingDependencyError: the official model can't be had here.
        ModelError, DeviceError, ParameterError: see there.
    """
    chosen = acceleration.choose(
        use_hpip=use_hpip, hpi_config=hpi_config, engine=engine, engine_config=engine_config, threads=threads
    )
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
    device: str | None = None,
    threshold: Threshold | None = None,
    batch_size: int | None = None,
    grow_boxes: bool = False,
    threads: int | None = None,
    use_hpip: bool | None = None,
    hpi_config: Mapping[str, Any] | None = None,
    engine: str | None = None,
    engine_config: Mapping[str, Any] | None = None,
    pp_option: object = None,
    hpi_params: object = None,
    serial_number: object = None,
    update_license: object = None,
) -> Predictor:
    """The instance segmentation pipeline, ready to predict.

    Args:
        pipeline: ``instance_segmentation`` or the path of a YAML file.
        config: the content of such a file; wins over ``pipeline``.
        device, threshold, batch_size, grow_boxes, threads, use_hpip, hpi_config, engine, engine_config: as for
            `create_model`; what is given wins over the file's.
        pp_option, hpi_params, serial_number, update_license: of the reference's; ignored, with a warning.

    Raises:
        ParameterError: neither is given, or a bad value. Else as `create_model`.
    """
    if config is not None and pipeline is not None:
        log.warning("both pipeline %r and config are given: config is used", str(pipeline))
    source = pipeline if config is None else config
    if source is None:
        raise ParameterError("create_pipeline() needs a pipeline name, a YAML file, or a config")
    _tell_ignored(
        pp_option=pp_option, hpi_params=hpi_params, serial_number=serial_number, update_license=update_license
    )
    settings = load_pipeline(source)
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
        log.warning("%s: of Paddle's plug-ins, without effect here", ", ".join(names))


def _is_path(name: str) -> bool:
    return (
        Path(name).is_dir()
        or name.endswith(tuple(Path(file).suffix for file in GRAPH_FILES.values()))
        or "/" in name
        or "\\" in name
    )
