"""Inputs: from paths, URLs, folders, arrays, bytes, PDF files, videos and cameras to a stream of pictures.

`sources` knows what a user may give and calls the reader it needs: `images` with `tiff` and `avif` (encoded images),
`arrays`, `pdf`, `video` (with `containers`), and `web`, which downloads first. `files` tells kinds of files apart and
lists folders; `unread` names what is not read.
"""

from maskline.inputs.files import FOLDER_SUFFIXES, SUFFIXES, VIDEO_SUFFIXES, not_predicted
from maskline.inputs.images import claimed_size
from maskline.inputs.picture import MAX_PIXELS, Levels, Picture
from maskline.inputs.sources import KEYS, Source, count, expand, left_out, read_image, read_picture
from maskline.inputs.unread import UNREAD_SUFFIXES

__all__ = [
    "FOLDER_SUFFIXES",
    "KEYS",
    "MAX_PIXELS",
    "SUFFIXES",
    "UNREAD_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Levels",
    "Picture",
    "Source",
    "claimed_size",
    "count",
    "expand",
    "left_out",
    "not_predicted",
    "read_image",
    "read_picture",
]
