"""From a network in torch to a model directory: one ONNX graph that keeps the contract, and ``inference.yml``.

Nothing is handed out unproved: the graph is run beside the network on real photos of several sizes, alone and in
batches, and nothing is written where they disagree.
"""

from __future__ import annotations

import copy
import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from torch import nn

from maskline import __version__, catalog
from maskline.errors import ExportError, InputNotFoundError, MissingDependencyError, ParameterError
from maskline.files import replace_file
from maskline.models import nms, padding, roi_align
from maskline.models.deployed import Deployed
from maskline.models.layers import ConvNorm, RepVGG
from maskline.models.rcnn.network import MaskRCNN
from maskline.results import check_folder
from maskline.runtime.device import Device
from maskline.runtime.graph import INPUT, OUTPUTS, RECORD_KEY, Graph, Record
from maskline.runtime.model_dir import CONFIG_FILE, GRAPH_FILE
from maskline.verify import verify
from maskline.weights.load import labels_in_file, load_network, weights_path

if TYPE_CHECKING:
    import onnx

OPSET = 18
SIZES = ("batch", "height", "width")
EXAMPLE_SIZE = (96, 160)  # pixels; any will do where the size is free
SMALLEST_HALF = 256  # values of a weight that are worth storing in half precision

log = logging.getLogger("maskline")


def export(
    name: str,
    weights: str | Path,
    output: str | Path,
    *,
    labels: Sequence[str] | None = None,
    threshold: float = 0.5,
    half: bool = False,
    unaligned: bool = False,
) -> Path:
    """Make a model directory from weights.

    Args:
        name: a row of the catalog.
        weights: ``.pdparams`` of the reference or ``.safetensors``.
        output: folder to write ``inference.onnx`` and ``inference.yml`` into; made if need be.
        labels: class names; default those in the file, else COCO's 80, or ``class_0`` … for another number of classes.
        threshold: the model's own score threshold, used unless the user says otherwise.
        half: store weights in half precision: half the size. Arithmetic stays in float32, so the speed is the same.
        unaligned: Mask R-CNN only: the weights were trained with RoIAlign's first form (see `roi_align`), as by
            PaddleDetection since August 2024, whatever its configuration says.

    Returns:
        The folder.

    Raises:
        ParameterError: the model has no RoIAlign to be unaligned.
        WeightsError: the weights don't fit the network.
        OutputError: the folder can't be written to.
        ExportError: the graph does not give the network's results.
    """
    row = catalog.get(name)
    network = load_network(row.name, weights, unaligned=unaligned)
    if labels is None:
        labels = labels_in_file(weights_path(Path(weights)))
    return export_network(network, row, output, labels=labels, threshold=threshold, half=half)


def export_network(
    network: nn.Module,
    row: catalog.Model,
    output: str | Path,
    *,
    labels: Sequence[str] | None = None,
    threshold: float = 0.5,
    half: bool = False,
) -> Path:
    """As `export`, from a network in memory, built for catalog row ``row``. The network is left as it was."""
    check_folder(output)
    form = ", RoIAlign unaligned" if isinstance(network, MaskRCNN) and not network.config.aligned else ""
    record = Record(
        model=row.name,
        labels=_labels(network, labels),
        preprocess=row.preprocess,
        threshold=threshold,
        mask_frame=catalog.FAMILIES[row.family].mask_frame,
        made_by=f"maskline {__version__}, torch {torch.__version__}{form}",
    )
    network = copy.deepcopy(network).eval()
    exported = fused(network)
    if half:  # the graph is compared with a network of the same, rounded weights
        network = exported = rounded(exported)
    with tempfile.TemporaryDirectory(prefix="maskline-") as scratch:
        graph, config = Path(scratch, GRAPH_FILE), Path(scratch, CONFIG_FILE)
        write_graph(Deployed(exported, row.preprocess), record, graph, half=half)
        verify(Deployed(network, row.preprocess), Graph(graph, Device("cpu")))
        config.write_text(inference_yml(row, record), encoding="utf-8")
        for file in (config, graph):
            replace_file(Path(output, file.name), partial(shutil.copyfile, file))
    return Path(output)


def read_labels(path: str | Path) -> list[str]:
    """Class names from a text file, one on each line; empty lines don't count.

    Raises:
        InputNotFoundError: no such file.
        ParameterError: not a text, or no names in it.
    """
    if not Path(path).is_file():
        raise InputNotFoundError(f"no labels file {path}")
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        names = []
    if not names:
        raise ParameterError(f"{path} has no class names: expected a text file with one on each line")
    return names


def _labels(network: nn.Module, labels: Sequence[str] | None) -> tuple[str, ...]:
    classes = int(network.num_classes)  # type: ignore[arg-type]
    if labels is not None:
        if len(labels) != classes:
            raise ParameterError(f"{len(labels)} labels given, the weights have {classes} classes: give one for each")
        return tuple(labels)
    if classes == len(catalog.COCO_CLASSES):
        return catalog.COCO_CLASSES
    log.warning("the weights have %d classes, not COCO's 80: named class_0 …; name them with --labels", classes)
    return tuple(f"class_{i}" for i in range(classes))


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


def write_graph(deployed: Deployed, record: Record, path: Path, *, half: bool = False) -> None:
    """Write the graph with its record. The batch size is free; so are height and width where the ratio is kept.

    Args:
        half: store weights that are exact in half precision so.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch needs it to export
    except ImportError as error:
        raise MissingDependencyError(f"export needs {error.name}: pip install 'maskline[train]'") from error

    pre = record.preprocess
    free = dict.fromkeys((0, 1, 2) if pre.has_free_size else (0,), torch.export.Dim.DYNAMIC)
    kind = torch.float32 if pre.float_resize else torch.uint8
    example = torch.zeros(2, *EXAMPLE_SIZE if pre.has_free_size else (pre.height, pre.width), 3, dtype=kind)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            deployed,
            (example,),
            dynamo=True,
            dynamic_shapes={INPUT: free},
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
    model.producer_name, model.producer_version = "maskline", __version__
    name_sizes(model.graph)
    if half:
        store_half(model.graph)
    onnx.checker.check_model(model)
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


def inference_yml(row: catalog.Model, record: Record) -> str:
    """The description that the reference puts beside an exported model, for the graph beside ours."""
    pre = record.preprocess
    resize: dict[str, Any] = {
        "type": "Resize",
        "target_size": [pre.height, pre.width],
        "keep_ratio": pre.keep_ratio,
        "interp": ("nearest", "linear", "cubic", "area", "lanczos4").index(pre.interpolation),
    }
    normalise: dict[str, Any] = {"type": "NormalizeImage", "mean": list(pre.mean), "std": list(pre.std)}
    normalise |= {"norm_type": "mean_std", "is_scale": True} if any(pre.mean) else {"norm_type": "none"}
    steps = [normalise, resize] if pre.float_resize else [resize, normalise]
    steps.append({"type": "Permute"})
    if pre.pad_stride:
        steps.append({"type": "PadStride", "stride": pre.pad_stride})
    config = {
        "mode": "onnx",
        "draw_threshold": record.threshold,
        "metric": "COCO",
        "use_dynamic_shape": pre.keep_ratio,
        "Global": {"model_name": record.model},
        "arch": row.arch,
        "min_subgraph_size": row.min_subgraph_size,
        "mask": True,
        "Preprocess": steps,
        "label_list": list(record.labels),
    }
    text: str = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return text
