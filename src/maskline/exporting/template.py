"""Graphs without weights. Filled with the weights of a network, they are complete ONNX files.

Tracing a network takes most of an export's time, and needs torch; filling a template takes neither. Some weights change
on the way: those of linear layers are transposed, for example. The template knows these changes (`Step`).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from maskline.weights.pdparams import Array

GRAPH_MEMBER, ABOUT_MEMBER = "graph.onnx", "about.json"

# Field numbers of onnx.proto
_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_GRAPH_INITIALIZER = 5
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_DATA = 1, 2, 8, 9
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_TYPES = {"float32": 1, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11}


@dataclass(frozen=True)
class Step:
    """A change of one array.

    Attributes:
        kind: ``transpose`` to the axes ``numbers``, ``reshape`` to the shape ``numbers``, or ``split`` along ``axis``
            into parts of the sizes ``numbers``.
        source: name of the array.
        results: names of what it becomes; several for ``split`` only.
    """

    kind: Literal["transpose", "reshape", "split"]
    source: str
    results: tuple[str, ...]
    numbers: tuple[int, ...]
    axis: int = 0

    def run(self, array: Array) -> dict[str, Array]:
        match self.kind:
            case "transpose":
                changed = [array.transpose(self.numbers)]
            case "reshape":
                changed = [array.reshape(self.numbers)]
            case "split":
                changed = np.split(array, np.cumsum(self.numbers)[:-1], axis=self.axis)
        return dict(zip(self.results, changed, strict=True))


@dataclass(frozen=True)
class GraphTemplate:
    """An ONNX graph, and what it takes from a network's weights.

    Attributes:
        graph: a serialised ``ModelProto`` whose nodes refer to weights that it does not contain.
        weights: names of the initializers that are missing, after all steps.
        steps: in the order in which they are run; a later one may take what an earlier one made.
    """

    graph: bytes
    weights: tuple[str, ...]
    steps: tuple[Step, ...] = ()

    def write(self, path: Path, state: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
        """Write a complete ONNX file. Raises OSError; KeyError if the state lacks an array.

        Args:
            state: the network's weights by name.
            metadata: the model's properties.
        """
        arrays = dict(state)
        for step in self.steps:
            arrays |= step.run(arrays[step.source])
        with path.open("wb") as file:
            # Concatenated protobuf messages are merged: lists are joined, and so are the graphs.
            file.write(self.graph)
            for name in self.weights:
                array = np.asarray(arrays[name], order="C")
                head = _tensor_head(name, array)
                tensor = len(head) + array.nbytes
                opening = _opening(_GRAPH_INITIALIZER, tensor)
                file.write(_opening(_MODEL_GRAPH, len(opening) + tensor) + opening + head)
                file.write(array.data)
            for key, value in metadata.items():
                entry = _text(_ENTRY_KEY, key) + _text(_ENTRY_VALUE, value)
                file.write(_opening(_MODEL_METADATA, len(entry)) + entry)

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        """Write a compressed file, the same for the same template, with more information. Raises OSError."""
        text = json.dumps({"weights": self.weights, "steps": list(map(asdict, self.steps)), **about}, indent=1)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
            for name, data in ((GRAPH_MEMBER, self.graph), (ABOUT_MEMBER, text.encode())):
                file.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # ZipInfo: no date

    @classmethod
    def load(cls, path: Path) -> tuple[GraphTemplate, dict[str, Any]]:
        """Read a file of `save`; also return the information saved with it."""
        with zipfile.ZipFile(path) as file:
            about = json.loads(file.read(ABOUT_MEMBER))
            graph = file.read(GRAPH_MEMBER)
        steps = (
            Step(s["kind"], s["source"], tuple(s["results"]), tuple(s["numbers"]), s["axis"])
            for s in about.pop("steps")
        )
        return cls(graph, tuple(about.pop("weights")), tuple(steps)), about


def _tensor_head(name: str, array: Array) -> bytes:
    """A ``TensorProto`` up to its values."""
    dims = b"".join(_varint(_TENSOR_DIMS << 3) + _varint(n) for n in array.shape)
    kind = _varint(_TENSOR_TYPE << 3) + _varint(_TYPES[array.dtype.name])
    return dims + kind + _text(_TENSOR_NAME, name) + _opening(_TENSOR_DATA, array.nbytes)


def _text(field: int, value: str) -> bytes:
    data = value.encode()
    return _opening(field, len(data)) + data


def _opening(field: int, length: int) -> bytes:
    """What precedes a field of ``length`` bytes."""
    return _varint(field << 3 | 2) + _varint(length)


def _varint(number: int) -> bytes:
    return bytes(_sevens(number))


def _sevens(number: int) -> Iterator[int]:
    while number > 127:
        yield number & 127 | 128
        number >>= 7
    yield number
