"""Export: from a network in torch to a model directory with one graph that keeps the contract.

`make` puts the steps together: `graph` writes ONNX, `quantise` makes its numbers small with images that `samples`
finds, `formats` turns it into what other runtimes open, `triton` makes it a repository for that server, and `cost`
measures what small numbers cost. `target` says what is wanted of all this, `yml` what is told beside the graph, and
`maskline.exporting.verify` proves the graph.
"""

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
