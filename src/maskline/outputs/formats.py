"""Output formats for many results: COCO JSON, LabelMe JSON, CSV.

>>> import maskline
>>> from maskline import CocoWriter
>>> with CocoWriter("output/coco.json") as writer:  # doctest: +SKIP
...     for result in maskline.create_model().predict("photos"):
...         writer.add(result)

Results are streamed in constant memory. A file appears, complete, when its writer is closed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

from maskline._checks import wrong
from maskline.errors import UnknownNameError

if TYPE_CHECKING:
    from maskline._files import AnyPath
    from maskline.outputs.writer import Writer

#: Form of masks in a result's JSON.
MaskFormat: TypeAlias = Literal["list", "rle", "polygon"]
MASK_FORMATS = get_args(MaskFormat)

MOST_TOLERANCE = 1000  # pixels of simplified polygons

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
    """Open one writer per format, each at its default path in a folder; all are closed together.

    >>> import maskline
    >>> results = maskline.create_model().predict("photos")  # doctest: +SKIP
    >>> with maskline.open_writers(["coco", "csv"], "output") as writers:  # doctest: +SKIP
    ...     for result in results:
    ...         for writer in writers:
    ...             writer.add(result)

    Args:
        formats: keys of `WRITERS`; duplicates are ignored.
        folder: created when something is written.
        tolerance: simplify the polygons of ``labelme`` by up to this many pixels. No effect on other formats.

    Raises:
        UnknownNameError: unknown format.
        ParameterError, OutputError: the folder is invalid or not writable, or the tolerance is out of range.
    """
    if isinstance(formats, str):
        raise wrong(formats, "formats", f"a list, such as {[formats]}")
    kinds = [writer_class(name) for name in dict.fromkeys(formats)]
    with ExitStack() as stack:
        yield [stack.enter_context(kind.open(folder, tolerance=tolerance)) for kind in kinds]
