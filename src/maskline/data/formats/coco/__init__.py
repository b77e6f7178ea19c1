"""COCO, the hub format of all conversions."""

from maskline.data.formats.coco.layout import TITLE, detect, read, write

__all__ = ["TITLE", "detect", "read", "write"]
