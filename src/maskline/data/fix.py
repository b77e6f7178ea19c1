"""A corrected copy of a data set; the original is not touched."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from maskline.data import check_masks, layout
from maskline.data.dataset import Annotation, Dataset, Id, ImageRecord
from maskline.data.faults import Count, Fault, Reading
from maskline.data.shapes import clip, crop, from_mask
from maskline.data.sources import EXIF_ORIENTATION, UPRIGHT
from maskline.data.texts import dump, encode
from maskline.data.tree import SPLITS
from maskline.files import replace_file
from maskline.inputs import read_image

LOG = "fixes.json"


class Done(NamedTuple):
    """What became of a fault: mended with all data kept, mended by leaving data out, or left to the user; and how."""

    outcome: Literal["mended", "left out", "left"]
    how: str


@dataclass(frozen=True)
class Fixed:
    """What `fix` did.

    Attributes:
        done: for each fault, in their order.
        counts: by split, what the original has and what the copy has.
    """

    faults: Sequence[Fault]
    done: Sequence[Done]
    counts: Mapping[str, tuple[Count, Count]]

    def number(self, outcome: str) -> int:
        """Of faults."""
        return sum(done.outcome == outcome for done in self.done)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        faults = zip(self.faults, self.done, strict=True)
        return {
            "splits": {
                split: {"original": before._asdict(), "copy": after._asdict()}
                for split, (before, after) in self.counts.items()
            },
            "faults": [fault.as_dict() | {"outcome": done.outcome, "done": done.how} for fault, done in faults],
        }


def fix(reading: Reading, target: Path, source: Path | None = None) -> Fixed:
    """Write a copy in our layout without every fault that has a ``fix`` in `KINDS`, and a list of what was done.

    Args:
        reading: from `maskline.data.check.check`.
        target: a new folder; `fixes.json` in it tells for each fault what was done, and how much each split has.
        source: the folder of the original; the new one may not lie inside.

    Raises:
        OutputError: the folder is there already, or can't be written; nothing is left of it then.
    """
    splits = {split: _fixed(dataset, reading.faults) for split, dataset in reading.splits.items()}
    done = [_done(fault, reading.splits, splits) for fault in reading.faults]
    counts = {s: (reading.count(s), Count(len(new.images), len(new.annotations))) for s, new in splits.items()}
    result = Fixed(reading.faults, done, counts)
    with layout.new_folder(target, source) as folder:
        placed = layout.place_images(layout.unify(splits), folder / "images")
        for dataset in placed.values():
            turned = {fault.image_id for fault in _of(dataset, reading.faults) if fault.code == "image-turned"}
            for image in dataset.images:
                if image.id in turned:
                    set_upright(dataset.path(image))
        layout.write_annotations(placed, folder)
        data = encode(dump(result.as_dict(), indent=1))
        replace_file(folder / LOG, lambda file: file.write_bytes(data))
    return result


def _of(dataset: Dataset, faults: Sequence[Fault]) -> list[Fault]:
    return [fault for fault in faults if fault.split == dataset.split]


def _fixed(dataset: Dataset, faults: Sequence[Fault]) -> Dataset:
    """A split without what can't be used, and with annotations mended; its pictures are still the old ones."""
    own = _of(dataset, faults)
    dropped = {image.id for image in _unusable(dataset, own)} | _leaked(dataset, faults)
    resized = [image for image in _with(dataset, own, "image-size") if image.id not in dropped]
    real = {image.id: _of_real_size(dataset, image) for image in resized}
    dropped |= {key for key, image in real.items() if image is None}
    images = [real.get(image.id) or image for image in dataset.images if image.id not in dropped]
    kept = replace(dataset, images=images)
    codes: dict[Id | None, set[str]] = {}
    for fault in own:
        codes.setdefault(fault.annotation_id, set()).add(fault.code)
    annotations: list[Annotation] = []
    for image in images:
        if image.size != dataset.by_id[image.id].size:  # what was told of its masks was told of another frame
            codes |= _codes(kept, image)
        mended = (_mended(annotation, image, codes.get(annotation.id, set())) for annotation in kept.of(image))
        annotations += [annotation for annotation in mended if annotation is not None]
    return replace(kept, annotations=annotations)


