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

from maskline.errors import UnknownNameError
from maskline.outputs.coco import CocoResultsWriter, CocoWriter
from maskline.outputs.csv_table import CsvWriter
from maskline.outputs.labelme import LabelMeWriter
from maskline.outputs.paths import AnyPath
from maskline.outputs.writer import Writer

__all__ = ["WRITERS", "CocoResultsWriter", "CocoWriter", "CsvWriter", "LabelMeWriter", "Writer", "open_writers"]

#: Writers by format name. ``WRITERS[name].open(folder)`` writes to the format's default path in a folder.
WRITERS: dict[str, type[Writer]] = {
    "coco": CocoWriter,
    "coco-results": CocoResultsWriter,
    "labelme": LabelMeWriter,
    "csv": CsvWriter,
}


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
        ParameterError, OutputError: the folder is invalid or not writable, or the tolerance is negative.
    """
    for name in formats:
        if name not in WRITERS:
            raise UnknownNameError.of("export format", str(name), WRITERS)
    with ExitStack() as stack:
        yield [stack.enter_context(WRITERS[name].open(folder, tolerance=tolerance)) for name in dict.fromkeys(formats)]
