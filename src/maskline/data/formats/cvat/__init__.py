"""CVAT's XML, the format 'CVAT for images 1.1'."""

from maskline.data.formats.cvat.format import TITLE, detect, read, write

__all__ = ["TITLE", "detect", "read", "write"]
