"""What an export is for: the runtime that opens it, the shape of its input, and the numbers it is stored in."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from maskline import catalog
from maskline._checks import check_count
from maskline.errors import MissingDependencyError, ParameterError, UnknownNameError
from maskline.exporting import triton
from maskline.preprocess import Preprocess
from maskline.runtime.model_dir import GRAPH_FILES

if TYPE_CHECKING:
    from maskline.exporting.samples import Samples

COST_FILE = "int8.json"  # beside a model in 8 bits: what they cost
FORMATS = (*GRAPH_FILES, triton.FORMAT)
BATCHES = ("dynamic", "1")
SMALLEST, LARGEST = 32, 4096  # pixels of a fixed side


@dataclass(frozen=True)
class ExportOptions:
    """What is wanted of a graph. The default is the most general one.

    Attributes:
        format: one of `FORMATS`: that of the graph, or ``triton``, a repository for that server around an ONNX graph.
        single: every run has one image, rather than any number. Some runtimes of phones want all shapes fixed.
        size: ``(height, width)`` of the input in pixels, where the model leaves it free; None: as the model has it.
        half: store weights in half precision; arithmetic stays in float32.
        int8: convolutions in 8 bits, calibrated with the images of this folder or data set; None: float32.
    """

    format: str = "onnx"
    single: bool = False
    size: tuple[int, int] | None = None
    half: bool = False
    int8: Path | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise UnknownNameError.of("format", str(self.format), FORMATS)
        if self.half and self.int8 is not None:
            raise ParameterError("half and int8 can't both be: weights are stored in 16 bits or in 8, leave one out")
        if self.half and self.format == "ort":
            raise ParameterError(
                "half and ort can't both be: ONNX Runtime writes weights as it computes; int8 is smaller"
            )

    @classmethod
    def of(
        cls,
        format: str = "onnx",
        *,
        batch: int | str = "dynamic",
        size: str | tuple[int, int] | None = None,
        half: bool = False,
        int8: str | Path | None = None,
    ) -> ExportOptions:
        """From what users write: a batch of ``1`` or ``dynamic``, a size such as ``640x640``, a path.

        Raises:
            ParameterError: one of them makes no sense.
        """
        if str(batch) not in BATCHES:
            raise ParameterError(f"batch is {batch!r}: expected 1, or 'dynamic' for any number of images")
        return cls(str(format).lower(), str(batch) == "1", _size(size), half, None if int8 is None else Path(int8))

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
            raise MissingDependencyError("the format openvino needs it: pip install 'maskline[openvino]'")
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
                f"size is {_told(self.size)}: {model} is made for {own.height}x{own.width} and nothing else; "
                "leave the size out"
            )
        height, width = self.size
        if height != width:
            raise ParameterError(
                f"size is {_told(self.size)}: {model} keeps an image's ratio, upright or lying, so a fixed size has "
                f"to be a square, such as {max(self.size)}x{max(self.size)}"
            )
        return replace(own, height=height, width=width, pad_stride=height)


def _size(value: str | tuple[int, int] | None) -> tuple[int, int] | None:
    if isinstance(value, str):
        match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", value.strip().lower())
        if match is None:
            raise ParameterError(f"size is {value!r}: expected HEIGHTxWIDTH in pixels, such as 640x640")
        value = int(match[1]), int(match[2])
    if value is None:
        return None
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ParameterError(f"size is {value!r}: expected height and width in pixels, such as 640x640")
    height, width = (check_count(side, "a side of size", LARGEST) for side in value)
    if min(height, width) < SMALLEST:
        raise ParameterError(f"size is {height}x{width}: expected sides from {SMALLEST} to {LARGEST} pixels")
    return height, width


def _told(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
