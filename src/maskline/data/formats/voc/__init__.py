"""The format of Pascal VOC."""

from maskline.data.formats.voc.format import TITLE, detect, read, write

__all__ = ["TITLE", "detect", "read", "write"]
