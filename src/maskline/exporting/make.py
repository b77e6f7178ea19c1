"""From weights to a model directory: one graph, and ``inference.yml``.

The graphs of official models are shipped, and filled with the weights (`shipped`). Others are traced from the network,
which needs torch, and verified (`from_network`): graph and network are run on photos of several sizes, alone and in
batches, and nothing is written if they disagree. The cost of int8 is measured and logged.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from maskline import __version__, catalog
from maskline._files import read_text, replace_files
from maskline._wording import counted
from maskline.errors import InputNotFoundError, MissingDependencyError, ParameterError
from maskline.exporting import shipped, triton
from maskline.exporting.formats import convert_graph
from maskline.exporting.options import COST_FILE, MOST_GENERAL, ExportOptions
from maskline.exporting.yml import inference_yml
from maskline.outputs.paths import check_folder
from maskline.runtime.backend import GRAPH_FILES
from maskline.runtime.graph import Record
from maskline.runtime.mask_layout import MaskLayout
from maskline.runtime.model_dir import CONFIG_FILE

logger = logging.getLogger("maskline")


class GraphSource(Protocol):
    """What a graph is made from."""

    @property
    def num_classes(self) -> int: ...

    @property
    def mask_layout(self) -> MaskLayout: ...

    @property
    def made_with(self) -> str:
        """Versions and settings, for the record."""

    def write(self, path: Path, record: Record) -> None:
        """Write the graph as ONNX."""

    def verify(self, plain: Path, path: Path, record: Record) -> None:
        """Compare the graph in ``path``, converted from ``plain``, with the network. Raises ExportError."""


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
    verify: bool = False,
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
        verify: compare a shipped graph with the network, too, which needs torch; traced graphs always are.

    Returns:
        The folder.

    Raises:
        ParameterError: an option is invalid, or not available for this model.
        InputError: the images can't be used.
        WeightsError: the weights don't fit the network.
        OutputError: the folder can't be written to.
        ExportError: graph and network disagree.
        MissingDependencyError: the graph has to be traced, which needs torch.
    """
    spec = catalog.get(name)
    given: dict[str, Any] = {"batch": batch, "size": size, "int8": int8}  # in forms that the options convert
    options = ExportOptions(format, half=half, threshold=threshold, verify=verify, **given)
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
    if not unaligned and (source := shipped.source(spec, weights, options)):
        return write_model_dir(source, spec, output, labels=labels, options=options)
    check_torch(f"{spec.name} with these weights")
    from maskline.exporting.from_network import export_from_weights

    return export_from_weights(spec, weights, output, labels=labels, unaligned=unaligned, options=options)


def check_torch(what: str) -> None:
    """Raise MissingDependencyError if torch is not installed, for what has to be traced."""
    if find_spec("torch") is None:
        raise MissingDependencyError(
            f"exporting {what} needs torch: pip install 'maskline[train]', or export it elsewhere and copy the "
            "model directory"
        )


def write_model_dir(
    source: GraphSource,
    spec: catalog.Model,
    output: str | Path,
    *,
    labels: Sequence[str] | None,
    options: ExportOptions,
) -> Path:
    """Write the graph of a source in the format of the options, and what belongs to it."""
    check_folder(output)
    model_dir = options.model_dir(Path(output))
    check_folder(model_dir)
    record = Record(
        model=spec.name,
        labels=_labels(source.num_classes, labels),
        preprocess=options.preprocess(spec.preprocess, spec.name),
        threshold=options.threshold,
        mask_layout=source.mask_layout,
        made_by=f"maskline {__version__}, {source.made_with}",
    )
    with tempfile.TemporaryDirectory(prefix="maskline-") as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        (made / CONFIG_FILE).write_text(inference_yml(spec, record, options.graph), encoding="utf-8")
        _make(source, record, options, Path(scratch), made)
        if options.format == triton.FORMAT:
            triton.replace_model(Path(output), made)
        else:
            graph_last = sorted(made.iterdir(), key=lambda path: path.name == options.file)
            replace_files(Path(output), graph_last)
    if options.int8 is None:
        (model_dir / COST_FILE).unlink(missing_ok=True)  # of an earlier export
    _warn_of_other_graphs(model_dir, options)
    return Path(output)


def _make(source: GraphSource, record: Record, options: ExportOptions, scratch: Path, made: Path) -> None:
    """Write the verified graph into the folder ``made``; ``scratch`` is for temporary files."""
    plain = scratch / GRAPH_FILES["onnx"]
    source.write(plain, record)
    source.verify(plain, plain, record)
    if options.int8 is not None:
        _quantise(plain, record, options, scratch, made)
        return
    convert_graph(plain, record, made / options.file, half=options.half)
    if options.graph != "onnx":
        source.verify(plain, made / options.file, record)


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


def _labels(classes: int, labels: Sequence[str] | None) -> tuple[str, ...]:
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
