"""A corrected copy of a data set; the original is not touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from maskline._files import new_folder, replace_file
from maskline._wording import counted
from maskline.data import scale
from maskline.data.check.sizes import Shown, of_sizes
from maskline.data.dataset import Annotation, Dataset, Id, ImageRecord
from maskline.data.faults import Count, Fault, Reading
from maskline.data.formats.coco.layout import write_annotations
from maskline.data.image_files import place_images
from maskline.data.merge import unify_categories
from maskline.data.shapes import clip, crop, from_mask
from maskline.data.sources import orientation_of
from maskline.data.texts import dump, encode
from maskline.data.tree import SPLITS
from maskline.inputs import can_be_set, read_image, set_upright

LOG = "fixes.json"


class Done(NamedTuple):
    """What was done about a fault, and how: fixed with all data kept, left out with its data, or left to the user."""

    outcome: Literal["fixed", "left out", "left"]
    how: str


@dataclass(frozen=True)
class Fixed:
    """What `fix` did.

    Attributes:
        done: for each fault, in their order.
        counts: by split, what the original has and what the copy has.
        notes: what was done because it was asked for.
    """

    faults: Sequence[Fault]
    done: Sequence[Done]
    counts: Mapping[str, tuple[Count, Count]]
    notes: Sequence[str] = ()

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
            "notes": list(self.notes),
            "faults": [fault.as_dict() | {"outcome": done.outcome, "done": done.how} for fault, done in faults],
        }


def fix(reading: Reading, target: Path, source: Path | None = None) -> Fixed:
    """Write a copy in our layout without any fault that has a ``fix`` in `KINDS`, and a list of what was done.

    Args:
        reading: from `maskline.data.check.run.check`.
        target: a new folder; `fixes.json` in it tells for each fault what was done, and how much each split has.
        source: the folder of the original; the new one may not lie inside.

    Raises:
        OutputError: the folder is there already, or can't be written; nothing is left of it then.
    """
    splits = {split: _fixed(dataset, reading.faults) for split, dataset in reading.splits.items()}
    unclear = {(fault.split, fault.image_id) for fault in reading.faults if fault.code == "image-rotation"}
    done = [_done(fault, reading.splits, splits, unclear) for fault in reading.faults]
    counts = {s: (reading.count(s), Count(len(new.images), len(new.annotations))) for s, new in splits.items()}
    result = Fixed(reading.faults, done, counts, reading.notes)
    with new_folder(target, source) as folder:
        placed = place_images(unify_categories(splits), folder / "images")
        for dataset in placed.values():
            turned = {fault.image_id for fault in _of(dataset, reading.faults) if fault.code == "image-turned"}
            for image in dataset.images:
                if image.id in turned:
                    with dataset.path(image).open("r+b") as file:
                        set_upright(file)
        write_annotations(placed, folder)
        data = encode(dump(result.as_dict(), indent=1))
        replace_file(folder / LOG, lambda file: file.write_bytes(data))
    return result


def _of(dataset: Dataset, faults: Sequence[Fault]) -> list[Fault]:
    return [fault for fault in faults if fault.split == dataset.split]


def _fixed(dataset: Dataset, faults: Sequence[Fault]) -> Dataset:
    """A split without what can't be used, and with annotations mended; its images are still the old ones."""
    own = _of(dataset, faults)
    dataset = scale.in_pixels(dataset)
    unusable = {image.id for image in _unusable(dataset, own)}
    dropped = unusable | _leaked(dataset, faults)
    misfits = _with(dataset, own, "image-size", "image-turned", "image-rotation")
    drawn = _as_drawn(dataset, [image for image in misfits if image.id not in unusable])
    dropped |= {key for key, image in drawn.items() if image is None}
    unclear = {image.id for image in _with(dataset, own, "image-rotation")}
    images = [drawn.get(image.id) or image for image in dataset.images if image.id not in dropped]
    kept = replace(dataset, images=images)
    codes: dict[Id | None, set[str]] = {}
    for fault in own:
        codes.setdefault(fault.annotation_id, set()).add(fault.code)
    annotations: list[Annotation] = []
    for image in images:
        if image.id in unclear:  # what was told of its masks may have been told of another frame
            annotations += kept.of(image)
            continue
        mended = (_mended(annotation, image, codes.get(annotation.id, set())) for annotation in kept.of(image))
        annotations += [annotation for annotation in mended if annotation is not None]
    return replace(kept, annotations=annotations)


