"""Export: from weights or a network to a model directory with one graph.

`make` writes the directory. Its graph is that of `shipped`, a `template` filled with official weights, or of
`from_network`: `graph` traces it and `verify` compares it with the network. `quantise` makes an int8 model with images
from `samples`, `cost` measures the loss of accuracy, `formats` converts to other runtimes, `yml` writes
``inference.yml`` and `triton` a model repository. `options` has the options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskline._lazy import lazy_names

if TYPE_CHECKING:
    from maskline.exporting.from_network import export_network
    from maskline.exporting.graph import OPSET, fused, onnx_translations, rounded, write_graph
    from maskline.exporting.make import export, read_labels
    from maskline.exporting.options import ExportOptions
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
    | dict.fromkeys(("export", "read_labels"), "make")
    | {"export_network": "from_network", "ExportOptions": "options", "inference_yml": "yml"},
)
