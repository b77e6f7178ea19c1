"""The format of YOLO."""

from maskline.data.formats.yolo.format import TITLE, detect, read, write

__all__ = ["TITLE", "detect", "read", "write"]
