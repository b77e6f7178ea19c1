"""The format of LabelMe."""

from maskline.data.formats.labelme.format import TITLE, detect, read, write

__all__ = ["TITLE", "detect", "read", "write"]
