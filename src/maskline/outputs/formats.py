"""Many results in one file, or in a form other tools open: COCO's JSON, LabelMe's, a table.

>>> import maskline
>>> from maskline import CocoWriter
>>> with CocoWriter("output/coco.json") as writer:  # doctest: +SKIP
...     for result in maskline.create_model().predict("photos"):
...         writer.add(result)

Results are written as they come, in constant memory. A file is there when its writer is closed, whole, or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

from maskline.errors import UnknownNameError

if TYPE_CHECKING:
    from maskline.outputs.paths import AnyPath
    from maskline.outputs.writer import Writer

#: Form of masks in a result's JSON.
MaskFormat: TypeAlias = Literal["list", "rle", "polygon"]
MASK_FORMATS = get_args(MaskFormat)

#: Module and class below this package, by the name of the format.
WRITERS = {
    "coco": "coco.CocoWriter",
    "coco-results": "coco.CocoResultsWriter",
    "labelme": "labelme.LabelMeWriter",
    "csv": "csv_table.CsvWriter",
}


def writer_class(name: str) -> type[Writer]:
    """The writer of a format; its ``open(folder)`` takes the format's own place there. Raises UnknownNameError."""
    if name not in WRITERS:
        raise UnknownNameError.of("export format", str(name), WRITERS)
    module, _, kind = WRITERS[name].partition(".")
    return cast("type[Writer]", getattr(import_module(f"maskline.outputs.{module}"), kind))


@contextmanager
def open_writers(formats: Sequence[str], folder: AnyPath, *, tolerance: float = 0) -> Iterator[list[Writer]]:
    """A writer for each format, each to its own place in a folder, all closed together.

    Args:
        formats: keys of `WRITERS`; one that is named twice counts once.
        folder: made when something is written.
        tolerance: simplify the polygons of ``labelme`` by up to this many pixels. The other formats have none.

    Raises:
        UnknownNameError: no such format.
        ParameterError, OutputError: the folder can't be one, or can't be written to; tolerance is negative.
    """
    kinds = [writer_class(name) for name in dict.fromkeys(formats)]
    with ExitStack() as stack:
        yield [stack.enter_context(kind.open(folder, tolerance=tolerance)) for kind in kinds]
