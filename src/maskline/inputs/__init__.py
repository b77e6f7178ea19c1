"""Inputs: from paths, URLs, folders, arrays, bytes, PDF files, videos and cameras to a stream of pictures.

`sources` knows what a user may give and calls the reader it needs: `images` and `tiff` (encoded images), `arrays`,
`pdf`, `video` (with `containers`), and `web`, which downloads first. `files` tells kinds of files apart.
"""

from maskline.inputs.files import FOLDER_SUFFIXES, SUFFIXES, UNREAD_SUFFIXES, VIDEO_SUFFIXES
from maskline.inputs.images import claimed_size
from maskline.inputs.picture import MAX_PIXELS, Picture
from maskline.inputs.sources import KEYS, Source, count, expand, read_image

__all__ = [
    "FOLDER_SUFFIXES",
    "KEYS",
    "MAX_PIXELS",
    "SUFFIXES",
    "UNREAD_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Picture",
    "Source",
    "claimed_size",
    "count",
    "expand",
    "read_image",
]
