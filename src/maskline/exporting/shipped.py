"""Graphs of official models without torch: templates shipped with the package, filled with the weights of a file.

Each template is a file of ``assets/graphs``, written by ``scripts/graphs`` from the network. It also describes what is
done with the arrays of a PaddleDetection checkpoint: how they are named here, which are transposed, and which batch
norms and parallel branches are merged into convolutions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from maskline import catalog
from maskline._files import ASSETS
from maskline.exporting.formats import store_half
from maskline.exporting.options import ExportOptions
from maskline.exporting.template import GraphTemplate
from maskline.runtime.graph import RECORD_KEY, Record
from maskline.runtime.mask_layout import MaskLayout
from maskline.weights.arrays import differences, misfit, read_arrays, weights_path
from maskline.weights.pdparams import Array

GRAPHS = ASSETS / "graphs"

logger = logging.getLogger("maskline")


class ShippedGraph:
    """The template of a catalog model, for 80 classes.

    Attributes:
        about: what ``scripts/graphs`` wrote: ``num_classes``, ``mask_layout``, ``made_with``, ``rules``, ``linear``,
            ``shapes``, ``fusions``.
    """

    def __init__(self, path: Path) -> None:
        self.template, self.about = GraphTemplate.load(path)

    def read(self, path: Path) -> tuple[dict[str, Array], dict[str, str]]:
        """Read a PaddleDetection checkpoint; see `read_arrays`."""
        return read_arrays(path, self.about["rules"], set(self.about["linear"]).__contains__)

    def mismatches(self, state: Mapping[str, Array], names_in_file: Mapping[str, str] | None = None) -> list[str]:
        """List the keys of a state that don't match the network, a line each; empty if it fits."""
        return differences(self.about["shapes"], {k: v.shape for k, v in state.items()}, names_in_file)

    def fused(self, state: Mapping[str, Array]) -> dict[str, Array]:
        """The weights of `maskline.exporting.graph.fused` from those of the network."""
        arrays = dict(state)
        for fusion in self.about["fusions"]:
            arrays |= FUSIONS[fusion["kind"]](arrays, fusion["path"], fusion["eps"])
        return arrays


def _conv_norm(arrays: Mapping[str, Array], path: str, eps: float) -> dict[str, Array]:
    weight, bias = _fused_kernel(arrays, path, eps)
    return {f"{path}.layer.weight": weight, f"{path}.layer.bias": bias}


def _rep_vgg(arrays: Mapping[str, Array], path: str, eps: float) -> dict[str, Array]:
    dense, dense_bias = _fused_kernel(arrays, f"{path}.dense", eps)
    pointwise, pointwise_bias = _fused_kernel(arrays, f"{path}.pointwise", eps)
    alpha = arrays.get(f"{path}.alpha", np.float32(1))
    padded = np.pad(pointwise, ((0, 0), (0, 0), (1, 1), (1, 1)))
    return {f"{path}.0.weight": dense + alpha * padded, f"{path}.0.bias": dense_bias + alpha * pointwise_bias}


def _fused_kernel(arrays: Mapping[str, Array], path: str, eps: float) -> tuple[Array, Array]:
    """As `maskline.models.layers.ConvNorm.fused_kernel`."""
    weight, bias, mean, var = (arrays[f"{path}.norm.{n}"] for n in ("weight", "bias", "running_mean", "running_var"))
    scale = weight * (np.float32(1) / np.sqrt(var + np.float32(eps)))
    return arrays[f"{path}.conv.weight"] * scale[:, None, None, None], bias - mean * scale


#: By the class that is merged.
FUSIONS = {"ConvNorm": _conv_norm, "RepVGG": _rep_vgg}


class ShippedSource:
    """A shipped graph and a file of weights; see `GraphSource`."""

    def __init__(
        self,
        graph: ShippedGraph,
        state: Mapping[str, Array],
        spec: catalog.Model,
        weights: Path,
        options: ExportOptions,
    ) -> None:
        self._graph, self._state, self._spec, self._weights, self._options = graph, state, spec, weights, options
        self.num_classes: int = graph.about["num_classes"]
        self.mask_layout = MaskLayout.from_dict(graph.about["mask_layout"])
        self.made_with: str = graph.about["made_with"]

    def write(self, path: Path, record: Record) -> None:
        arrays = {f"network.{name}": array for name, array in self._graph.fused(self._state).items()}
        if self._options.half:
            arrays = {k: v.astype(np.float16).astype(v.dtype) if v.dtype.kind == "f" else v for k, v in arrays.items()}
        self._graph.template.write(path, arrays, {RECORD_KEY: record.to_json()})
        if self._options.half:
            store_half(path)

    def verify(self, plain: Path, path: Path, record: Record) -> None:
        if self._options.verify:
            from maskline.exporting.from_network import NetworkSource
            from maskline.weights.load import load_network

            NetworkSource(load_network(self._spec.name, self._weights), self._options).verify(plain, path, record)


def applies(spec: catalog.Model, options: ExportOptions) -> bool:
    """Whether a shipped graph has the shapes of the options."""
    return (GRAPHS / f"{spec.name}.zip").is_file() and not options.single and options.size is None


def source(spec: catalog.Model, weights: Path, options: ExportOptions) -> ShippedSource | None:
    """The shipped graph with these weights; None if they need another: ours, or weights of another number of classes.

    Raises:
        InputNotFoundError: no such file.
        WeightsError: damaged or unsafe file, or weights of another network, and torch is not installed.
    """
    path = weights_path(weights)
    if path.suffix == ".safetensors" or not applies(spec, options):
        return None
    graph = ShippedGraph(GRAPHS / f"{spec.name}.zip")
    state, names_in_file = graph.read(path)
    faults = graph.mismatches(state, names_in_file)
    if not faults:
        return ShippedSource(graph, state, spec, path, options)
    if find_spec("torch") is not None or all(fault.startswith("misshapen") for fault in faults):
        return None
    raise misfit(path, spec.name, faults, _fitting(spec, state))


def _fitting(spec: catalog.Model, state: Mapping[str, Array]) -> str | None:
    """The model of the same family whose weights these are."""
    others = (m for m in catalog.MODELS.values() if m.family == spec.family and m.name != spec.name)
    files = ((m.name, GRAPHS / f"{m.name}.zip") for m in others)
    return next((name for name, file in files if file.is_file() and not ShippedGraph(file).mismatches(state)), None)
