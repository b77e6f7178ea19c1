"""From weights to a model directory: one graph, and ``inference.yml``.

Every graph is verified: it is run next to the network on photos of several sizes, alone and in batches, and nothing is
written if they disagree. The cost of int8 is measured and logged.
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
from maskline.exporting.formats import convert_graph
from maskline.exporting.graph import fused, rounded, write_graph, write_pinned
from maskline.exporting.options import COST_FILE, MOST_GENERAL, ExportOptions
from maskline.exporting.verify import verify_graph
from maskline.exporting.yml import inference_yml
from maskline.models.deployed import Deployed
from maskline.models.families import overrides_of
from maskline.models.network import Network
from maskline.models.pinned import Call
from maskline.outputs.paths import check_folder
from maskline.runtime.backend import GRAPH_FILES, Acceleration, Backend
from maskline.runtime.device import CPU
from maskline.runtime.graph import Graph, Record, backend_for, open_backend
from maskline.runtime.model_dir import CONFIG_FILE
from maskline.weights.load import labels_in_file, load_network, weights_path

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
    """Export weights to a model directory.

    Args:
        name: a model in the catalog.
        weights: ``.pdparams`` of PaddleDetection, or ``.safetensors``.
        output: folder for the graph and ``inference.yml``, or the repository; created if missing.
        labels: class names; default: those in the file, else COCO's 80, or ``class_0`` ... for other numbers.
        threshold: the model's default score threshold.
        half: store weights in half precision, for half the size. Arithmetic stays in float32, at the same speed.
        unaligned: Mask R-CNN only: the weights were trained with the unaligned RoIAlign (see `roi_align`), as
            PaddleDetection does since August 2024, whatever its configuration says.
        format: ``onnx``, ``ort`` (ONNX Runtime Mobile), ``openvino``, or ``triton``: a model repository for Triton
            Inference Server, see `maskline.exporting.triton`.
        batch: ``dynamic``, or 1 for runtimes that need a fixed shape.
        size: fixed height and width of the input in pixels, such as ``640x640``, for models with free sizes.
        int8: folder of images, or a data set, to calibrate an int8 model with. Its cost is measured on other images of
            the same source, logged, and stored in ``int8.json``.

    Returns:
        The folder.

    Raises:
        ParameterError: an option is invalid, or not available for this model.
        InputError: the images can't be used.
        WeightsError: the weights don't fit the network.
        OutputError: the folder can't be written to.
        ExportError: graph and network disagree.
    """
    spec = catalog.get(name)
    options = ExportOptions.of(format, batch=batch, size=size, half=half, int8=int8, threshold=threshold)
    options.check(spec)
    return export_weights(spec, Path(weights), output, labels=labels, unaligned=unaligned, options=options)


def export_weights(
    spec: catalog.Model,
    weights: Path,
    output: str | Path,
    *,
    labels: Sequence[str] | None = None,
    unaligned: bool = False,
    options: ExportOptions = MOST_GENERAL,
) -> Path:
    """As `export`, with options that have been checked for this model."""
    network = load_network(spec.name, weights, overrides_of(spec.name, unaligned=unaligned))
    if labels is None:
        labels = labels_in_file(weights_path(weights))
    return export_network(network, spec, output, labels=labels, options=options)


def export_network(
    network: Network,
    spec: catalog.Model,
    output: str | Path,
    *,
    labels: Sequence[str] | None = None,
    options: ExportOptions = MOST_GENERAL,
) -> Path:
    """As `export`, from a network in memory, built for ``spec``. The network is not modified."""
    check_folder(output)
    model_dir = options.model_dir(Path(output))
    check_folder(model_dir)
    trained_with = "".join(f", {name}={value}" for name, value in network.weights_config().items())
    record = Record(
        model=spec.name,
        labels=_labels(network, labels),
        preprocess=options.preprocess(spec.preprocess, spec.name),
        threshold=options.threshold,
        mask_layout=network.mask_layout,
        made_by=f"maskline {__version__}, torch {torch.__version__}{trained_with}",
    )
    network = copy.deepcopy(network).eval()
    with tempfile.TemporaryDirectory(prefix="maskline-") as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        (made / CONFIG_FILE).write_text(inference_yml(spec, record, options.graph), encoding="utf-8")
        _make(network, record, options, Path(scratch), made)
        if options.format == triton.FORMAT:
            triton.replace_model(Path(output), made)
        else:
            graph_last = sorted(made.iterdir(), key=lambda path: path.name == options.file)
            replace_files(Path(output), graph_last)
    if options.int8 is None:
        (model_dir / COST_FILE).unlink(missing_ok=True)  # of an earlier export
    _warn_of_other_graphs(model_dir, options)
    return Path(output)


def _make(network: Network, record: Record, options: ExportOptions, scratch: Path, made: Path) -> None:
    """Write the verified graph into the folder ``made``; ``scratch`` is for temporary files."""
    exported = fused(network)
    if options.half:  # compare with a network of the same, rounded weights
        network = exported = rounded(exported)
    plain, reference = scratch / GRAPH_FILES["onnx"], Deployed(network, record.preprocess)
    write_graph(Deployed(exported, record.preprocess), record, plain, half=options.half, single=options.single)
    _verify(reference, plain, plain, record, options)
    if options.int8 is not None:
        _quantise(plain, record, options, scratch, made)
        return
    convert_graph(plain, record, made / options.file, half=options.half)
    if options.graph != "onnx":
        _verify(reference, plain, made / options.file, record, options)


def _verify(reference: Deployed, plain: Path, path: Path, record: Record, options: ExportOptions) -> None:
    """Verify the graph in ``path``, converted from ``plain``."""

    def open_pinned(calls: Sequence[Call]) -> Backend:
        folder = plain.parent / "pinned"
        folder.mkdir(exist_ok=True)
        written = folder / plain.name
        write_pinned(plain, calls, written)
        if path != plain:
            convert_graph(written, record, folder / path.name, half=options.half)
        return open_backend(backend_for(path, CPU), folder / path.name, CPU, Acceleration())

    logger.info("checking the graph against the network")
    verify_graph(reference, Graph(path, CPU), open_pinned, single=options.single)


def _quantise(plain: Path, record: Record, options: ExportOptions, scratch: Path, made: Path) -> None:
    """As `_make`, for int8, from the verified float32 graph; measure the cost."""
    from maskline.exporting import cost  # needs the extra `data`, unlike float32 export
    from maskline.exporting.quantise import quantise
    from maskline.exporting.samples import batches

    found = options.samples
    assert found is not None
    record = replace(record, made_by=f"{record.made_by}, int8")
    small = scratch / "small.onnx"
    quantise(plain, record, batches(found.calibration, record.preprocess), small)
    convert_graph(small, record, made / options.file)
    compared = scratch / "compared" / options.file  # in the same format, to compare sizes and times
    compared.parent.mkdir()
    convert_graph(plain, record, compared)
    measured = cost.measure(compared, made / options.file, found)
    (made / COST_FILE).write_text(measured.to_json(), encoding="utf-8")
    logger.info("%s", measured.summary())
    if measured.warning:
        logger.warning("%s", measured.warning)


def _warn_of_other_graphs(model_dir: Path, options: ExportOptions) -> None:
    """Warn about graphs in other formats from an earlier export; the first of `GRAPH_FILES` would be opened."""
    others = [name for name in GRAPH_FILES.values() if name != options.file and (model_dir / name).is_file()]
    if others:
        logger.warning("%s also has %s: give the file, not the folder, to choose one", model_dir, ", ".join(others))


def read_labels(path: str | Path) -> list[str]:
    """Read class names from a text file, one per line; empty lines are skipped.

    Raises:
        InputNotFoundError: no such file.
        ParameterError: not a text file, or no names in it.
    """
    if not Path(path).is_file():
        raise InputNotFoundError(f"no labels file {path}")
    try:
        names = [line.strip() for line in read_text(Path(path)).splitlines() if line.strip()]
    except UnicodeDecodeError:
        names = []
    if not names:
        raise ParameterError(f"{path} has no class names: expected a text file with one per line")
    return names


def _labels(network: Network, labels: Sequence[str] | None) -> tuple[str, ...]:
    classes = network.num_classes
    if labels is not None:
        if len(labels) != classes:
            given, expected = counted(len(labels), "label"), counted(classes, "class", "classes")
            raise ParameterError(f"{given} given, the weights have {expected}: give one label per class")
        return tuple(labels)
    if classes == len(catalog.COCO_CLASSES):
        return catalog.COCO_CLASSES
    number = counted(classes, "class", "classes")
    logger.warning("the weights have %s, not COCO's 80: named class_0 ...; name them with --labels", number)
    return tuple(f"class_{i}" for i in range(classes))
