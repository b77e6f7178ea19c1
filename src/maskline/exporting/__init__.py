"""Export: from a network in torch to a model directory with one graph that keeps the contract.

`make` puts the steps together: `graph` writes ONNX, `quantise` reduces it to 8 bits with images that `samples` finds,
`formats` turns it into what other runtimes open, `triton` makes it a repository for that server, and `cost` measures
what 8 bits cost. `target` has the options of all this, `yml` writes what accompanies the graph, and `verify` proves the
graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskline._lazy import lazy_names

if TYPE_CHECKING:
    from maskline.exporting.graph import OPSET, fused, onnx_translations, rounded, write_graph
    from maskline.exporting.make import export, export_network, read_labels
    from maskline.exporting.target import ExportOptions
    from maskline.exporting.yml import inference_yml

__all__ = [
    "OPSET",
    "ExportOptions",
    "export",
    "export_network",
    "fused",
    "inference_yml",
    "onnx_translations",
    "read_labels",
    "rounded",
    "write_graph",
]

__getattr__ = lazy_names(
    __name__,
    dict.fromkeys(("OPSET", "fused", "onnx_translations", "rounded", "write_graph"), "graph")
    | dict.fromkeys(("export", "export_network", "read_labels"), "make")
    | {"ExportOptions": "target", "inference_yml": "yml"},
)
