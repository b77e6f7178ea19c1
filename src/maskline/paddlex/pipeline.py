"""Pipeline configuration: a name, a YAML file in the new or the old form, or its content as a dict."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskline import catalog
from maskline._checks import refuse_unknown
from maskline._files import read_text
from maskline.api import PaddleOnly, create_model, warn_ignored
from maskline.errors import InputNotFoundError, ParameterError, UnknownNameError
from maskline.paddlex.overrides import parse_value, read_yaml
from maskline.paddlex.values import as_switch

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from maskline.runtime.predictor import Predictor
    from maskline.runtime.thresholds import Threshold

PIPELINE = "instance_segmentation"
MODULE = "InstanceSegmentation"

#: Keys of the backend, at the top level or in the module, which wins.
ACCELERATION = ("use_hpip", "hpi_config", "engine", "engine_config")

#: Keys of the service. Only the first has an effect; the others are for other pipelines of PaddleX.
SERVING = ("visualize", "return_urls", "extra")

logger = logging.getLogger("maskline")


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """Settings of a pipeline. None: the default applies.

    Attributes:
        use_hpip, hpi_config, engine, engine_config: see `maskline.create_model`.
        input: default input, of an old file.
        visualize: whether a service's responses include a rendered image by default.
    """

    model_name: str | None = catalog.DEFAULT_MODEL
    model_dir: str | None = None
    batch_size: int = 1
    threshold: float | None = None
    device: str | None = None
    use_hpip: bool | None = None
    hpi_config: Mapping[str, Any] | None = None
    engine: str | None = None
    engine_config: Mapping[str, Any] | None = None
    input: str | None = None
    visualize: bool = True

    def with_model(self, name: str | None, folder: str | Path | None) -> PipelineConfig:
        """With another model, given by name, directory or both; the name of the current one keeps its directory."""
        if folder is None and name in (None, self.model_name):
            return self
        return replace(self, model_name=name, model_dir=None if folder is None else str(folder))


def load_pipeline(source: str | Path | Mapping[str, Any]) -> PipelineConfig:
    """Read a configuration.

    Args:
        source: ``instance_segmentation``, a path ending in .yml or .yaml, or the file's content as a dict.

    Raises:
        UnknownNameError: unknown pipeline or key; the message names the nearest.
        InputNotFoundError: the file does not exist.
        ParameterError: not YAML, or values of the wrong type.
    """
    if isinstance(source, Mapping):
        return _from_dict(source, "config")
    if str(source).lower().endswith((".yml", ".yaml")):
        path = Path(source)
        if not path.is_file():
            raise InputNotFoundError(f"no configuration file {path}")
        try:
            content = read_yaml(read_text(path))
        except (UnicodeDecodeError, ParameterError) as error:
            raise ParameterError(f"{path} is not a configuration: {error}") from None
        return _from_dict(content, str(source))
    if str(source) != PIPELINE:
        raise UnknownNameError.of("pipeline", str(source), [PIPELINE])
    return PipelineConfig()


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
    **ignored: Unpack[PaddleOnly],
) -> Predictor:
    """Open the instance segmentation pipeline.

    Args:
        pipeline: ``instance_segmentation`` or the path of a YAML file.
        config: the content of such a file; wins over ``pipeline``.
        model_name, model_dir: model to use instead of the file's; the file's own name keeps its ``model_dir``.
        device, threshold, batch_size, grow_boxes, threads, use_hpip, hpi_config, engine, engine_config: as for
            `create_model`; they win over the file's.
        cpu_fallback: as for `create_model`; always on for a device that the file names, as in PaddleX.
        ignored: arguments for Paddle only, see `maskline.api.PaddleOnly`; they are logged as a warning.

    Raises:
        ParameterError: neither ``pipeline`` nor ``config`` is given, or a value is not valid. Others as `create_model`.
    """
    warn_ignored(ignored)
    source = pipeline if config is None else config
    if source is None:
        raise ParameterError("create_pipeline() needs a pipeline name, a YAML file, or a config")
    if config is not None and pipeline is not None and str(pipeline) != PIPELINE:
        logger.warning("pipeline is %r, but config is given too and names %r: config is used", str(pipeline), PIPELINE)
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


def _from_dict(config: Any, where: str) -> PipelineConfig:
    if not isinstance(config, Mapping):
        raise ParameterError(
            f"{where} holds {type(config).__name__}: expected keys such as pipeline_name and SubModules"
        )
    return _from_old(config, where) if "Pipeline" in config else _from_new(config, where)


def _from_new(config: Mapping[str, Any], where: str) -> PipelineConfig:
    refuse_unknown(config, ("pipeline_name", "SubModules", "Serving", *ACCELERATION), where)
    if config.get("pipeline_name", PIPELINE) != PIPELINE:
        raise UnknownNameError.of("pipeline_name", str(config["pipeline_name"]), [PIPELINE], f"in {where}")
    modules = _section(config, "SubModules", where)
    refuse_unknown(modules, (MODULE,), f"{where}: SubModules")
    module = _section(modules, MODULE, where)
    keys = ("module_name", "model_name", "model_dir", "batch_size", "threshold", *ACCELERATION)
    refuse_unknown(module, keys, f"{where}: {MODULE}")
    name, folder = _text(module, "model_name", where), _text(module, "model_dir", where)
    return PipelineConfig(
        model_name=catalog.DEFAULT_MODEL if name is None and folder is None else name,  # a folder records its model
        model_dir=folder,
        batch_size=_batch_size(module),
        threshold=_literal(module.get("threshold")),
        use_hpip=_switch(_innermost(config, module, "use_hpip"), f"{where}: use_hpip"),
        hpi_config=_merged(config, module, "hpi_config", where),
        engine=_text({"engine": _innermost(config, module, "engine")}, "engine", where),
        engine_config=_merged(config, module, "engine_config", where),
        visualize=_visualize(_section(config, "Serving", where), where),
    )


def _visualize(serving: Mapping[str, Any], where: str) -> bool:
    refuse_unknown(serving, SERVING, f"{where}: Serving")
    value = _switch(serving.get("visualize"), f"{where}: Serving: visualize")
    return True if value is None else value


def _batch_size(section: Mapping[str, Any]) -> Any:
    value = _literal(section.get("batch_size"))
    return 1 if value is None else value


def _literal(value: Any) -> Any:
    """The value that a string spells: ``'None'``, ``'0.5'``."""
    return parse_value(value) if isinstance(value, str) else value


def _innermost(outer: Mapping[str, Any], inner: Mapping[str, Any], key: str) -> Any:
    return outer.get(key) if inner.get(key) is None else inner[key]


def _merged(outer: Mapping[str, Any], inner: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any] | None:
    """Both mappings merged, the inner one wins; None if neither is given."""
    given = [_section(part, key, where) for part in (outer, inner)]
    return {**given[0], **given[1]} or None


def _switch(value: object, where: str) -> bool | None:
    return None if value is None else as_switch(value, where)


def _from_old(config: Mapping[str, Any], where: str) -> PipelineConfig:
    logger.info("%s is in the old form; the new one has pipeline_name and SubModules", where)
    refuse_unknown(config, ("Global", "Pipeline"), where)
    refuse_unknown(_section(config, "Global", where), ("pipeline_name", "input"), f"{where}: Global")
    pipeline = _section(config, "Pipeline", where)
    refuse_unknown(pipeline, ("model", "batch_size", "device"), f"{where}: Pipeline")
    model = _text(pipeline, "model", where) or catalog.DEFAULT_MODEL
    local = not catalog.has(model) and Path(model).is_dir()
    return PipelineConfig(
        model_name=None if local else model,
        model_dir=model if local else None,
        batch_size=_batch_size(pipeline),
        device=_text(pipeline, "device", where),
        input=_text(_section(config, "Global", where), "input", where),
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
        raise ParameterError(f"{where}: {key} is {value!r}, expected a string")
    return value
