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

from maskline.errors import UnknownNameError
from maskline.outputs.coco import CocoResultsWriter, CocoWriter
from maskline.outputs.csv_table import CsvWriter
from maskline.outputs.labelme import LabelMeWriter
from maskline.outputs.paths import AnyPath
from maskline.outputs.writer import Writer

__all__ = ["WRITERS", "CocoResultsWriter", "CocoWriter", "CsvWriter", "LabelMeWriter", "Writer", "open_writers"]

#: By the name of the format. ``WRITERS[name].open(folder)`` is a writer to that format's own place in a folder.
WRITERS: dict[str, type[Writer]] = {
    "coco": CocoWriter,
    "coco-results": CocoResultsWriter,
    "labelme": LabelMeWriter,
    "csv": CsvWriter,
}


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
    for name in formats:
        if name not in WRITERS:
            raise UnknownNameError.of("export format", str(name), WRITERS)
    with ExitStack() as stack:
        yield [stack.enter_context(WRITERS[name].open(folder, tolerance=tolerance)) for name in dict.fromkeys(formats)]
