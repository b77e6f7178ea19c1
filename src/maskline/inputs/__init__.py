"""Inputs: paths, URLs, folders, arrays, bytes, PDF files, videos and cameras as a stream of images.

`sources` dispatches on the type of input to a reader: `images` with `tiff` and `avif` (encoded images; `orientation`
reads their orientation), `arrays`, `pdf`, `video` (with `containers`), and `web`, which downloads first. `files`
recognizes file types and lists folders; `unread` names unsupported formats.
"""

from maskline.inputs.files import FOLDER_SUFFIXES, SUFFIXES, VIDEO_SUFFIXES, not_predicted, not_read
from maskline.inputs.images import header_size
from maskline.inputs.input_image import MAX_PIXELS, InputImage, Levels
from maskline.inputs.orientation import SIDEWAYS, UPRIGHT, can_be_set, orientation, set_upright
from maskline.inputs.sources import (
    KEYS,
    OnError,
    Source,
    count_images,
    count_left_out,
    error_handler,
    iter_images,
    log_skipped,
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
    "count_images",
    "count_left_out",
    "error_handler",
    "header_size",
    "iter_images",
    "log_skipped",
    "not_predicted",
    "not_read",
    "orientation",
    "read_image",
    "read_input_image",
    "set_upright",
]
