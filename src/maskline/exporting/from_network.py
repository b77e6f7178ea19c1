"""Graphs of networks in memory: traced, and verified against the network."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from maskline import catalog
from maskline.exporting.formats import convert_graph
from maskline.exporting.graph import fused, rounded, write_graph, write_pinned
from maskline.exporting.make import write_model_dir
from maskline.exporting.options import MOST_GENERAL, ExportOptions
from maskline.exporting.verify import verify_graph
from maskline.models.deployed import Deployed
from maskline.models.families import overrides_of
from maskline.models.network import Network
from maskline.models.pinned import Call
from maskline.runtime.backend import Acceleration, Backend
from maskline.runtime.device import CPU
from maskline.runtime.graph import Graph, Record, backend_for, open_backend
from maskline.runtime.mask_layout import MaskLayout
from maskline.weights.arrays import weights_path
from maskline.weights.load import labels_in_file, load_network

logger = logging.getLogger("maskline")


def export_network(
    network: Network,
    spec: catalog.Model,
    output: str | Path,
    *,
    labels: Sequence[str] | None = None,
    options: ExportOptions = MOST_GENERAL,
) -> Path:
    """As `export`, from a network in memory, built for ``spec``. The network is not modified."""
    return write_model_dir(NetworkSource(network, options), spec, output, labels=labels, options=options)


def export_from_weights(
    spec: catalog.Model,
    weights: Path,
    output: str | Path,
    *,
    labels: Sequence[str] | None,
    unaligned: bool,
    options: ExportOptions,
) -> Path:
    """As `export_network`, from a weights file."""
    network = load_network(spec.name, weights, overrides_of(spec.name, unaligned=unaligned))
    if labels is None:
        labels = labels_in_file(weights_path(weights))
    return export_network(network, spec, output, labels=labels, options=options)


class NetworkSource:
    """A graph that is traced from a network and verified against it; see `GraphSource`."""

    def __init__(self, network: Network, options: ExportOptions) -> None:
        self._options = options
        self._network = copy.deepcopy(network).eval()
        self._fused = fused(self._network)
        if options.half:  # compare with a network of the same, rounded weights
            self._network = self._fused = rounded(self._fused)

    @property
    def num_classes(self) -> int:
        return self._network.num_classes

    @property
    def mask_layout(self) -> MaskLayout:
        return self._network.mask_layout

    @property
    def made_with(self) -> str:
        config = self._network.weights_config().items()
        return ", ".join([f"torch {torch.__version__}", *(f"{name}={value}" for name, value in config)])

    def write(self, path: Path, record: Record) -> None:
        deployed = Deployed(self._fused, record.preprocess)
        write_graph(deployed, record, path, half=self._options.half, single=self._options.single)

    def verify(self, plain: Path, path: Path, record: Record) -> None:
        options = self._options

        def open_pinned(calls: Sequence[Call]) -> Backend:
            folder = plain.parent / "pinned"
            folder.mkdir(exist_ok=True)
            written = folder / plain.name
            write_pinned(plain, calls, written)
            if path != plain:
                convert_graph(written, record, folder / path.name, half=options.half)
            return open_backend(backend_for(path, CPU), folder / path.name, CPU, Acceleration())

        logger.info("checking the graph against the network")
        reference = Deployed(self._network, record.preprocess)
        verify_graph(reference, Graph(path, CPU), open_pinned, single=options.single)
