"""Write a network as an ONNX graph with its record."""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from maskline import __version__
from maskline.errors import ExportError, MissingDependencyError
from maskline.exporting.formats import IR_VERSION, store_half
from maskline.exporting.template import GraphTemplate, Step
from maskline.models import nms, padding, roi_align
from maskline.models.deployed import Deployed
from maskline.models.layers import ConvNorm, RepVGG
from maskline.models.pinned import Call
from maskline.preprocess import Preprocess
from maskline.runtime.backend import INPUT
from maskline.runtime.graph import OUTPUTS, RECORD_KEY, Record

if TYPE_CHECKING:
    import onnx

OPSET = 18
SIZES = ("batch", "height", "width")
EXAMPLE_SIZE = (96, 160)  # pixels; any size works if sizes are free
N = TypeVar("N", bound=nn.Module)


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
    template = trace(deployed, record.preprocess, single=single)
    state = {name: tensor.numpy() for name, tensor in deployed.state_dict().items()}
    template.write(path, state, {RECORD_KEY: record.to_json()})
    if half:
        store_half(path)
    import onnx

    onnx.checker.check_model(path)


def trace(deployed: Deployed, preprocess: Preprocess, *, single: bool = False) -> GraphTemplate:
    """Return the graph of a network without its weights.

    Args:
        preprocess: height and width are free if it keeps the ratio.
        single: fix the batch size to 1.

    Raises:
        ExportError: the network needs operators outside the ONNX standard.
        MissingDependencyError: onnx or onnxscript is not installed.
    """
    try:
        import onnxscript  # noqa: F401  # torch.onnx.export needs it
    except ImportError as error:
        raise MissingDependencyError(f"export needs {error.name}: pip install 'maskline[train]'") from error

    any_size = preprocess.has_free_size
    free = [axis for axis, fixed in enumerate((single, not any_size, not any_size)) if not fixed]
    height, width = EXAMPLE_SIZE if any_size else (preprocess.height, preprocess.width)
    kind = torch.float32 if preprocess.float_resize else torch.uint8
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            deployed,
            (torch.zeros(1 if single else 2, height, width, 3, dtype=kind),),
            dynamo=True,
            dynamic_shapes={INPUT: dict.fromkeys(free, torch.export.Dim.DYNAMIC)},
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            custom_translation_table=onnx_translations(),
            optimize=False,
            verbose=False,
        )
        assert program is not None
        graph = program.model.graph
        weights = [f"network.{name}" for name in deployed.network.state_dict()]
        for name in weights:
            if name in graph.initializers:  # as an input, it is not merged into constants
                value = graph.initializers.pop(name)
                value.const_value = None
                graph.inputs.append(value)
        program.optimize()
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # locations in source files
    foreign = {n.domain for n in model.graph.node} - {"", "ai.onnx"}
    if foreign:
        raise ExportError(f"the graph uses operators outside the ONNX standard: {', '.join(sorted(foreign))}")
    del model.metadata_props[:]
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "maskline", __version__
    del model.graph.input[1:]
    name_sizes(model.graph)
    steps = tuple(_extract_steps(model.graph, weights))
    used = set(_inputs(model.graph))
    constants = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants)
    arrays = [*weights, *(name for step in steps for name in step.results)]
    return GraphTemplate(
        model.SerializeToString(deterministic=True), tuple(name for name in arrays if name in used), steps
    )


def _extract_steps(graph: onnx.GraphProto, weights: Iterable[str]) -> Iterator[Step]:
    """Remove the nodes that only change the layout of a weight, and yield the same as steps."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in graph.value_info}
    known, kept = set(weights), []
    for node in graph.node:
        attributes = {a.name: a for a in node.attribute}
        sources, results = list(node.input), tuple(node.output)
        step = None
        if sources and sources[0] in known and all(name in constants for name in sources[1:]):
            shape = shapes.get(results[0], ())
            if node.op_type == "Transpose":
                step = Step("transpose", sources[0], results, tuple(attributes["perm"].ints))
            elif node.op_type in ("Reshape", "Unsqueeze") and shape and all(shape):
                step = Step("reshape", sources[0], results, shape)
            elif node.op_type == "Split" and len(sources) == 2:
                sizes = numpy_helper.to_array(constants[sources[1]])
                step = Step("split", sources[0], results, tuple(sizes.tolist()), attributes["axis"].i)
        if step is None:
            kept.append(node)
        else:
            known.update(step.results)
            yield step
    del graph.node[:]
    graph.node.extend(kept)
    described = [value for value in graph.value_info if value.name not in known]
    del graph.value_info[:]
    graph.value_info.extend(described)


def _inputs(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of what the nodes take, those of inner graphs too."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            yield from _inputs(attribute.g)


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