def _codes(dataset: Dataset, image: ImageRecord) -> dict[Id | None, set[str]]:
    """The codes of the faults of an image's annotations, by their ids."""
    codes: dict[Id | None, set[str]] = {annotation.id: set() for annotation in dataset.of(image)}
    for fault in check_masks.of_image(dataset, image):
        codes[fault.annotation_id].add(fault.code)
    return codes


def _with(dataset: Dataset, faults: Sequence[Fault], *codes: str) -> list[ImageRecord]:
    """The images that have a fault of these kinds."""
    found = {fault.image_id for fault in faults if fault.code in codes}
    return [image for image in dataset.images if image.id in found]


def _unusable(dataset: Dataset, faults: Sequence[Fault]) -> list[ImageRecord]:
    """The images whose files can't be used."""
    turned = _with(dataset, faults, "image-turned")
    return _with(dataset, faults, "image-missing", "image-unreadable") + [
        image for image in turned if not is_jpeg(dataset.path(image))
    ]


def _leaked(dataset: Dataset, faults: Sequence[Fault]) -> set[Id]:
    """The pictures of a split that are also in one for evaluation: those stay there."""
    ids = {image.file_name: image.id for image in dataset.images}
    return {ids[name] for split, name in map(_leak, faults) if split == dataset.split}


def _leak(fault: Fault) -> tuple[str, str]:
    """The split and the name of the picture that a leak can do without; nothing for other faults."""
    if fault.code != "leak":
        return "", ""
    rank = {split: place for place, split in enumerate(SPLITS)}
    pairs = ((fault.split, fault.file), *fault.others)
    return min(pairs, key=lambda pair: rank.get(pair[0], -1))


# ---- what was done


def _done(fault: Fault, before: Mapping[str, Dataset], after: Mapping[str, Dataset]) -> Done:
    """What became of a fault, as the data sets before and after show it."""
    if fault.kind.fix is None:
        return Done("left", "nothing")
    split, name = _leak(fault) if fault.code == "leak" else (fault.split, fault.file)
    old, new = before.get(split), after.get(split)
    if old is None or new is None:
        return Done("left out" if fault.kind.loses else "mended", fault.kind.fix)
    key = next((i.id for i in old.images if i.file_name == name), None) if fault.code == "leak" else fault.image_id
    if key is not None and key not in old.by_id:
        return Done("left out", "the image is left out with its annotations")
    if key is not None and key not in new.by_id:
        image = old.by_id[key]
        told = f"image {image.file_name} of {split} is left out with its {len(old.of(image))} annotations"
        return Done("left out", told)
    if fault.annotation_id is not None and fault.annotation_id not in new.annotation_ids:
        return Done("left out", "the annotation is left out")
    if fault.code == "image-size" and key is not None:
        return Done("mended", f"width and height are now {new.by_id[key].width} and {new.by_id[key].height}")
    if key in new.by_id and fault.annotation_id is not None and new.by_id[key].size != old.by_id[key].size:
        return Done("mended", "the image has other width and height now, see its own fault")
    return Done("left out" if fault.kind.loses else "mended", fault.kind.fix)


# ---- pictures


def _of_real_size(dataset: Dataset, image: ImageRecord) -> ImageRecord | None:
    """The image with the size of its file; None unless the masks show that they were drawn on that.

    They do if they leave the size listed but not the file's, or if the two are swapped and they fit the file's. A
    picture that was resized or cropped gives no such sign: nothing tells what became of its masks then.
    """
    height, width = read_image(dataset.path(image)).shape[:2]
    new = replace(image, width=width, height=height)
    annotations = dataset.of(image)
    unstated_or_swapped = new.size in (image.size, image.size[::-1])
    drawn_on_it = _fit(annotations, new, image) and (unstated_or_swapped or not _fit(annotations, image, image))
    return new if drawn_on_it or not annotations else None


def _fit(annotations: Sequence[Annotation], image: ImageRecord, listed: ImageRecord) -> bool:
    """Whether all masks lie inside an image. Run lengths are of the size listed."""
    shapes = [annotation.segmentation for annotation in annotations]
    rings = [ring for shape in shapes if not isinstance(shape, str) for ring in shape]
    limit = np.asarray([image.width, image.height]) + check_masks.OUTSIDE
    inside = all((ring >= -check_masks.OUTSIDE).all() and (ring <= limit).all() for ring in rings)
    return inside and (image.size == listed.size or not any(isinstance(shape, str) for shape in shapes))


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
