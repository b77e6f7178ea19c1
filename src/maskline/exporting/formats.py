"""One graph in the forms that other runtimes open: ORT's own, and OpenVINO's. Both keep the record."""

from __future__ import annotations

import shutil
from pathlib import Path

from maskline.errors import ExportError
from maskline.runtime import openvino_backend, providers
from maskline.runtime.graph import RECORD_KEY, Record

IR_VERSION = 8  # of ONNX files: the oldest that opset 18 may be in, for old runtimes on phones and elsewhere


def convert_graph(source: Path, record: Record, path: Path, *, half: bool = False) -> None:
    """Write the graph of an ``.onnx`` file as another file, in the form that the suffix of ``path`` stands for.

    Args:
        half: OpenVINO: store weights in half precision. (The other forms keep those of the source.)

    Raises:
        ExportError: the runtime can't take the graph.
        MissingDependencyError: OpenVINO is not installed.
    """
    if path.suffix == ".ort":
        to_ort(source, path)
    elif path.suffix == ".xml":
        to_openvino(source, record, path, half=half)
    else:
        shutil.copyfile(source, path)


def to_ort(source: Path, path: Path) -> None:
    """Write ORT's own format, which its builds for phones open. The record stays in the metadata.

    What ONNX Runtime does to a graph when it opens one is done already, but for the layout that only some processors
    of PCs gain from: the file is for all.
    """
    onnxruntime = providers.library()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = providers.SILENT
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    _open(source, options)


def fold(source: Path, path: Path) -> None:
    """Write an ONNX file in which whatever does not hang on the input is computed already."""
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
    """Have ONNX Runtime open a graph and write what it makes of it, as the options say."""
    try:
        providers.library().InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except providers.errors() as error:
        raise ExportError(f"ONNX Runtime can't take the graph ({' '.join(str(error).split())}); not written") from None


def to_openvino(source: Path, record: Record, path: Path, *, half: bool = False) -> None:
    """Write OpenVINO's form, ``.xml`` and a ``.bin`` of the same name, with the record in its ``rt_info``."""
    openvino = openvino_backend.library()
    try:
        model = openvino.Core().read_model(source)
        model.set_rt_info(record.to_json(), [RECORD_KEY])
        openvino.save_model(model, path, compress_to_fp16=half)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO can't take the graph ({' '.join(str(error).split())}); not written") from None
