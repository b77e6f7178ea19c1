"""CVAT's XML, the format 'CVAT for images 1.1'."""

import maskline.data.extra  # noqa: F401 (first, because it names the extra where it is missing)
from maskline.data.formats.cvat.format import TITLE, detect, read, write

__all__ = ["TITLE", "detect", "read", "write"]
