"""Pipeline configuration: a name, a YAML file in the new or the old form, or the same as a dict."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskline import catalog
from maskline.errors import InputNotFoundError, ParameterError, UnknownNameError
from maskline.files import read_yaml

PIPELINE = "instance_segmentation"
MODULE = "InstanceSegmentation"

#: Keys of the reference that are legal but don't do anything here yet, at the top and in the module.
IGNORED = ("use_hpip", "hpi_config", "engine", "engine_config")

log = logging.getLogger("maskline")


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """What a pipeline is made of. None: the default applies."""

    model_name: str | None = catalog.DEFAULT_MODEL
    model_dir: str | None = None
    batch_size: int = 1
    threshold: float | None = None
    device: str | None = None


def load_pipeline(source: str | Path | Mapping[str, Any]) -> PipelineConfig:
    """Read a configuration.

    Args:
        source: ``instance_segmentation``, a path ending in .yml or .yaml, or the file's content as a dict.

    Raises:
        UnknownNameError: a pipeline or key that does not exist; the message names the nearest.
        InputNotFoundError: no such file.
        ParameterError: not YAML, or values of the wrong type.
    """
    if isinstance(source, Mapping):
        return _from_dict(source, "config")
    if str(source).lower().endswith((".yml", ".yaml")):
        path = Path(source)
        if not path.is_file():
            raise InputNotFoundError(f"no configuration file {path}")
        return _from_dict(read_yaml(path), str(source))
    if str(source) != PIPELINE:
        raise UnknownNameError.of("pipeline", str(source), [PIPELINE])
    return PipelineConfig()


def _from_dict(config: Any, where: str) -> PipelineConfig:
    if not isinstance(config, Mapping):
        raise ParameterError(
            f"{where} holds {type(config).__name__}: expected keys such as pipeline_name and SubModules"
        )
    return _from_old(config, where) if "Pipeline" in config else _from_new(config, where)


def _from_new(config: Mapping[str, Any], where: str) -> PipelineConfig:
    _refuse_unknown(config, ("pipeline_name", "SubModules", "Serving", *IGNORED), where)
    if config.get("pipeline_name", PIPELINE) != PIPELINE:
        raise UnknownNameError.of(f"pipeline_name in {where}", str(config["pipeline_name"]), [PIPELINE])
    modules = _section(config, "SubModules", where)
    _refuse_unknown(modules, (MODULE,), f"{where}: SubModules")
    module = _section(modules, MODULE, where)
    keys = ("module_name", "model_name", "model_dir", "batch_size", "threshold", *IGNORED)
    _refuse_unknown(module, keys, f"{where}: {MODULE}")
    for key in IGNORED:
        if config.get(key) or module.get(key):
            log.warning("%s: %s has no effect in this version", where, key)
    name = _text(module, "model_name", where)
    return PipelineConfig(
        model_name=catalog.DEFAULT_MODEL if name is None else name,
        model_dir=_text(module, "model_dir", where),
        batch_size=1 if module.get("batch_size") is None else module["batch_size"],
        threshold=module.get("threshold"),
    )


def _from_old(config: Mapping[str, Any], where: str) -> PipelineConfig:
    log.info("%s is in the old form; the new one has pipeline_name and SubModules", where)
    _refuse_unknown(config, ("Global", "Pipeline"), where)
    _refuse_unknown(_section(config, "Global", where), ("pipeline_name", "input"), f"{where}: Global")
    pipeline = _section(config, "Pipeline", where)
    _refuse_unknown(pipeline, ("model", "batch_size", "device"), f"{where}: Pipeline")
    model = _text(pipeline, "model", where) or catalog.DEFAULT_MODEL
    local = not catalog.has(model) and Path(model).is_dir()
    return PipelineConfig(
        model_name=None if local else model,
        model_dir=model if local else None,
        batch_size=1 if pipeline.get("batch_size") is None else pipeline["batch_size"],
        device=_text(pipeline, "device", where),
    )


def _section(config: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    section = config.get(key) or {}
    if not isinstance(section, Mapping):
        raise ParameterError(f"{where}: {key} is {section!r}, expected keys and values")
    return section


def _text(config: Mapping[str, Any], key: str, where: str) -> str | None:
    value = config.get(key)
    if value is None or value in ("", "None"):
        return None
    if not isinstance(value, str):
        raise ParameterError(f"{where}: {key} is {value!r}, expected a text")
    return value


def _refuse_unknown(config: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    known = list(known)
    for key in config:
        if key not in known:
            raise UnknownNameError.of(f"key in {where}", str(key), known)
