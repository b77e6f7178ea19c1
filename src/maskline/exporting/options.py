"""Options of an export: the runtime that opens it, the shape of its input, and the precision of its weights."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from maskline._checks import check_count, wrong
from maskline._options import Checked, Option
from maskline.errors import MissingDependencyError, ParameterError, UnknownNameError
from maskline.exporting import triton
from maskline.runtime.backend import GRAPH_FILES

if TYPE_CHECKING:
    from maskline import catalog
    from maskline.exporting.samples import Samples
    from maskline.preprocess import Preprocess

COST_FILE = "int8.json"  # next to an int8 model: what 8 bits cost
SMALLEST, LARGEST = 32, 4096  # pixels of a fixed side


def formats() -> tuple[str, ...]:
    """Formats of an export: those of graphs, and ``triton``."""
    return (*GRAPH_FILES, triton.FORMAT)


def check_size(value: object, name: str) -> tuple[int, int]:
    """``(height, width)`` from that or from ``640x640``. Raises ParameterError, which calls it ``name``."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", value.strip().lower())
        if match is None:
            raise ParameterError(f"{name} is {value!r}: expected HEIGHTxWIDTH in pixels, such as 640x640")
        value = int(match[1]), int(match[2])
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise wrong(value, name, "height and width in pixels, such as 640x640")
    height, width = (check_count(side, f"a side of {name}", LARGEST) for side in value)
    if min(height, width) < SMALLEST:
        raise ParameterError(f"{name} is {height}x{width}: expected sides from {SMALLEST} to {LARGEST} pixels")
    return height, width


def check_format(value: str, name: str) -> str:
    """A format of `formats` from its name in any case. Raises UnknownNameError, which calls it ``name``."""
    if value.lower() not in formats():
        raise UnknownNameError.of(name, value, formats())
    return value.lower()


@dataclass(frozen=True)
class ExportOptions(Checked):
    """Options of an export. The defaults give the most general model.

    The forms that users write are converted: a format in capitals, a batch of 1, a size such as ``640x640``, a path as
    a str.

    Attributes:
        batch: some runtimes on phones need all shapes fixed.
        size: ``(height, width)``. None: as the model has it.
        int8: calibrated with the images of this folder or data set. None: float32.
        half: arithmetic stays in float32.
    """

    format: Annotated[
        str,
        Option("Runtime that opens the model, or triton for a model repository.", listed=formats, check=check_format),
    ] = "onnx"
    batch: Annotated[Literal["dynamic", "1"], Option("Batch size of the graph.")] = "dynamic"
    size: Annotated[
        tuple[int, int] | None,
        Option("Fixed input size, such as 640x640, for models that allow any size.", metavar="HxW", check=check_size),
    ] = None
    half: Annotated[bool, Option("Store weights in half precision: half the size, the same speed.")] = False
    int8: Annotated[
        Path | None,
        Option("Run convolutions in 8 bits, calibrated on this data set or folder of images.", metavar="DIR"),
    ] = None
    verify: Annotated[
        bool,
        Option("Compare the graph of an official model with the network, which needs torch. Other graphs always are."),
    ] = False
    threshold: Annotated[float, Option("Score threshold of the exported model.", metavar="SCORE", least=0, most=1)] = (
        0.5
    )

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        if self.half and self.int8 is not None:
            raise ParameterError("half and int8 are mutually exclusive")
        if self.half and self.format == "ort":
            raise ParameterError(
                "half is not supported for ORT files, which store weights in the precision of computation"
            )

    @property
    def single(self) -> bool:
        """Whether each run has exactly one image."""
        return self.batch == "1"

    @property
    def graph(self) -> str:
        """Format of the graph, a key of `maskline.runtime.model_dir.GRAPH_FILES`."""
        return "onnx" if self.format == triton.FORMAT else self.format

    @property
    def file(self) -> str:
        """Name of the graph's file."""
        return GRAPH_FILES[self.graph]

    def model_dir(self, output: Path) -> Path:
        """Where the model directory is, of an export to the folder ``output``."""
        return triton.model_dir(output) if self.format == triton.FORMAT else output

    def check(self, spec: catalog.Model) -> None:
        """Refuse now what would fail after minutes of work.

        Raises:
            ParameterError: the model can't have that size.
            MissingDependencyError: the format needs what is not installed.
            InputError: the images for 8 bits can't be used.
        """
        self.preprocess(spec.preprocess, spec.name)
        if self.format == "openvino" and find_spec("openvino") is None:
            raise MissingDependencyError("the format openvino needs OpenVINO: pip install 'maskline[openvino]'")
        if (self.half or self.int8 is not None) and find_spec("onnx") is None:
            raise MissingDependencyError("half and int8 need onnx: pip install 'maskline[train]'")
        _ = self.samples

    @cached_property
    def samples(self) -> Samples | None:
        """The images for 8 bits, looked for once. Raises InputError if they can't be used."""
        if self.int8 is None:
            return None
        from maskline.exporting.samples import find  # which needs the extra `data`

        return find(self.int8)

    def preprocess(self, own: Preprocess, model: str) -> Preprocess:
        """How an image becomes an input of the wanted size, of a model that has its ``own`` way.

        Where inputs have the size of their image, a fixed one is a square that the image is scaled into, its ratio
        kept, and filled up with zeros right and below.

        Raises:
            ParameterError: the model can't have that size.
        """
        if self.size is None or (not own.has_free_size and self.size == (own.height, own.width)):
            return own
        if not own.has_free_size:
            raise ParameterError(
                f"size is {_text(self.size)}: {model} has a fixed input size of {own.height}x{own.width}: omit the size"
            )
        height, width = self.size
        if height != width:
            raise ParameterError(
                f"size is {_text(self.size)}: {model} preserves the aspect ratio of portrait and landscape images, "
                f"so a fixed size must be square, such as {max(self.size)}x{max(self.size)}"
            )
        return replace(own, height=height, width=width, pad_stride=height)


MOST_GENERAL = ExportOptions()


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
