"""Write a corrected copy of a data set; the original is not modified."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from maskline._files import AnyPath, new_folder, replace_file
from maskline._wording import counted
from maskline.data import units
from maskline.data.categories import unify_categories
from maskline.data.check.sizes import ActualSize, size_findings
from maskline.data.dataset import Annotation, Dataset, Id, ImageRecord
from maskline.data.faults import Count, Fault, Reading
from maskline.data.file_tree import SPLITS
from maskline.data.formats.coco.layout import write_annotations
from maskline.data.image_files import place_images
from maskline.data.image_headers import orientation_of
from maskline.data.safe_json import dump_json, encode_json
from maskline.data.shapes import clip, crop, from_mask
from maskline.inputs import can_be_set, read_image, set_upright

LOG = "fixes.json"


class FixOutcome(NamedTuple):
    """What was done about a fault: fixed with all data kept, left out with its data, or left to the user."""

    outcome: Literal["fixed", "left out", "left"]
    how: str


@dataclass(frozen=True)
class FixResult:
    """Result of `fix`.

    Attributes:
        done: for each fault, in the same order.
        counts: by split, the counts of the original and of the copy.
        notes: what was done on request.
    """

    faults: Sequence[Fault]
    done: Sequence[FixOutcome]
    counts: Mapping[str, tuple[Count, Count]]
    notes: Sequence[str] = ()

    def number(self, outcome: str) -> int:
        """The number of faults with this outcome."""
        return sum(done.outcome == outcome for done in self.done)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-serializable values."""
        faults = zip(self.faults, self.done, strict=True)
        return {
            "splits": {
                split: {"original": before._asdict(), "copy": after._asdict()}
                for split, (before, after) in self.counts.items()
            },
            "notes": list(self.notes),
            "faults": [fault.as_dict() | {"outcome": done.outcome, "done": done.how} for fault, done in faults],
        }


def fix(reading: Reading, target: AnyPath, source: AnyPath | None = None) -> FixResult:
    """Write a copy in our layout with every fault corrected that has a ``fix`` in `KINDS`, and a log of the changes.

    Args:
        reading: from `maskline.data.check.run.check`.
        target: a new folder; its ``fixes.json`` lists what was done about each fault, and the counts of each split.
        source: the folder of the original, which must not contain ``target``.

    Raises:
        OutputError: the folder already exists or can't be written; nothing of it remains then.
    """
    splits = {split: _fixed(dataset, reading.faults) for split, dataset in reading.splits.items()}
    unclear = {(fault.split, fault.image_id) for fault in reading.faults if fault.code == "image-rotation"}
    done = [_outcome(fault, reading.splits, splits, unclear) for fault in reading.faults]
    counts = {s: (reading.count(s), Count(len(new.images), len(new.annotations))) for s, new in splits.items()}
    result = FixResult(reading.faults, done, counts, reading.notes)
    with new_folder(target, source) as folder:
        placed = place_images(unify_categories(splits), folder / "images")
        for dataset in placed.values():
            turned = {fault.image_id for fault in _of(dataset, reading.faults) if fault.code == "image-turned"}
            for image in dataset.images:
                if image.id in turned:
                    with dataset.path(image).open("r+b") as file:
                        set_upright(file)
        write_annotations(placed, folder)
        data = encode_json(dump_json(result.as_dict(), indent=1))
        replace_file(folder / LOG, lambda file: file.write_bytes(data))
    return result


def _of(dataset: Dataset, faults: Sequence[Fault]) -> list[Fault]:
    return [fault for fault in faults if fault.split == dataset.split]


def _fixed(dataset: Dataset, faults: Sequence[Fault]) -> Dataset:
    """A split with annotations fixed and unusable records left out; it still refers to the original image files."""
    own = _of(dataset, faults)
    dataset = units.in_pixels(dataset)
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
        if image.id in unclear:  # faults of its masks may refer to the wrong size
            annotations += kept.of(image)
            continue
        repaired = (_repaired(annotation, image, codes.get(annotation.id, set())) for annotation in kept.of(image))
        annotations += [annotation for annotation in repaired if annotation is not None]
    return replace(kept, annotations=annotations)


