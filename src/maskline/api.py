"""`create_model`, the function most programs start with."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from maskline import catalog, hub
from maskline._checks import check_count, check_threshold
from maskline.errors import ParameterError
from maskline.runtime import acceleration, opening
from maskline.runtime.backend import GRAPH_FILES
from maskline.runtime.device import device_text, parse_devices
from maskline.runtime.model_dir import WEIGHTS_SUFFIXES
from maskline.runtime.predictor import Predictor
from maskline.runtime.thresholds import Threshold

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger("maskline")


class PaddleOnly(TypedDict, total=False):
    """Arguments of PaddleX's functions that are accepted and ignored, so that its scripts run unchanged."""

    pp_option: object
    genai_config: object
    hpi_params: object
    serial_number: object
    update_license: object


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
    **ignored: Unpack[PaddleOnly],
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
        ignored: what only means something to Paddle, see `PaddleOnly`; a warning says so.

    Raises:
        UnknownNameError: no such model; the message names the nearest.
        DownloadError, MissingDependencyError: the official model can't be had here.
        ModelError, DeviceError, ParameterError: see there.
    """
    chosen = acceleration.choose(
        use_hpip=use_hpip, hpi_config=hpi_config, engine=engine, engine_config=engine_config, threads=threads
    )
    chosen = replace(chosen, cpu_fallback=cpu_fallback)
    warn_ignored(ignored)
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


def _check_now(device: str | None, threshold: object, batch_size: object) -> None:
    """Refuse wrong values before anything is downloaded."""
    check_count(batch_size, "batch_size")
    if device is not None:
        parse_devices(device)
    if threshold is not None:
        check_threshold(threshold)


def warn_ignored(given: PaddleOnly) -> None:
    """Warn about arguments without effect. Raises TypeError for any that PaddleX does not have either."""
    if unknown := given.keys() - PaddleOnly.__annotations__.keys():
        raise TypeError(f"unexpected keyword argument {min(unknown)!r}")
    names = [name for name, value in given.items() if value is not None and value is not False]
    if names:
        logger.warning("%s: Paddle only, ignored", ", ".join(names))


def _is_path(name: str) -> bool:
    return (
        Path(name).is_dir()
        or name.endswith((*WEIGHTS_SUFFIXES, *(Path(file).suffix for file in GRAPH_FILES.values())))
        or "/" in name
        or "\\" in name
    )
