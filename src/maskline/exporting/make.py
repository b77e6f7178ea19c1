"""From weights to a model directory: one graph that keeps the contract, and ``inference.yml``.

Nothing is handed out unproved: the graph is run beside the network on real photos of several sizes, alone and in
batches, and nothing is written where they disagree. What 8 bits change is measured, and told.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from maskline import __version__, catalog
from maskline._files import read_text, replace_files
from maskline._wording import counted
from maskline.errors import InputNotFoundError, ParameterError
from maskline.exporting import triton
from maskline.exporting.formats import convert
from maskline.exporting.graph import fused, rounded, write_graph, write_pinned
from maskline.exporting.target import COST_FILE, ExportOptions
from maskline.exporting.verify import verify
from maskline.exporting.yml import inference_yml
from maskline.models.deployed import Deployed
from maskline.models.families import overrides_of
from maskline.models.network import Network
from maskline.models.pinned import Call
from maskline.outputs.paths import check_folder
from maskline.runtime.backend import Acceleration, Backend
from maskline.runtime.device import CPU
from maskline.runtime.graph import Graph, Record, backend_for, open_backend
from maskline.runtime.model_dir import CONFIG_FILE, GRAPH_FILES
from maskline.weights.load import labels_in_file, load_network, weights_path

DEFAULT = ExportOptions()

logger = logging.getLogger("maskline")


def export(
    name: str,
    weights: str | Path,
    output: str | Path,
    *,
    labels: Sequence[str] | None = None,
    threshold: float = 0.5,
    half: bool = False,
    unaligned: bool = False,
    format: str = "onnx",
    batch: int | str = "dynamic",
    size: str | tuple[int, int] | None = None,
    int8: str | Path | None = None,
) -> Path:
    """Make a model directory from weights.

    Args:
        name: a model of the catalog.
        weights: ``.pdparams`` of the reference or ``.safetensors``.
        output: folder to write the graph and ``inference.yml`` into, or the repository; made if need be.
        labels: class names; default those in the file, else COCO's 80, or ``class_0`` … for another number of classes.
        threshold: the model's own score threshold, used unless the user says otherwise.
        half: store weights in half precision: half the size. Arithmetic stays in float32, so the speed is the same.
        unaligned: Mask R-CNN only: the weights were trained with RoIAlign's first form (see `roi_align`), as by
            PaddleDetection since August 2024, whatever its configuration says.
        format: ``onnx``, ``ort`` (ONNX Runtime for phones), ``openvino``, or ``triton``: a model repository for Triton
            Inference Server, see `maskline.exporting.triton`.
        batch: ``dynamic``, or 1 for runtimes that want a fixed shape.
        size: fixed height and width of the input in pixels, such as ``640x640``, for models that leave them free.
        int8: folder of images, or a data set, to calibrate convolutions in 8 bits with. What that costs is measured
            on other images of it, logged, and kept in ``int8.json``.

    Returns:
        The folder.

    Raises:
        ParameterError: an option makes no sense, or not for this model.
        InputError: the images can't be used.
        WeightsError: the weights don't fit the network.
        OutputError: the folder can't be written to.
        ExportError: the graph does not give the network's results.
    """
    spec = catalog.get(name)
    target = ExportOptions.of(format, batch=batch, size=size, half=half, int8=int8)
    target.check(spec)
    network = load_network(spec.name, weights, overrides_of(spec.name, unaligned=unaligned))
    if labels is None:
        labels = labels_in_file(weights_path(Path(weights)))
    return export_network(network, spec, output, labels=labels, threshold=threshold, target=target)


def export_network(
    network: Network,
    spec: catalog.Model,
    output: str | Path,
    *,
    labels: Sequence[str] | None = None,
    threshold: float = 0.5,
    target: ExportOptions = DEFAULT,
) -> Path:
    """As `export`, from a network in memory, built for ``spec``. The network is left as it was."""
    check_folder(output)
    model_dir = target.model_dir(Path(output))
    check_folder(model_dir)
    trained_with = "".join(f", {name}={value}" for name, value in network.weights_config().items())
    record = Record(
        model=spec.name,
        labels=_labels(network, labels),
        preprocess=target.preprocess(spec.preprocess, spec.name),
        threshold=threshold,
        mask_layout=network.mask_layout,
        made_by=f"maskline {__version__}, torch {torch.__version__}{trained_with}",
    )
    network = copy.deepcopy(network).eval()
    with tempfile.TemporaryDirectory(prefix="maskline-") as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        (made / CONFIG_FILE).write_text(inference_yml(spec, record, target.graph), encoding="utf-8")
        _make(network, record, target, Path(scratch), made)
        if target.format == triton.FORMAT:
            triton.replace_model(Path(output), made)
        else:
            what_is_looked_for_last = sorted(made.iterdir(), key=lambda path: path.name == target.file)
            replace_files(Path(output), what_is_looked_for_last)
    if target.int8 is None:
        (model_dir / COST_FILE).unlink(missing_ok=True)  # of an earlier export
    _tell_of_others(model_dir, target)
    return Path(output)


def _make(network: Network, record: Record, target: ExportOptions, scratch: Path, made: Path) -> None:
    """Write the graph as wanted into the folder ``made``, proved; what else is needed goes into ``scratch``."""
    exported = fused(network)
    if target.half:  # the graph is compared with a network of the same, rounded weights
        network = exported = rounded(exported)
    plain, reference = scratch / GRAPH_FILES["onnx"], Deployed(network, record.preprocess)
    write_graph(Deployed(exported, record.preprocess), record, plain, half=target.half, single=target.single)
    _prove(reference, plain, plain, record, target)
    if target.int8 is not None:
        _make_small(plain, record, target, scratch, made)
        return
    convert(plain, record, made / target.file, half=target.half)
    if target.graph != "onnx":
        _prove(reference, plain, made / target.file, record, target)


def _prove(reference: Deployed, plain: Path, path: Path, record: Record, target: ExportOptions) -> None:
    """Verify the graph in ``path``, which ``plain`` was made into."""

    def open_pinned(calls: Sequence[Call]) -> Backend:
        folder = plain.parent / "pinned"
        folder.mkdir(exist_ok=True)
        written = folder / plain.name
        write_pinned(plain, calls, written)
        if path != plain:
            convert(written, record, folder / path.name, half=target.half)
        return open_backend(backend_for(path, CPU), folder / path.name, CPU, Acceleration())

    logger.info("checking the graph against the network")
    verify(reference, Graph(path, CPU), open_pinned, single=target.single)


def _make_small(plain: Path, record: Record, target: ExportOptions, scratch: Path, made: Path) -> None:
    """As `_make`, in 8 bits, from the proved graph; and what that costs."""
    from maskline.exporting import cost  # which needs the extra `data`, as predicting and export don't
    from maskline.exporting.quantise import quantise
    from maskline.exporting.samples import batches

    found = target.samples
    assert found is not None
    record = replace(record, made_by=f"{record.made_by}, int8")
    small = scratch / "small.onnx"
    quantise(plain, record, batches(found.calibration, record.preprocess), small)
    convert(small, record, made / target.file)
    compared = scratch / "compared" / target.file  # in the same form, because sizes and times are compared
    compared.parent.mkdir()
    convert(plain, record, compared)
    measured = cost.measure(compared, made / target.file, found)
    (made / COST_FILE).write_text(measured.to_json(), encoding="utf-8")
    logger.info("%s", measured.summary())
    if measured.warning:
        logger.warning("%s", measured.warning)


def _tell_of_others(model_dir: Path, target: ExportOptions) -> None:
    """Warn of graphs in other forms that an earlier export has left: the first of `GRAPH_FILES` is taken."""
    others = [name for name in GRAPH_FILES.values() if name != target.file and (model_dir / name).is_file()]
    if others:
        told = ", ".join(others)
        logger.warning("%s holds %s too: name the file, not the folder, to say which is meant", model_dir, told)


def read_labels(path: str | Path) -> list[str]:
    """Class names from a text file, one on each line; empty lines don't count.

    Raises:
        InputNotFoundError: no such file.
        ParameterError: not a text, or no names in it.
    """
    if not Path(path).is_file():
        raise InputNotFoundError(f"no labels file {path}")
    try:
        names = [line.strip() for line in read_text(Path(path)).splitlines() if line.strip()]
    except UnicodeDecodeError:
        names = []
    if not names:
        raise ParameterError(f"{path} has no class names: expected a text file with one on each line")
    return names


def _labels(network: Network, labels: Sequence[str] | None) -> tuple[str, ...]:
    classes = network.num_classes
    if labels is not None:
        if len(labels) != classes:
            told = f"{counted(len(labels), 'label')} given, the weights have {counted(classes, 'class', 'classes')}"
            raise ParameterError(f"{told}: give one for each")
        return tuple(labels)
    if classes == len(catalog.COCO_CLASSES):
        return catalog.COCO_CLASSES
    told = counted(classes, "class", "classes")
    logger.warning("the weights have %s, not COCO's 80: named class_0 …; name them with --labels", told)
    return tuple(f"class_{i}" for i in range(classes))
