"""The two functions most programs need."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskline import catalog, hub
from maskline.config import load_pipeline
from maskline.errors import ParameterError
from maskline.runtime.predictor import Predictor, Threshold

log = logging.getLogger("maskline")


def create_model(
    model_name: str | None = None,
    model_dir: str | Path | None = None,
    *,
    device: str | None = None,
    threshold: Threshold | None = None,
    batch_size: int = 1,
    grow_boxes: bool = False,
    threads: int | None = None,
) -> Predictor:
    """A model ready to predict. Without name and directory: the embedded one, which needs no download.

    Args:
        model_name: a row of the catalog, ``embedded``, or (as older documents have it) a model directory of another
            name.
        model_dir: an exported model; without it the official one, fetched and exported on first use.
        device, threshold, batch_size, grow_boxes, threads: see `Predictor`.

    Raises:
        UnknownNameError: no such model; the message names the nearest.
        DownloadError, MissingDependencyError: the official model can't be had here.
        ModelError, DeviceError, ParameterError: see there.
    """
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
        threads=threads,
    )


def create_pipeline(
    pipeline: str | Path | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    device: str | None = None,
    threshold: Threshold | None = None,
) -> Predictor:
    """The instance segmentation pipeline, ready to predict.

    Args:
        pipeline: ``instance_segmentation`` or the path of a YAML file.
        config: the content of such a file; wins over ``pipeline``.
        device, threshold: win over the file's.

    Raises:
        ParameterError: neither is given, or a bad value. Else as `create_model`.
    """
    if config is not None and pipeline is not None:
        log.warning("both pipeline %r and config are given: config is used", str(pipeline))
    source = pipeline if config is None else config
    if source is None:
        raise ParameterError("create_pipeline() needs a pipeline name, a YAML file, or a config")
    settings = load_pipeline(source)
    return create_model(
        settings.model_name,
        settings.model_dir,
        device=settings.device if device is None else device,
        threshold=settings.threshold if threshold is None else threshold,
        batch_size=settings.batch_size,
    )


def _is_path(name: str) -> bool:
    return Path(name).is_dir() or name.endswith(".onnx") or "/" in name or "\\" in name
