"""Formats of data sets, a star around COCO: each module offers what `maskline.data.reading.Format` asks for."""

from __future__ import annotations

from typing import NamedTuple


class FormatModule(NamedTuple):
    """Where a format is read, and whether it can be written too."""

    module: str  # below this package
    writable: bool = False


#: By the name on the command line. If formats hold equally many instances of a data set, the first one is read.
FORMATS = {
    "coco": FormatModule("coco", writable=True),
    "cvat": FormatModule("cvat", writable=True),
    "labelme": FormatModule("labelme", writable=True),
    "yolo": FormatModule("yolo", writable=True),
    "voc": FormatModule("voc", writable=True),
    "labelstudio": FormatModule("label_studio"),
    "via": FormatModule("via"),
    "supervisely": FormatModule("supervisely"),
    "panoptic": FormatModule("coco_panoptic"),
    "cityscapes": FormatModule("cityscapes"),
    "qupath": FormatModule("qupath"),
    "kaggle": FormatModule("kaggle_rle"),
}


def writable_formats() -> list[str]:
    """Names of the formats that can be written."""
    return [name for name, format_ in FORMATS.items() if format_.writable]
