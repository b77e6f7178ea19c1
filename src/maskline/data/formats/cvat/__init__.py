"""The format of CVAT."""

from maskline.data.formats.cvat.format import TITLE, detect, read, write

__all__ = ["TITLE", "detect", "read", "write"]
