"""Writing a network as an ONNX graph that keeps the contract and describes itself."""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from maskline import __version__
from maskline.errors import ExportError, MissingDependencyError
from maskline.exporting.formats import IR_VERSION
from maskline.models import nms, padding, roi_align
from maskline.models.deployed import Deployed
from maskline.models.layers import ConvNorm, RepVGG
from maskline.models.spread import Move
from maskline.runtime.graph import INPUT, OUTPUTS, RECORD_KEY, Record

if TYPE_CHECKING:
    import onnx

OPSET = 18
SIZES = ("batch", "height", "width")
EXAMPLE_SIZE = (96, 160)  # pixels; any will do where the size is free
SMALLEST_HALF = 256  # values of a weight that are worth storing in half precision


def fused(network: nn.Module) -> nn.Module:
    """A copy for inference in which every block that can be one convolution is one."""
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, RepVGG | ConvNorm):
                setattr(parent, name, child.fuse())
    return network


def rounded(network: nn.Module) -> nn.Module:
    """A copy whose weights are numbers of half precision."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half())
    return network


def write_graph(deployed: Deployed, record: Record, path: Path, *, half: bool = False, single: bool = False) -> None:
    """Write the graph with its record. The batch size is free; so are height and width where the ratio is kept.

    Args:
        half: store weights that are exact in half precision so.
        single: the batch is one image, always.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch needs it to export
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
        del node.metadata_props[:]  # where in which source file it came from
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


def write_spread(source: Path, moves: Mapping[str, Move], path: Path) -> None:
    """Write a graph anew with the outputs of layers of its network moved apart: see `spread`.

    Raises:
        ExportError: one of the layers is not to be found.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(source)
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = {f"network.{name}.{part}": name for name in moves for part in ("weight", "bias")}

    def constant(name: str, array: npt.NDArray[np.float32]) -> str:
        if name not in values:
            values[name] = numpy_helper.from_array(array, name)
            model.graph.initializer.append(values[name])
        return name

    def stored(name: str) -> npt.NDArray[np.float32]:
        array: npt.NDArray[Any] = numpy_helper.to_array(values[name if name in values else f"{name}_half"])
        return array.astype(np.float32)

    nodes, found, noised = [], set(), set()
    for node in model.graph.node:
        nodes.append(node)
        layer = next((layers[i] for i in node.input if i in layers), None)
        if layer is None:
            continue
        move, name = moves[layer], f"network.{layer}"
        inputs = list(node.input)
        if move.noise is not None and f"{name}.weight" in inputs:
            noised.add(layer)
            moved = constant(f"{name}.weight/moved", stored(f"{name}.weight") + move.noise)
            inputs[inputs.index(f"{name}.weight")] = moved
            node.input[:] = inputs
        # The end of a layer: of a linear one the addition of its bias, as its weight is turned round by another node.
        if node.op_type not in ("Conv", "Gemm", "Add"):
            continue
        if node.op_type != "Add" and len(inputs) < 3:
            inputs.append("")  # a bias of zeros was left out
        for i, part in enumerate(inputs):
            if part == f"{name}.bias" or i == 2:
                before = stored(part) if part else np.zeros_like(move.centre)
                inputs[i] = constant(f"{name}.bias/moved", move.bias(before))
        if move.noise is None or layer in noised:
            found.add(layer)
        del node.input[:]
        node.input.extend(inputs)
        out, shape = node.output[0], (-1, 1, 1) if node.op_type == "Conv" else (-1,)
        node.output[0] = near = f"{out}/near"
        factor = constant(f"{name}/factor", move.factor.reshape(shape))
        shift = constant(f"{name}/shift", np.full(1, move.shift, np.float32))
        nodes.append(helper.make_node("Mul", [near, factor], [f"{out}/far"]))
        nodes.append(helper.make_node("Add", [f"{out}/far", shift], [out]))
    if len(found) < len(moves):
        missing = ", ".join(sorted(moves.keys() - found))
        raise ExportError(f"the graph can't be checked, because it has no layers {missing}; not written")
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How all operators of this project are written in ONNX, for `torch.onnx.export`."""
    return nms.onnx_translations() | padding.onnx_translations() | roi_align.onnx_translations()


def name_sizes(graph: onnx.GraphProto) -> None:
    """Call the free sizes batch, height and width, where the exporter has numbered them."""
    sizes = graph.input[0].type.tensor_type.shape.dim
    names = {size.dim_param: name for size, name in zip(sizes, SIZES, strict=False) if size.dim_param}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:  # to set it would unset a number
                size.dim_param = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), size.dim_param)


def store_half(graph: onnx.GraphProto) -> None:
    """Store float32 weights that half precision can hold so, each with a cast, which runtimes compute once."""
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
    """Without the exporter's chatter, which tells a user nothing."""
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
