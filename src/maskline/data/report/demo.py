"""Draw annotated images of a data set."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from maskline._files import NAME_BYTES, cut_name, replace_file
from maskline.data.dataset import Dataset, ImageRecord
from maskline.errors import InputError
from maskline.inputs import read_image
from maskline.outputs.paths import IMAGE_FORMATS
from maskline.outputs.result import ENCODER_OPTIONS
from maskline.render import draw

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

logger = logging.getLogger("maskline")


def demo_images(dataset: Dataset, folder: Path, most: int = 10) -> list[str]:
    """Draw the first images of a split with their masks, boxes and class names.

    Images that can't be read, or whose size differs from the record, are skipped.

    Args:
        folder: destination of ``<split>/<file_name>``, with ``.png`` appended if that format can't be written in
            colour. Sub-folders are kept.
        most: largest number of images to draw.

    Returns:
        The files, relative to ``folder``, with forward slashes.

    Raises:
        OutputError: a file can't be written.
    """
    drawn = (name for image in dataset.images if (name := _demo_image(dataset, image, folder)) is not None)
    return list(itertools.islice(drawn, most))


def _demo_image(dataset: Dataset, image: ImageRecord, folder: Path) -> str | None:
    from PIL import Image

    try:
        pixels = read_image(dataset.path(image))
    except InputError as error:
        logger.debug("not drawn: %s", error)
        return None
    if pixels.shape[:2] != image.size:
        return None
    name, kind = _writable(f"{dataset.split}/{image.file_name}")
    decoded = Image.fromarray(draw(pixels, dataset.instances(image), dataset.names, scores=False))
    replace_file(folder / name, lambda file: _save(decoded, file, kind))
    return name


def _save(image: PilImage, file: Path, kind: str) -> None:
    image.save(file, kind, **ENCODER_OPTIONS.get(kind, {}))


def _writable(name: str) -> tuple[str, str]:
    """A file name in a format that can be written in colour, and Pillow's name of the format."""
    from PIL import Image

    Image.init()
    kind = IMAGE_FORMATS.get(Path(name).suffix.lower(), "GIF")
    if kind != "GIF" and kind in Image.SAVE:
        return name, kind
    folder, slash, last = name.rpartition("/")
    return folder + slash + cut_name(last, ".png", NAME_BYTES), "PNG"
