"""Inputs: from paths, URLs, folders, arrays, bytes, PDF files, videos and cameras to a stream of pictures.

`sources` knows what a user may give and calls the reader it needs: `images` and `tiff` (encoded images; `orientation`
says how they are turned), `arrays`, `pdf`, `video` (with `containers`), and `web`, which downloads first. `files` tells
kinds of files apart.
"""

from maskline.inputs.files import FOLDER_SUFFIXES, SUFFIXES, UNREAD_SUFFIXES, VIDEO_SUFFIXES
from maskline.inputs.images import header_size
from maskline.inputs.orientation import SIDEWAYS, UPRIGHT, can_be_set, orientation, set_upright
from maskline.inputs.picture import MAX_PIXELS, Picture
from maskline.inputs.sources import KEYS, Source, count, expand, read_image

__all__ = [
    "FOLDER_SUFFIXES",
    "KEYS",
    "MAX_PIXELS",
    "SIDEWAYS",
    "SUFFIXES",
    "UNREAD_SUFFIXES",
    "UPRIGHT",
    "VIDEO_SUFFIXES",
    "Picture",
    "Source",
    "can_be_set",
    "count",
    "expand",
    "header_size",
    "orientation",
    "read_image",
    "set_upright",
]