def _with(dataset: Dataset, faults: Sequence[Fault], *codes: str) -> list[ImageRecord]:
    """The images with a fault of these codes."""
    found = {fault.image_id for fault in faults if fault.code in codes}
    return [image for image in dataset.images if image.id in found]


def _as_drawn(dataset: Dataset, images: Iterable[ImageRecord]) -> dict[Id, ImageRecord | None]:
    """`SizeFinding.drawn` of each image whose size differs from the record, by id."""
    paths = ((image, dataset.path(image)) for image in images)
    found = [ActualSize(image, read_image(path).shape[:2], orientation_of(path)) for image, path in paths]
    return {finding.image.id: finding.drawn for finding in size_findings(dataset, found)}


def _unusable(dataset: Dataset, faults: Sequence[Fault]) -> list[ImageRecord]:
    """The images whose files can't be used or corrected."""

    def stays_turned(image: ImageRecord) -> bool:
        with dataset.path(image).open("rb") as file:
            return not can_be_set(file)

    turned = _with(dataset, faults, "image-turned")
    return [*_with(dataset, faults, "image-missing", "image-unreadable"), *filter(stays_turned, turned)]


def _leaked(dataset: Dataset, faults: Sequence[Fault]) -> set[Id]:
    """The images of a split that are kept in an evaluation split instead; empty if the split would become empty."""
    ids = {image.file_name: image.id for image in dataset.images}
    leaked = {ids[name] for split, name in map(_leak, faults) if split == dataset.split}
    return leaked if len(leaked) < len(ids) else set()


def _leak(fault: Fault) -> tuple[str, str]:
    """The split and file name of the image to drop for a leak; empty strings for other faults."""
    if fault.code != "leak":
        return "", ""
    rank = {split: place for place, split in enumerate(SPLITS)}
    pairs = ((fault.split, fault.file), *fault.others)
    return min(pairs, key=lambda pair: rank.get(pair[0], -1))


# ---- outcomes


_OF_MASKS = ("polygon-crossing", "mask-empty", "mask-outside", "box-mismatch", "area-mismatch", "annotation-twice")


def _outcome(
    fault: Fault,
    before: Mapping[str, Dataset],
    after: Mapping[str, Dataset],
    unclear: Set[tuple[str, Id | None]],
) -> FixOutcome:
    """The outcome of a fault, from the data sets before and after.

    Args:
        unclear: ``(split, id)`` of images for which it is unknown what size their masks were drawn on.
    """
    if (fault.split, fault.image_id) in unclear and fault.code in ("image-rotation", *_OF_MASKS):
        return FixOutcome("left", "left as it is: the masks do not show which size they were drawn on")
    if fault.kind.fix is None:
        return FixOutcome("left", "nothing")
    if fault.code == "polygon-unit" and units.unit_of(before[fault.split]) is None:
        return FixOutcome("left", "nothing: only some of the polygons are affected")
    split, name = _leak(fault) if fault.code == "leak" else (fault.split, fault.file)
    old, new = before.get(split), after.get(split)
    if old is None or new is None:
        return FixOutcome("left out" if fault.kind.loses else "fixed", fault.kind.fix)
    key = next((i.id for i in old.images if i.file_name == name), None) if fault.code == "leak" else fault.image_id
    if key is not None and key not in old.by_id:
        return FixOutcome("left out", "the image is left out with its annotations")
    if fault.code == "leak" and key in new.by_id:
        return FixOutcome("left", f"nothing: {split} would have no other images")
    if key is not None and key not in new.by_id:
        image = old.by_id[key]
        how = f"image {image.file_name} of {split} is left out with its {counted(len(old.of(image)), 'annotation')}"
        return FixOutcome("left out", how)
    if fault.annotation_id is not None and fault.annotation_id not in new.annotation_ids:
        return FixOutcome("left out", "the annotation is left out")
    if fault.code == "image-size" and key is not None:
        return FixOutcome("fixed", f"width and height are now {new.by_id[key].width} and {new.by_id[key].height}")
    if fault.code == "image-turned":
        return FixOutcome("fixed", "the orientation in the copied file is 1")
    return FixOutcome("left out" if fault.kind.loses else "fixed", fault.kind.fix)


# ---- annotations


def _repaired(annotation: Annotation, image: ImageRecord, codes: set[str]) -> Annotation | None:
    """An annotation with its faults fixed; None if it is left out."""
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
