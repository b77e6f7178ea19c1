"""A model directory: ``inference.onnx`` (or ``.ort``, ``.xml``) and, beside it, ``inference.yml`` as the reference's.

The graph describes itself; the YAML is for people and for compatibility. Where it is there, its ``draw_threshold`` and
``label_list`` win, so that they can be edited.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskline.checks import check_score
from maskline.errors import InputNotFoundError, ModelError, ParameterError
from maskline.files import read_yaml
from maskline.runtime.graph import Record

#: The graph's file by format; the first one there is taken. The weights of OpenVINO's are in ``inference.bin``.
GRAPH_FILES = {"onnx": "inference.onnx", "ort": "inference.ort", "openvino": "inference.xml"}
CONFIG_FILE = "inference.yml"
FOREIGN_FILES = ("inference.pdmodel", "inference.json", "inference.pdiparams")


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
                f"{self.graph_path.with_name(CONFIG_FILE)} lists {len(self.labels)} labels, "
                f"the model has {len(record.labels)} classes: label_list needs one name for each"
            )


def open_model_dir(path: Path, name: str | None = None) -> ModelDir:
    """Look into a model directory, or take a graph's file alone.

    Raises:
        InputNotFoundError: no such directory or file.
        ModelError: no graph in it, or a damaged YAML.
    """
    if path.is_file():
        return ModelDir(path, name)
    if not path.is_dir():
        raise InputNotFoundError(f"no model directory {path}: make one with `maskline export MODEL --output {path}`")
    graph = next((path / name for name in GRAPH_FILES.values() if (path / name).is_file()), None)
    if graph is None:
        foreign = next((f for f in FOREIGN_FILES if (path / f).exists()), None)
        told = f"{foreign} is a Paddle program, which only Paddle runs: " if foreign else ""
        raise ModelError(
            f"{path} has none of {', '.join(GRAPH_FILES.values())}: {told}make one from the .pdparams weights with "
            f"`maskline export MODEL --weights FILE.pdparams --output {path}`"
        )
    labels, threshold = _read_config(path / CONFIG_FILE) if (path / CONFIG_FILE).is_file() else (None, None)
    return ModelDir(graph, name, labels, threshold)


def _read_config(path: Path) -> tuple[tuple[str, ...] | None, float | None]:
    """``label_list`` and ``draw_threshold``, None where they are not given."""
    config = _read_yaml(path)
    labels, threshold = config.get("label_list"), config.get("draw_threshold")
    if labels is not None and not (isinstance(labels, list) and all(isinstance(v, str | int) for v in labels)):
        raise ModelError(f"{path}: label_list is no list of names: mend it or export the model again")
    try:
        score = None if threshold is None else check_score(threshold, "draw_threshold")
    except ParameterError as error:
        raise ModelError(f"{path}: {error}") from None
    return None if labels is None else tuple(map(str, labels)), score


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        config = read_yaml(path)
    except ParameterError as error:
        raise ModelError(f"{error}: mend it or export the model again") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds {type(config).__name__}: expected the keys of an exported inference.yml")
    return config
