"""``use_hpip``, ``hpi_config``, ``engine`` and ``engine_config``: what people write of them, as `Acceleration`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskline._checks import check_count, refuse_unknown
from maskline.errors import ParameterError, UnknownNameError
from maskline.runtime.backend import BACKENDS, INPUT, Acceleration, Shape
from maskline.runtime.device import parse_devices

#: Engines of the reference that are Paddle's; ours stand in for them.
PADDLE_ENGINES = ("paddle", "paddle_static", "paddle_dynamic")
OTHER_ENGINES = ("hpi", *PADDLE_ENGINES)  # besides the names of `BACKENDS`

HPI_KEYS = ("auto_config", "backend", "backend_config", "device_type", "device_id")
HPI_UNUSED = ("auto_paddle2onnx", "hpi_info", "model_name", "pdx_model_name")  # nothing here to convert or look up

OPTIONS = ("cpu_num_threads", "cpu_threads", "precision", "cache_dir", "use_dynamic_shapes", "dynamic_shapes")
# fmt: off
#: Options of Paddle Inference, which mean nothing to other backends.
PADDLE_OPTIONS = (
    "run_mode", "delete_pass", "enable_new_ir", "enable_cinn", "mkldnn_cache_capacity", "trt_cfg_setting",
    "trt_use_dynamic_shapes", "trt_dynamic_shapes", "trt_dynamic_shape_input_data", "trt_shape_range_info_path",
    "trt_collect_shape_range_info", "trt_discard_cached_shape_range_info", "trt_allow_rebuild_at_runtime",
    "shape_info_filename", "device_type", "device_id",
)
# fmt: on
THREAD_VARIABLES = ("MASKLINE_THREADS", "PADDLE_PDX_CPU_NUM_THREADS")

logger = logging.getLogger("maskline")


def choose(
    *,
    use_hpip: bool | None = None,
    hpi_config: Mapping[str, Any] | None = None,
    engine: str | None = None,
    engine_config: Mapping[str, Any] | None = None,
    threads: int | None = None,
) -> Acceleration:
    """What to run a model with.

    Args:
        use_hpip: take the backend that was measured to be fastest for the model; None: no, unless ``engine`` is "hpi".
        hpi_config: for ``use_hpip``, in the reference's keys. ``backend`` names one: onnxruntime, openvino, tensorrt
            (also "om", the CANN of ONNX Runtime; "paddle" stands for the default). ``auto_config`` false: what can't be
            had is an error, not a warning. ``backend_config`` has options, see below.
        engine: the name of a backend, or one of `OTHER_ENGINES`; wins over ``use_hpip``.
        engine_config: options for it, or such a mapping for each engine by name. For "hpi" as ``hpi_config``.
        threads: processor threads; wins over the options, these over the environment.

    Options are ``cpu_num_threads``, ``precision`` (fp32, fp16, bf16), ``cache_dir``, ``dynamic_shapes`` (of ``image``:
    least, usual and largest shape) and ``use_dynamic_shapes``.

    Raises:
        ParameterError: a bad value, or a name that is not known; the message names the nearest.
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
        logger.warning("use_hpip has no effect: engine %r says what to run", engine)
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
            f"hpi_config has auto_config false but no backend: name one of {', '.join(BACKENDS)}, or leave auto_config"
        )
    made = _options(options, threads, "backend_config")
    return Acceleration(backend=backend, best=backend is None, strict=strict, device=_device(hpi), **made)


def _check_hpi(hpi: Mapping[str, Any]) -> None:
    refuse_unknown(hpi, (*HPI_KEYS, *HPI_UNUSED), "hpi_config")
    if not isinstance(hpi.get("auto_config", True), bool):
        raise ParameterError(f"auto_config of hpi_config is {hpi['auto_config']!r}: expected true or false")
    if hpi.get("backend") is not None and hpi["backend"] not in (known := (*BACKENDS, "paddle")):
        raise UnknownNameError.of("backend in hpi_config", str(hpi["backend"]), known)


def _instead_of_paddle(what: str, options: Mapping[str, Any], threads: int | None, where: str) -> Acceleration:
    refuse_unknown(options, (*OPTIONS, *PADDLE_OPTIONS), where)
    told = [key for key in options if key in PADDLE_OPTIONS]
    without = f", without {', '.join(told)}" if told else ""
    logger.warning("%s runs Paddle programs: ONNX Runtime stands in for it%s", what, without)
    return Acceleration(threads=_counted(options, threads, where))


def _options(options: Mapping[str, Any], threads: int | None, where: str) -> dict[str, Any]:
    """Fields of `Acceleration`."""
    refuse_unknown(options, OPTIONS, where)
    precision = str(options.get("precision", "fp32")).lower()
    known = dict.fromkeys(name for spec in BACKENDS.values() for name in spec.precisions)
    if precision not in known:
        raise UnknownNameError.of(f"precision in {where}", precision, known)
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
    """Threads: those given already, else those of the options, else the environment's."""
    if threads is not None:
        return threads
    key = next((key for key in ("cpu_num_threads", "cpu_threads") if options.get(key) is not None), None)
    return _environment_threads() if key is None else check_count(options[key], f"{key} in {where}", most=1024)


def _threads(threads: int | None) -> int | None:
    return None if threads is None else check_count(threads, "threads", most=1024)


def _environment_threads() -> int | None:
    for name in THREAD_VARIABLES:
        text = os.environ.get(name, "").strip()
        if text:
            return check_count(int(text) if text.isdecimal() else text, name, most=1024)
    return None


def _shapes(options: Mapping[str, Any], where: str) -> tuple[Shape, Shape, Shape] | None:
    shapes = _mapping(options.get("dynamic_shapes"), f"dynamic_shapes in {where}")
    if options.get("use_dynamic_shapes") is False or INPUT not in shapes:
        return None  # other inputs are those of Paddle programs: sizes that our graphs don't need to be told
    given = shapes[INPUT]
    if not isinstance(given, list | tuple) or len(given) != 3:
        raise ParameterError(f"dynamic_shapes of {INPUT} is {given!r}: expected the least, usual and largest shape")
    least, usual, largest = (_shape(one) for one in given)
    if not all(a <= b <= c for a, b, c in zip(least, usual, largest, strict=True)):
        raise ParameterError(f"dynamic_shapes of {INPUT} is {given!r}: expected them in rising order")
    return least, usual, largest


def _shape(given: Any) -> Shape:
    """(B, H, W, 3), from that or, as Paddle programs have it, from (B, 3, H, W)."""
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
    parse_devices(text)  # refuse a bad one now
    return text


def _of_engine(config: Mapping[str, Any], engine: str | None) -> Mapping[str, Any]:
    """The options for an engine, also from one mapping for each."""
    named = [key for key in config if key in BACKENDS or key in OTHER_ENGINES]
    if not named:
        return config
    if len(named) < len(config):
        raise ParameterError(
            f"engine_config mixes engines ({', '.join(named)}) and options "
            f"({', '.join(str(key) for key in config if key not in named)}): give one or the other"
        )
    return _mapping(config.get(engine or "onnxruntime"), f"engine_config of {engine or 'onnxruntime'}")


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ParameterError(f"{where} is {value!r}: expected keys and values")
    return value
