"""COCO's layouts: which JSON files of a folder form the data set, and which split each of them is.

Supported are PaddleX's (``annotations/instance_train.json`` and ``images/``), COCO's own (``instances_train2017.json``
and ``train2017/``), a folder per split with its JSON inside, a single file for an unsplit set, and those of CVAT,
Datumaro, FiftyOne, Label Studio and Roboflow, which differ in folder names only.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from maskline._wording import counted
from maskline.data.accounting import unread_code
from maskline.data.dataset import Dataset
from maskline.data.faults import Count, Fault, Reading
from maskline.data.file_kinds import OTHER_COCO
from maskline.data.file_tree import SPLITS, UNSPLIT, key_of, split_of
from maskline.data.formats.coco import coco_json, values
from maskline.data.image_files import place_images
from maskline.data.source import Source
from maskline.errors import DatasetError, DatasetNotFoundError

TITLE = "COCO"

_NAMED_SO = re.compile(r"instances?(_\w+)?")


def annotation_name(split: str, source: Path | None = None) -> str:
    """The annotation file of a split in our layout, relative to the root.

    Args:
        source: the original file; if that has PaddleX's name, the result has too, otherwise COCO's.
    """
    if source is not None and source.name.startswith("instance_"):
        return paddlex_name(split)
    return f"annotations/instances_{split}.json"


def paddlex_name(split: str) -> str:
    """The annotation file of a split in PaddleX's layout, relative to the root."""
    return f"annotations/instance_{split}.json"


def write(splits: Mapping[str, Dataset], folder: Path) -> list[str]:
    """Write a data set in our layout into an empty folder and copy its images. Nothing is lost, so no notes."""
    for split, dataset in place_images(splits, folder / "images").items():
        coco_json.write(dataset, folder / annotation_name(split))
    return []


def write_annotations(splits: Mapping[str, Dataset], root: Path) -> None:
    """Write the annotation files of our layout, named after the originals (`annotation_name`)."""
    for split, dataset in splits.items():
        coco_json.write(dataset, root / annotation_name(split, dataset.source))


def detect(source: Source) -> list[str]:
    """All COCO files below a folder, including those that are not the data set itself."""
    return source.of_kind("coco") or source.of_kind(OTHER_COCO)


def find_annotation_files(source: Source) -> dict[str, str]:
    """The annotation file of each split, in the order train, val, test; or one for ``all``.

    Among several folders with annotation files, the outermost wins; among several files for a split, the one named
    ``instance_...`` or ``instances_...``, otherwise the one with the most instances.

    Raises:
        DatasetNotFoundError: there is no annotation file.
    """
    homes: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in dict.fromkeys(detect(source) + _in_our_layout(source)):
        homes[_home(path)][_split(path)].append(path)
    if not homes:
        raise DatasetNotFoundError(
            f"no annotations in {source.given}: expected {annotation_name('train')} and "
            f"{annotation_name('val')}, or another data set that `maskline convert` reads"
        )
    depth = min(map(_depth, homes))
    found = [
        {split: _best(source, files) for split, files in splits.items()}
        for home, splits in sorted(homes.items())
        if _depth(home) == depth
    ]
    chosen = found[0]
    if len(found) > 1:
        chosen = max(found, key=lambda files: sum(_instances(source, path) for path in files.values()))
    if len(chosen) > 1:
        chosen.pop(UNSPLIT, None)
    return {split: chosen[split] for split in (*SPLITS, UNSPLIT) if split in chosen}


