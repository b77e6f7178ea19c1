"""CSV output, one row per instance."""

from __future__ import annotations

import csv
import io
from typing import IO, TYPE_CHECKING

import numpy as np

from maskline._files import AnyPath
from maskline.outputs.writer import Spool, Writer, coordinates, score_of, write_whole

if TYPE_CHECKING:
    from maskline.outputs.result import Result

COLUMNS = ("image", "page", "index", "cls_id", "label", "score", "x1", "y1", "x2", "y2", "area")
RLE_COLUMNS = ("height", "width", "rle")


class CsvWriter(Writer):
    """Writes a UTF-8 CSV table with a header, columns `COLUMNS`, and one row per instance.

    >>> import maskline
    >>> with maskline.CsvWriter("output/instances.csv", rle=True) as writer:  # doctest: +SKIP
    ...     for result in maskline.create_model().predict("photos"):
    ...         writer.add(result)

    ``image`` is the input as given, empty for an array; ``index`` is the rank within the image, best first; the box is
    in pixels; ``area`` is the mask's number of pixels.
    """

    FILE_NAME = "instances.csv"

    def __init__(self, path: AnyPath, *, rle: bool = False) -> None:
        """Prepare, without writing anything.

        Args:
            path: output file.
            rle: add `RLE_COLUMNS`: the mask as COCO's compressed run lengths over the image, and the image's size.

        Raises:
            ParameterError, OutputError: the folder is invalid or not writable.
        """
        super().__init__(path)
        self.rle = rle
        self._rows = Spool(self.path)

    def _add(self, result: Result) -> None:
        self._rows.write(_text([self._row(result, index) for index in range(len(result.instances))]))

    def _row(self, result: Result, index: int) -> list[object]:
        found, box = result.instances, result["boxes"][index]
        row = [result["input_path"], result["page_index"], index, box["cls_id"], box["label"]]
        row += [score_of(found.scores[index]), *coordinates(found.boxes[index])]
        row.append(int(np.count_nonzero(found.masks[index])))
        if self.rle:
            row += [*found.size, found.rle(index)]
        return row

    def _finish(self) -> None:
        write_whole(self.path, self._write)

    def _write(self, file: IO[bytes]) -> None:
        file.write(_text([[*COLUMNS, *(RLE_COLUMNS if self.rle else ())]]).encode())
        self._rows.copy_to(file)

    def _release(self) -> None:
        self._rows.close()


def _text(rows: list[list[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
