"""Parsing of ``use_hpip``, ``hpi_config``, ``engine`` and ``engine_config`` into `Acceleration`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskline._checks import check_count, refuse_unknown
from maskline._cpu import MOST_THREADS
from maskline.errors import ParameterError, UnknownNameError
from maskline.runtime.backend import BACKENDS, INPUT, Acceleration, Shape
from maskline.runtime.device import parse_devices

#: PaddleX's names for Paddle's own engines; ONNX Runtime is used in their place.
PADDLE_ENGINES = ("paddle", "paddle_static", "paddle_dynamic")
OTHER_ENGINES = ("hpi", *PADDLE_ENGINES)  # besides the names of `BACKENDS`

HPI_KEYS = ("auto_config", "backend", "backend_config", "device_type", "device_id")
HPI_UNUSED = ("auto_paddle2onnx", "hpi_info", "model_name", "pdx_model_name")  # accepted, without effect

OPTIONS = ("cpu_num_threads", "cpu_threads", "precision", "cache_dir", "use_dynamic_shapes", "dynamic_shapes")
# fmt: off
#: Options of Paddle Inference, without effect on other backends.
PADDLE_OPTIONS = (
    "run_mode", "delete_pass", "enable_new_ir", "enable_cinn", "mkldnn_cache_capacity", "trt_cfg_setting",
    "trt_use_dynamic_shapes", "trt_dynamic_shapes", "trt_dynamic_shape_input_data", "trt_shape_range_info_path",
    "trt_collect_shape_range_info", "trt_discard_cached_shape_range_info", "trt_allow_rebuild_at_runtime",
    "shape_info_filename", "device_type", "device_id",
)
# fmt: on
THREAD_VARIABLES = ("MASKLINE_THREADS", "PADDLE_PDX_CPU_NUM_THREADS")

logger = logging.getLogger("maskline")


def parse_acceleration(
    *,
    use_hpip: bool | None = None,
    hpi_config: Mapping[str, Any] | None = None,
    engine: str | None = None,
    engine_config: Mapping[str, Any] | None = None,
    threads: int | None = None,
) -> Acceleration:
    """Parse the options that select a backend.

    Args:
        use_hpip: use the backend measured to be fastest for the model; None: no, unless ``engine`` is "hpi".
        hpi_config: configuration of ``use_hpip``, with PaddleX's keys. ``backend``: onnxruntime, openvino, tensorrt or
            "om" (ONNX Runtime's CANN); "paddle" means the default. ``auto_config`` false: an unavailable backend is an
            error rather than a warning. ``backend_config``: options, see below.
        engine: name of a backend, or one of `OTHER_ENGINES`; takes precedence over ``use_hpip``.
        engine_config: options of the engine, or a mapping from engine names to options. For "hpi", as ``hpi_config``.
        threads: CPU threads; takes precedence over the options, which take precedence over the environment.

    Options are ``cpu_num_threads``, ``precision`` (fp32, fp16, bf16), ``cache_dir``, ``dynamic_shapes`` (for ``image``:
    minimum, typical and maximum shape) and ``use_dynamic_shapes``.

    Raises:
        ParameterError: an invalid value or an unknown name; the message suggests the nearest.
    """
    if not isinstance(use_hpip, bool | None):
        raise ParameterError(f"use_hpip is {use_hpip!r}: expected True or False")
    count = _threads(threads)
    if engine is not None and engine not in (engines := (*BACKENDS, *OTHER_ENGINES)):
        raise UnknownNameError.of("engine", str(engine), engines)
    hpi = _mapping(hpi_config, "hpi_config")
    options = _of_engine(_mapping(engine_config, "engine_config"), engine)
    if engine == "hpi" or (engine is None and use_hpip):
        return _from_hpi({**hpi, **options} if engine == "hpi" else hpi, {} if engine == "hpi" else options, count)
    _check_hpi(hpi)
    if use_hpip:
        logger.warning("use_hpip has no effect: engine %r takes precedence", engine)
    elif hpi:
        logger.warning("hpi_config has no effect without use_hpip")
    if engine in PADDLE_ENGINES:
        return _instead_of_paddle(f"engine {engine!r}", options, count, "engine_config")
    return Acceleration(backend=engine, **_options(options, count, "engine_config"))


def _from_hpi(hpi: Mapping[str, Any], options: Mapping[str, Any], threads: int | None) -> Acceleration:
    _check_hpi(hpi)
    options = {**_mapping(hpi.get("backend_config"), "backend_config of hpi_config"), **options}
    strict, backend = not hpi.get("auto_config", True), hpi.get("backend")
    if backend == "paddle":
        return _instead_of_paddle("backend 'paddle'", options, threads, "backend_config")
    if strict and backend is None:
        raise ParameterError(
            f"hpi_config has auto_config false but no backend: name one of {', '.join(BACKENDS)}, or omit auto_config"
        )
    made = _options(options, threads, "backend_config")
    return Acceleration(backend=backend, best=backend is None, strict=strict, device=_device(hpi), **made)


def _check_hpi(hpi: Mapping[str, Any]) -> None:
    refuse_unknown(hpi, (*HPI_KEYS, *HPI_UNUSED), "hpi_config")
    if not isinstance(hpi.get("auto_config", True), bool):
        raise ParameterError(f"auto_config of hpi_config is {hpi['auto_config']!r}: expected true or false")
    if hpi.get("backend") is not None and hpi["backend"] not in (known := (*BACKENDS, "paddle")):
        raise UnknownNameError.of("backend", str(hpi["backend"]), known, "in hpi_config")


def _instead_of_paddle(what: str, options: Mapping[str, Any], threads: int | None, where: str) -> Acceleration:
    refuse_unknown(options, (*OPTIONS, *PADDLE_OPTIONS), where)
    ignored = [key for key in options if key in PADDLE_OPTIONS]
    without = f", ignoring {', '.join(ignored)}" if ignored else ""
    logger.warning("%s is for Paddle programs: using ONNX Runtime instead%s", what, without)
    return Acceleration(threads=_counted(options, threads, where))


def _options(options: Mapping[str, Any], threads: int | None, where: str) -> dict[str, Any]:
    """Fields of `Acceleration`."""
    refuse_unknown(options, OPTIONS, where)
    precision = str(options.get("precision", "fp32")).lower()
    known = dict.fromkeys(name for spec in BACKENDS.values() for name in spec.precisions)
    if precision not in known:
        raise UnknownNameError.of("precision", precision, known, f"in {where}")
    folder = options.get("cache_dir")
    if folder is not None and not isinstance(folder, str | Path):
        raise ParameterError(f"cache_dir in {where} is {folder!r}: expected a path")
    return {
        "threads": _counted(options, threads, where),
        "precision": precision,
        "cache_dir": None if folder is None else Path(folder),
        "shapes": _shapes(options, where),
    }


def _counted(options: Mapping[str, Any], threads: int | None, where: str) -> int | None:
    """Number of threads: ``threads`` if given, else from the options, else from the environment."""
    if threads is not None:
        return threads
    key = next((key for key in ("cpu_num_threads", "cpu_threads") if options.get(key) is not None), None)
    return _environment_threads() if key is None else check_count(options[key], f"{key} in {where}", most=MOST_THREADS)


def _threads(threads: int | None) -> int | None:
    return None if threads is None else check_count(threads, "threads", most=MOST_THREADS)


def _environment_threads() -> int | None:
    for name in THREAD_VARIABLES:
        text = os.environ.get(name, "").strip()
        if text:
            return check_count(int(text) if text.isdecimal() else text, name, most=MOST_THREADS)
    return None


def _shapes(options: Mapping[str, Any], where: str) -> tuple[Shape, Shape, Shape] | None:
    shapes = _mapping(options.get("dynamic_shapes"), f"dynamic_shapes in {where}")
    if options.get("use_dynamic_shapes") is False or INPUT not in shapes:
        return None  # other inputs belong to Paddle programs: our graphs have no such inputs
    given = shapes[INPUT]
    if not isinstance(given, list | tuple) or len(given) != 3:
        raise ParameterError(f"dynamic_shapes of {INPUT} is {given!r}: expected minimum, typical and maximum shape")
    least, usual, largest = (_shape(one) for one in given)
    if not all(a <= b <= c for a, b, c in zip(least, usual, largest, strict=True)):
        raise ParameterError(f"dynamic_shapes of {INPUT} is {given!r}: expected ascending order")
    return least, usual, largest


def _shape(given: Any) -> Shape:
    """Parse a shape into (B, H, W, 3), from that form or, as in Paddle programs, (B, 3, H, W)."""
    sizes = [check_count(size, f"a size in dynamic_shapes of {INPUT}") for size in given] if _is_list(given) else []
    if len(sizes) == 4 and sizes[3] == 3:
        return sizes[0], sizes[1], sizes[2], 3
    if len(sizes) == 4 and sizes[1] == 3:
        return sizes[0], sizes[2], sizes[3], 3
    raise ParameterError(f"dynamic_shapes of {INPUT} has {given!r}: expected batch, height, width, 3")


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _device(hpi: Mapping[str, Any]) -> str | None:
    kind, number = hpi.get("device_type"), hpi.get("device_id")
    if kind is None:
        return None
    text = str(kind) if number is None else f"{kind}:{number}"
    parse_devices(text)  # reject an invalid one now
    return text


def _of_engine(config: Mapping[str, Any], engine: str | None) -> Mapping[str, Any]:
    """Options of an engine, given directly or in a mapping by engine."""
    named = [key for key in config if key in BACKENDS or key in OTHER_ENGINES]
    if not named:
        return config
    if len(named) < len(config):
        raise ParameterError(
            f"engine_config mixes engines ({', '.join(named)}) and options "
            f"({', '.join(str(key) for key in config if key not in named)}): use one or the other"
        )
    return _mapping(config.get(engine or "onnxruntime"), f"engine_config of {engine or 'onnxruntime'}")


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ParameterError(f"{where} is {value!r}: expected keys and values")
    return value
