"""Inputs: from paths, URLs, folders, arrays, bytes, PDF files, videos and cameras to a stream of images.

`sources` knows what a user may give and calls the reader it needs: `images` with `tiff` and `avif` (encoded images;
`orientation` says how they are turned), `arrays`, `pdf`, `video` (with `containers`), and `web`, which downloads first.
`files` tells kinds of files apart and lists folders; `unread` names what is not read.
"""

from maskline.inputs.files import FOLDER_SUFFIXES, SUFFIXES, VIDEO_SUFFIXES, not_predicted, not_read
from maskline.inputs.images import header_size
from maskline.inputs.input_image import MAX_PIXELS, InputImage, Levels
from maskline.inputs.orientation import SIDEWAYS, UPRIGHT, can_be_set, orientation, set_upright
from maskline.inputs.sources import (
    KEYS,
    OnError,
    Source,
    count,
    expand,
    left_out,
    log_skipped,
    on_fault,
    read_image,
    read_input_image,
)
from maskline.inputs.unread import UNREAD_SUFFIXES

__all__ = [
    "FOLDER_SUFFIXES",
    "KEYS",
    "MAX_PIXELS",
    "SIDEWAYS",
    "SUFFIXES",
    "UNREAD_SUFFIXES",
    "UPRIGHT",
    "VIDEO_SUFFIXES",
    "InputImage",
    "Levels",
    "OnError",
    "Source",
    "can_be_set",
    "count",
    "expand",
    "header_size",
    "left_out",
    "log_skipped",
    "not_predicted",
    "not_read",
    "on_fault",
    "orientation",
    "read_image",
    "read_input_image",
    "set_upright",
]
