"""Conversion of an ONNX graph to ORT and OpenVINO formats; both keep the record."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from maskline.errors import ExportError
from maskline.runtime import openvino_backend, providers
from maskline.runtime.graph import RECORD_KEY, Record

SMALLEST_HALF = 256  # weights with fewer values are not stored in half precision
IR_VERSION = 8  # of ONNX files: the oldest that allows opset 18, for old runtimes


def convert_graph(source: Path, record: Record, path: Path, *, half: bool = False) -> None:
    """Convert an ``.onnx`` file to the format of the suffix of ``path``.

    Args:
        half: store weights in half precision (OpenVINO only; other formats keep the source's).

    Raises:
        ExportError: the runtime does not support the graph.
        MissingDependencyError: OpenVINO is not installed.
    """
    if path.suffix == ".ort":
        to_ort(source, path)
    elif path.suffix == ".xml":
        to_openvino(source, record, path, half=half)
    else:
        shutil.copyfile(source, path)


def to_ort(source: Path, path: Path) -> None:
    """Write ORT format, for ONNX Runtime's mobile builds. The record stays in the metadata.

    Graph optimizations are applied, except the layout optimizations, which are specific to a CPU.
    """
    onnxruntime = providers.library()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = providers.SILENT
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    _open(source, options)


def fold(source: Path, path: Path) -> None:
    """Write an ONNX file with constants folded."""
    import onnx

    onnxruntime = providers.library()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = providers.SILENT
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    _open(source, options)
    model = onnx.load(path)
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    onnx.save(model, path)


def _open(source: Path, options: object) -> None:
    """Open a graph in ONNX Runtime, which writes the optimized model that the options name."""
    try:
        providers.library().InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except providers.errors() as error:
        raise ExportError(
            f"ONNX Runtime does not support the graph ({' '.join(str(error).split())}); not written"
        ) from None


def to_openvino(source: Path, record: Record, path: Path, *, half: bool = False) -> None:
    """Write OpenVINO IR, ``.xml`` and ``.bin``, with the record in ``rt_info``."""
    openvino = openvino_backend.library()
    try:
        model = openvino.Core().read_model(source)
        model.set_rt_info(record.to_json(), [RECORD_KEY])
        openvino.save_model(model, path, compress_to_fp16=half)
    except RuntimeError as error:
        raise ExportError(
            f"OpenVINO does not support the graph ({' '.join(str(error).split())}); not written"
        ) from None


def store_half(path: Path) -> None:
    """Store float32 weights of an ONNX file that are exact in half precision as such, with casts that runtimes fold."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < SMALLEST_HALF or (values.astype(np.float16) != values).any():
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