def _with(dataset: Dataset, faults: Sequence[Fault], *codes: str) -> list[ImageRecord]:
    """The images that have a fault of these kinds."""
    found = {fault.image_id for fault in faults if fault.code in codes}
    return [image for image in dataset.images if image.id in found]


def _as_drawn(dataset: Dataset, images: Iterable[ImageRecord]) -> dict[Id, ImageRecord | None]:
    """Those of images that are not of the size listed, by id; see `Finding.drawn`."""
    paths = ((image, dataset.path(image)) for image in images)
    found = [Shown(image, read_image(path).shape[:2], orientation_of(path)) for image, path in paths]
    return {finding.image.id: finding.drawn for finding in of_sizes(dataset, found)}


def _unusable(dataset: Dataset, faults: Sequence[Fault]) -> list[ImageRecord]:
    """The images whose files can't be used."""

    def stays_turned(image: ImageRecord) -> bool:
        with dataset.path(image).open("rb") as file:
            return not can_be_set(file)

    turned = _with(dataset, faults, "image-turned")
    return [*_with(dataset, faults, "image-missing", "image-unreadable"), *filter(stays_turned, turned)]


def _leaked(dataset: Dataset, faults: Sequence[Fault]) -> set[Id]:
    """The images of a split that are also in one for evaluation and stay there; none if that would leave no other."""
    ids = {image.file_name: image.id for image in dataset.images}
    leaked = {ids[name] for split, name in map(_leak, faults) if split == dataset.split}
    return leaked if len(leaked) < len(ids) else set()


def _leak(fault: Fault) -> tuple[str, str]:
    """The split and the name of the image that a leak can do without; nothing for other faults."""
    if fault.code != "leak":
        return "", ""
    rank = {split: place for place, split in enumerate(SPLITS)}
    pairs = ((fault.split, fault.file), *fault.others)
    return min(pairs, key=lambda pair: rank.get(pair[0], -1))


# ---- what was done


_OF_MASKS = ("polygon-crossing", "mask-empty", "mask-outside", "box-mismatch", "area-mismatch", "annotation-twice")


def _done(
    fault: Fault,
    before: Mapping[str, Dataset],
    after: Mapping[str, Dataset],
    unclear: Set[tuple[str, Id | None]],
) -> Done:
    """What became of a fault, as the data sets before and after show it.

    Args:
        unclear: splits and ids of images of which it is not known on which size their masks were drawn.
    """
    if (fault.split, fault.image_id) in unclear and fault.code in ("image-rotation", *_OF_MASKS):
        return Done("left", "left as it is: the masks do not show on which size they were drawn")
    if fault.kind.fix is None:
        return Done("left", "nothing")
    if fault.code == "polygon-unit" and scale.unit_of(before[fault.split]) is None:
        return Done("left", "nothing: only some of the polygons are so")
    split, name = _leak(fault) if fault.code == "leak" else (fault.split, fault.file)
    old, new = before.get(split), after.get(split)
    if old is None or new is None:
        return Done("left out" if fault.kind.loses else "fixed", fault.kind.fix)
    key = next((i.id for i in old.images if i.file_name == name), None) if fault.code == "leak" else fault.image_id
    if key is not None and key not in old.by_id:
        return Done("left out", "the image is left out with its annotations")
    if fault.code == "leak" and key in new.by_id:
        return Done("left", f"nothing: {split} would have no other images")
    if key is not None and key not in new.by_id:
        image = old.by_id[key]
        told = f"image {image.file_name} of {split} is left out with its {counted(len(old.of(image)), 'annotation')}"
        return Done("left out", told)
    if fault.annotation_id is not None and fault.annotation_id not in new.annotation_ids:
        return Done("left out", "the annotation is left out")
    if fault.code == "image-size" and key is not None:
        return Done("fixed", f"width and height are now {new.by_id[key].width} and {new.by_id[key].height}")
    if fault.code == "image-turned":
        return Done("fixed", "the orientation in the copied file is 1")
    return Done("left out" if fault.kind.loses else "fixed", fault.kind.fix)


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
