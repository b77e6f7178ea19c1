"""A corrected copy of a data set; the original is not touched."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import cv2
import numpy as np

from maskline.data import layout
from maskline.data.dataset import Annotation, Dataset, Id, ImageRecord
from maskline.data.faults import Fault, Reading
from maskline.data.shapes import Segmentation, clip, crop, from_mask
from maskline.data.sources import EXIF_ORIENTATION, UPRIGHT
from maskline.files import replace_file
from maskline.inputs import read_image
from maskline.masks import rle_decode, rle_encode

LOG = "fixes.json"
SAME_SHAPE = 0.02  # the sides of a resized picture keep their ratio to this share: sizes are whole pixels


def fix(reading: Reading, target: Path, source: Path | None = None) -> list[Fault]:
    """Write a copy in our layout with every fault mended that has a ``fix`` in `KINDS`, and a list of what was done.

    Args:
        reading: from `maskline.data.check.check`.
        target: a new folder; `fixes.json` in it lists all faults, and for each whether it was mended.
        source: the folder of the original; the new one may not lie inside.

    Returns:
        The faults that remain.

    Raises:
        OutputError: the folder is there already, or can't be written; nothing is left of it then.
    """
    remaining = [fault for fault in reading.faults if fault.kind.fix is None]
    splits = {split: _fixed(dataset, reading.faults) for split, dataset in reading.splits.items()}
    with layout.new_folder(target, source) as folder:
        placed = layout.place_images(layout.unify(splits), folder / "images")
        for dataset in placed.values():
            turned = {fault.image_id for fault in _of(dataset, reading.faults) if fault.code == "image-turned"}
            for image in dataset.images:
                if image.id in turned:
                    set_upright(dataset.path(image))
        layout.write_annotations(placed, folder)
        log = [fault.as_dict() | {"mended": fault.kind.fix is not None} for fault in reading.faults]
        text = json.dumps(log, indent=1, ensure_ascii=False)
        replace_file(folder / LOG, lambda file: file.write_text(text, encoding="utf-8"))
    return remaining


def _of(dataset: Dataset, faults: Sequence[Fault]) -> list[Fault]:
    return [fault for fault in faults if fault.split == dataset.split]


def _fixed(dataset: Dataset, faults: Sequence[Fault]) -> Dataset:
    """A split without what can't be used, and with annotations mended; its pictures are still the old ones."""
    own = _of(dataset, faults)
    dropped = {fault.image_id for fault in own if _is_lost(dataset, fault)} | _leaked(dataset, faults)
    resized = {fault.image_id for fault in own if fault.code == "image-size"}
    codes: dict[Id | None, set[str]] = {}
    for fault in own:
        codes.setdefault(fault.annotation_id, set()).add(fault.code)
    images: list[ImageRecord] = []
    annotations: list[Annotation] = []
    for image in dataset.images:
        if image.id not in dropped:
            new = _of_real_size(dataset, image) if image.id in resized else image
            images.append(new)
            mended = (_mended(annotation, image, codes.get(annotation.id, set())) for annotation in dataset.of(image))
            annotations += [a if new is image else _scaled(a, image, new) for a in mended if a is not None]
    return replace(dataset, images=images, annotations=annotations)


def _is_lost(dataset: Dataset, fault: Fault) -> bool:
    """Whether the picture a fault speaks of can't be kept."""
    if fault.code == "image-turned":
        return not is_jpeg(dataset.folder / fault.file)
    if fault.code == "image-size":
        image = dataset.by_id[cast("Id", fault.image_id)]
        new = _of_real_size(dataset, image)
        return abs(new.width * image.height / (new.height * image.width) - 1) > SAME_SHAPE
    return fault.code in ("image-missing", "image-unreadable")


def _leaked(dataset: Dataset, faults: Sequence[Fault]) -> set[Id]:
    """The pictures of a split that are also in one for evaluation: those stay there."""
    ids = {image.file_name: image.id for image in dataset.images}
    rank = {split: place for place, split in enumerate(layout.SPLIT_WORDS)}
    found = set()
    for fault in faults:
        for other in fault.others if fault.code == "leak" else ():
            split, name = min((fault.split, fault.file), other, key=lambda pair: rank.get(pair[0], -1))
            if split == dataset.split:
                found.add(ids[name])
    return found


# ---- pictures


def _of_real_size(dataset: Dataset, image: ImageRecord) -> ImageRecord:
    height, width = read_image(dataset.path(image)).shape[:2]
    return replace(image, width=width, height=height)


def is_jpeg(path: Path) -> bool:
    """By its first bytes."""
    with path.open("rb") as file:
        return file.read(3) == b"\xff\xd8\xff"


def set_upright(path: Path) -> None:
    """Set a JPEG's EXIF orientation to 1, in place; its pixels stay as they are stored, to the last bit."""
    data = bytearray(path.read_bytes())
    tiff = data.index(b"Exif\0\0") + 6
    order = "<" if data[tiff : tiff + 2] == b"II" else ">"
    (directory,) = struct.unpack_from(f"{order}I", data, tiff + 4)
    (entries,) = struct.unpack_from(f"{order}H", data, tiff + directory)
    for position in range(tiff + directory + 2, tiff + directory + 2 + 12 * entries, 12):
        if struct.unpack_from(f"{order}H", data, position) == (EXIF_ORIENTATION,):
            struct.pack_into(f"{order}H", data, position + 8, UPRIGHT)
    path.write_bytes(data)


# ---- annotations


def _mended(annotation: Annotation, image: ImageRecord, codes: set[str]) -> Annotation | None:
    """An annotation after all its faults; None where it is left out."""
    if codes & {"annotation-twice", "mask-empty"}:
        return None
    shape = annotation.segmentation
    found = crop(shape, image.size) if "polygon-crossing" in codes else None
    if found is not None:
        shape = from_mask(*found, image.size)
    elif "mask-outside" in codes and not isinstance(shape, str):
        shape = tuple(ring for whole in shape if len(ring := clip(whole, image.size)) >= 3)
    if codes & {"polygon-crossing", "mask-outside", "box-mismatch", "area-mismatch"}:
        return replace(annotation, segmentation=shape, box=None, area=None)
    return annotation


def _scaled(annotation: Annotation, old: ImageRecord, new: ImageRecord) -> Annotation:
    """An annotation of a picture that has since been resized."""
    shape: Segmentation
    if isinstance(annotation.segmentation, str):
        mask = np.ascontiguousarray(rle_decode(annotation.segmentation, old.size))
        resized = cv2.resize(mask, (new.width, new.height), interpolation=cv2.INTER_NEAREST_EXACT)
        shape = rle_encode(np.asarray(resized, np.uint8))
    else:
        factor = np.asarray([new.width / old.width, new.height / old.height])
        shape = tuple(ring * factor for ring in annotation.segmentation)
    return replace(annotation, segmentation=shape, box=None, area=None)