def read(source: Source) -> Reading:
    """Read all splits. Unreadable files and files that were not chosen are faults.

    Raises:
        DatasetError: as `find_annotation_files`; or none of the files can be read.
    """
    splits, faults, listed, unread = dict[str, Dataset](), list[Fault](), dict[str, Count](), list[DatasetError]()
    files = find_annotation_files(source)
    for split, path in files.items():
        try:
            locate = partial(source.locate, split=split, near=_home(path))
            splits[split], found, listed[split] = coco_json.read(source.root / path, locate, split)
        except DatasetError as error:
            unread.append(error)
            found = [Fault("file", split, PurePosixPath(path).name, str(error))]
        faults += found
    if unread and not splits:
        raise unread[0]
    others = [path for path in detect(source) if path not in files.values()]
    others += [path for path in source.of_kind(OTHER_COCO) if _split(path) not in files and path not in others]
    faults += _not_chosen(source, others, splits)
    return Reading(splits, faults, listed, files=tuple(files.values()))


# ---- finding


def _in_our_layout(source: Source) -> list[str]:
    """Existing paths with the names of our annotation files, even if they are not files."""
    names = (name(split) for split in SPLITS for name in (paddlex_name, annotation_name))
    return [] if source.file is not None else [name for name in names if (source.root / name).exists()]


def _home(path: str) -> str:
    """The data set folder that a file belongs to, with a trailing slash unless empty."""
    parts = list(PurePosixPath(path).parent.parts)
    while parts and (key_of(parts[-1]) == "annotations" or split_of(parts[-1]) is not None):
        parts.pop()
    return "".join(f"{part}/" for part in parts)


def _split(path: str) -> str:
    parts = (PurePosixPath(path).stem, *reversed(PurePosixPath(path).parent.parts))
    return next((split for part in parts if (split := split_of(part)) is not None), UNSPLIT)


def _depth(home: str) -> int:
    return home.count("/")


class _Summary(NamedTuple):
    """Numbers of annotations in a file; ``images`` counts those with masks by image name."""

    instances: int
    without_mask: int
    images: Counter[str]


def _best(source: Source, files: Sequence[str]) -> str:
    """The file to read among several for a split."""
    if len(files) == 1:
        return files[0]

    def named(path: str) -> tuple[bool, bool]:
        return path.endswith(paddlex_name(_split(path))), bool(_NAMED_SO.fullmatch(PurePosixPath(path).stem))

    named_best = [path for path in files if named(path) == max(map(named, files))]
    if len(named_best) == 1:
        return named_best[0]
    return max(named_best, key=lambda path: _instances(source, path))


def _instances(source: Source, path: str) -> int:
    """The number of instances in a file; 0 if it can't be read."""
    try:
        return _summary(source, path).instances
    except DatasetError:
        return 0


def _summary(source: Source, path: str) -> _Summary:
    """Count the annotations of a file without checking them. Raises DatasetError."""
    content = values.parse_json(source.root / path)
    images, annotations = content.get("images"), content.get("annotations")
    names = {
        values.id_of(image, "id"): coco_json.file_name(image) for image in (images if isinstance(images, list) else [])
    }
    records = annotations if isinstance(annotations, list) else []
    masks = [record for record in records if values.value_of(record, "segmentation")]
    found = Counter(names.get(values.id_of(record, "image_id")) or "" for record in masks)
    return _Summary(len(masks), len(records) - len(masks), found)


def _not_chosen(source: Source, files: Sequence[str], splits: dict[str, Dataset]) -> list[Fault]:
    faults = []
    for path in files:
        try:
            summary = _summary(source, path)
        except DatasetError as error:
            faults.append(Fault("file", _split(path), path, str(error)))
            continue
        located = source.locate(summary.images, _split(path), _home(path))
        images = [located.folder / located.paths.get(name, name) for name in summary.images]
        what = f"{counted(summary.instances, 'instance')} in {counted(len(images), 'image')}"
        if summary.without_mask:
            what += f", and {counted(summary.without_mask, 'annotation')} without mask"
        if summary.instances or summary.without_mask:
            code = unread_code(images, splits.values())
            lost = summary.instances + summary.without_mask if code == "file-unread" else 0
            faults.append(Fault(code, _split(path), path, what, lost=lost))
    return faults
