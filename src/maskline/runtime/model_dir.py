"""A model directory: ``inference.onnx`` (or ``.ort``, ``.xml``) and, beside it, ``inference.yml`` as the reference's.

The graph describes itself; the YAML is for people and for compatibility. Where it is there, its ``draw_threshold`` and
``label_list`` win, so that they can be edited.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from maskline._checks import check_score
from maskline._files import read_yaml
from maskline._wording import counted
from maskline.errors import InputNotFoundError, ModelError, ParameterError
from maskline.runtime.backend import GRAPH_FILES
from maskline.runtime.graph import Record

CONFIG_FILE = "inference.yml"
FOREIGN_FILES = ("inference.pdmodel", "inference.json", "inference.pdiparams")

WEIGHTS_SUFFIXES = (".safetensors", ".pdparams")
#: Where the export of a training lies: below its output folder, and below that of its best weights.
BEST, INFERENCE = "best_model", "inference"

logger = logging.getLogger("maskline")


@dataclass(frozen=True, slots=True)
class ModelDir:
    """What a model directory holds, before the graph is opened."""

    graph_path: Path
    name: str | None = None  # the model asked for, or the YAML's
    labels: tuple[str, ...] | None = None
    threshold: float | None = None

    def check(self, record: Record) -> None:
        """Raise ModelError if the graph is another model, or has another number of classes."""
        if self.name is not None and self.name != record.model:
            raise ModelError(
                f"{self.graph_path.parent} holds {record.model}, not {self.name}: "
                f"give the directory of {self.name}, or ask for {record.model}"
            )
        if self.labels is not None and len(self.labels) != len(record.labels):
            raise ModelError(
                f"{self.graph_path.with_name(CONFIG_FILE)} lists {counted(len(self.labels), 'label')}, "
                f"the model has {counted(len(record.labels), 'class', 'classes')}: label_list needs one name for each"
            )


def open_model_dir(path: Path, name: str | None = None) -> ModelDir:
    """Look into a model directory.

    Args:
        path: the directory; a graph's file alone; or, of a training, its output folder, the folder of its best weights
            or these weights (``best_model/best_model.safetensors`` or, as the reference calls them, ``.pdparams``),
            which stand for the ``inference`` folder that was exported from them.
        name: the model that it has to be.

    Raises:
        InputNotFoundError: no such directory or file.
        ModelError: no graph in it, or a damaged YAML.
    """
    if path.is_file() and path.suffix.lower() not in WEIGHTS_SUFFIXES:
        return ModelDir(path, name)
    folder = next((place for place in _places(path) if _graph_in(place) is not None), None)
    if folder is None:
        raise _not_there(path, name)
    if folder != path:
        logger.info("%s: its export %s is used", path, folder)
    graph = _graph_in(folder)
    assert graph is not None
    labels, threshold = _read_config(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else (None, None)
    return ModelDir(graph, name, labels, threshold)


def _places(path: Path) -> tuple[Path, ...]:
    """Where the export may lie, best first. That of weights is known only where a training has put both."""
    if _names_weights(path):
        return (path.parent / INFERENCE,) if path.stem == path.parent.absolute().name else ()
    return path, path / INFERENCE, path / BEST / INFERENCE


def _names_weights(path: Path) -> bool:
    return path.suffix.lower() in WEIGHTS_SUFFIXES and not path.is_dir()


def _graph_in(folder: Path) -> Path | None:
    return next((folder / name for name in GRAPH_FILES.values() if (folder / name).is_file()), None)


def _not_there(path: Path, name: str | None) -> InputNotFoundError | ModelError:
    """The error for a path that leads to no graph, with the command that makes one."""
    export = f"maskline export {name or 'MODEL'}"
    weights, graphs = _weights_of(path), ", ".join(GRAPH_FILES.values())
    if weights is None and _names_weights(path):
        expected = f"expected the folder that an export or a training has made, such as output/{BEST}/{INFERENCE}"
        return InputNotFoundError(f"no file {path}, and no export of it: {expected}")
    if not path.exists() and weights is None:
        command = f"{export} --output {quote(str(path))}"
        return InputNotFoundError(f"no model directory {path}: `{command}` makes one from the official weights")
    output = path if weights is None else weights.parent / INFERENCE
    command = f"{export} --weights {quote(str(weights or 'FILE.pdparams'))} --output {quote(str(output))}"
    if _names_weights(path):
        return ModelError(f"{path} names weights, not an exported model: `{command}` exports them to {output}")
    foreign = next((f for place in _places(path) for f in FOREIGN_FILES if (place / f).exists()), None)
    told = f"{foreign} is a Paddle program, which only Paddle runs: " if foreign else ""
    return ModelError(f"{path} has none of {graphs}: {told}make one from the weights with `{command}`")


def _weights_of(path: Path) -> Path | None:
    """The weights that a path names, under either suffix, or the best ones of a training in it."""
    if _names_weights(path):
        candidates = [path, *(path.with_suffix(suffix) for suffix in WEIGHTS_SUFFIXES)]
    else:
        candidates = [folder / f"{BEST}{suffix}" for folder in (path, path / BEST) for suffix in WEIGHTS_SUFFIXES]
    return next((file for file in candidates if file.is_file()), None)


def _read_config(path: Path) -> tuple[tuple[str, ...] | None, float | None]:
    """``label_list`` and ``draw_threshold``, None where they are not given."""
    config = _read_yaml(path)
    labels, threshold = config.get("label_list"), config.get("draw_threshold")
    if labels is not None and not (isinstance(labels, list) and all(isinstance(v, str | int) for v in labels)):
        raise ModelError(f"{path}: label_list is not a list of names: correct it or export the model again")
    try:
        score = None if threshold is None else check_score(threshold, "draw_threshold")
    except ParameterError as error:
        raise ModelError(f"{path}: {error}") from None
    return None if labels is None else tuple(map(str, labels)), score


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        config = read_yaml(path)
    except ParameterError as error:
        raise ModelError(f"{error}: correct it or export the model again") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds {type(config).__name__}: expected the keys of an exported inference.yml")
    return config
