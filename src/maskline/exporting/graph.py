"""Write a network as an ONNX graph with its record."""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import nn

from maskline import __version__
from maskline.errors import ExportError, MissingDependencyError
from maskline.exporting.formats import IR_VERSION
from maskline.models import nms, padding, roi_align
from maskline.models.deployed import Deployed
from maskline.models.layers import ConvNorm, RepVGG
from maskline.models.pinned import Call
from maskline.runtime.backend import INPUT
from maskline.runtime.graph import OUTPUTS, RECORD_KEY, Record

if TYPE_CHECKING:
    import onnx

OPSET = 18
SIZES = ("batch", "height", "width")
EXAMPLE_SIZE = (96, 160)  # pixels; any size works if sizes are free
N = TypeVar("N", bound=nn.Module)
SMALLEST_HALF = 256  # weights with fewer values are not stored in half precision


def fused(network: N) -> N:
    """Return a copy for inference with batch norms and RepVGG branches fused into convolutions."""
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, RepVGG | ConvNorm):
                setattr(parent, name, child.fuse())
    return network


def rounded(network: N) -> N:
    """Return a copy with weights rounded to half precision."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half())
    return network


def write_graph(deployed: Deployed, record: Record, path: Path, *, half: bool = False, single: bool = False) -> None:
    """Write the graph with its record. The batch size is free, and so are height and width if the ratio is kept.

    Args:
        half: store weights in half precision where that is exact.
        single: fix the batch size to 1.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch.onnx.export needs it
    except ImportError as error:
        raise MissingDependencyError(f"export needs {error.name}: pip install 'maskline[train]'") from error

    pre = record.preprocess
    free = [axis for axis, fixed in enumerate((single, not pre.has_free_size, not pre.has_free_size)) if not fixed]
    kind = torch.float32 if pre.float_resize else torch.uint8
    example = torch.zeros(
        1 if single else 2, *EXAMPLE_SIZE if pre.has_free_size else (pre.height, pre.width), 3, dtype=kind
    )
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            deployed,
            (example,),
            dynamo=True,
            dynamic_shapes={INPUT: dict.fromkeys(free, torch.export.Dim.DYNAMIC)},
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            custom_translation_table=onnx_translations(),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # locations in source files
    foreign = {n.domain for n in model.graph.node} - {"", "ai.onnx"}
    if foreign:
        raise ExportError(f"the graph of {record.model} uses operators outside the ONNX standard: {sorted(foreign)}")
    del model.metadata_props[:]
    model.metadata_props.add(key=RECORD_KEY, value=record.to_json())
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "maskline", __version__
    name_sizes(model.graph)
    if half:
        store_half(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def write_pinned(source: Path, calls: Sequence[Call], path: Path) -> None:
    """Write a graph that outputs the results of decisive layers and takes their replacements as inputs; see `pinned`.

    The inputs follow the image, the outputs follow the detections, both in the order of ``calls``.

    Raises:
        ExportError: the graph does not contain a call.
    """
    import onnx

    model = onnx.load(source)
    known = {value.name: value for value in model.graph.value_info}
    layers = {f"network.{call.layer}.{part}": call.layer for call in calls for part in ("weight", "bias")}
    ends: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        # A linear layer ends with the addition of its bias; a node before may transpose its weight.
        layer = next((layers[name] for name in node.input if name in layers), None)
        if layer is not None and node.op_type in ("Conv", "Gemm", "Add"):
            ends.setdefault(layer, []).append(node)
    if Counter(call.layer for call in calls) != {layer: len(nodes) for layer, nodes in ends.items()}:
        missing = ", ".join(sorted({call.layer for call in calls}))
        raise ExportError(f"the graph can't be checked: it does not have every output of {missing}; not written")
    replaced = {}
    for call in calls:
        name = ends[call.layer][call.number].output[0]
        replaced[name] = f"{name}/replacement"
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * call.output.ndim)
        value = known.get(name, value)
        model.graph.output.append(value)
        model.graph.input.append(value)
        model.graph.input[-1].name = replaced[name]
    for node in model.graph.node:
        node.input[:] = [replaced.get(name, name) for name in node.input]
    kept = [value for value in model.graph.value_info if value.name not in replaced]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    onnx.save(model, path)


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """ONNX translations of all custom operators, for `torch.onnx.export`."""
    return nms.onnx_translations() | padding.onnx_translations() | roi_align.onnx_translations()


def name_sizes(graph: onnx.GraphProto) -> None:
    """Rename the free sizes, numbered by the exporter, to batch, height and width."""
    sizes = graph.input[0].type.tensor_type.shape.dim
    names = {size.dim_param: name for size, name in zip(sizes, SIZES, strict=False) if size.dim_param}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:  # setting it would clear dim_value
                size.dim_param = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), size.dim_param)


def store_half(graph: onnx.GraphProto) -> None:
    """Store float32 weights that are exact in half precision as such, with casts that runtimes fold."""
    import onnx
    from onnx import numpy_helper

    casts = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < SMALLEST_HALF or (values.astype(np.float16) != values).any():
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's messages."""
    loggers = [logging.getLogger(n) for n in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
