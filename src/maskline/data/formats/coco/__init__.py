"""COCO: the format that data sets are converted through."""

from maskline.data.formats.coco.layout import TITLE, detect, read, write

__all__ = ["TITLE", "detect", "read", "write"]
