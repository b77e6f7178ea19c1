"""Convert data sets between formats, with COCO as the hub."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from maskline._checks import check_path
from maskline._files import AnyPath, new_folder
from maskline._progress import status
from maskline.data import crowds, reading
from maskline.data.categories import unify_categories
from maskline.data.dataset import Dataset
from maskline.data.faults import Fault, Reading, ordered
from maskline.data.file_tree import UNSPLIT
from maskline.data.formats import writable_formats
from maskline.data.formats.coco.layout import paddlex_name
from maskline.data.image_files import bring_in, is_available
from maskline.data.options import Crowd, SplitConfig
from maskline.data.reading import WritableFormat
from maskline.data.split import merge, split_dataset, write_in_place
from maskline.errors import DatasetError, UnknownNameError


@dataclass(frozen=True, slots=True)
class Converted:
    """Result of a conversion.

    Attributes:
        source_format: its key in `FORMATS`.
        splits: as written.
        faults: of the source; what could not be read is not in ``splits``.
        notes: what the new format can't hold, and what was done on request.
    """

    source_format: str
    splits: dict[str, Dataset]
    faults: list[Fault]
    notes: list[str]


def writer_of(name: str) -> WritableFormat:
    """The module of a writable format. Raises UnknownNameError."""
    if name.lower() not in (writable := writable_formats()):
        raise UnknownNameError.of("format", name, writable, "to write")
    return cast("WritableFormat", reading.format_module(name))


def convert(
    source: AnyPath,
    target: AnyPath,
    to: str,
    from_: str | None = None,
    *,
    images: AnyPath | None = None,
    skip_errors: bool = False,
    crowd: Crowd | None = None,
) -> Converted:
    """Convert a data set and copy its images. The source is not modified.

    Args:
        source: the folder, or the annotation file.
        target: a new folder, complete or not there at all afterwards.
        to, from_: keys of `FORMATS`; None recognizes the format.
        images: the folder with the images, if they are not below ``source``.
        skip_errors: leave out what can't be read, instead of raising.
        crowd: how to read crowd regions; None raises if they seem to be single objects.

    Raises:
        UnknownNameError: unknown format, or one that can't be written.
        DatasetError: the source has errors (without ``skip_errors``), no images are left, or the format can't hold
            them.
        OutputError: the target exists or can't be written.
    """
    writer = writer_of(to)
    with status(f"reading {source}"):
        found = reading.read_dataset(source, from_, images, crowd)
    if crowd is None:
        found = replace(found, faults=[*found.faults, *crowds.faults(found.splits)])
    reading.refuse_files(found)
    if skip_errors:
        found = without_missing(found)
    else:
        reading.refuse_errors(found, "--skip-errors leaves them out")
    splits = unify_categories(found.splits)
    if not any(dataset.images for dataset in splits.values()):
        why = f", the first error: {found.errors[0].file}: {found.errors[0].what}" if found.errors else ""
        raise DatasetError(f"no image of {source} could be used{why}")
    with new_folder(target, source) as folder:
        notes = writer.write(splits, folder)
    return Converted(found.format, splits, ordered(found.faults), [*found.notes, *notes])


def without_missing(found: Reading) -> Reading:
    """Leave out images whose files do not exist, with a fault each."""
    splits, faults = {}, list(found.faults)
    for split, dataset in found.splits.items():
        available = [image for image in dataset.images if is_available(dataset, image)]
        splits[split] = dataset.select(available)
        known = {fault.image_id for fault in faults if fault.code == "image-missing" and fault.split == split}
        for image in dataset.images:
            if not is_available(dataset, image) and image.id not in known:
                what = f"there is no file {dataset.folder.name}/{image.file_name}"
                lost = len(dataset.of(image))
                faults.append(Fault("image-missing", split, image.file_name, what, image.id, lost=lost))
    return replace(found, splits=splits, faults=faults)


def convert_in_place(root: AnyPath, from_: str, seed: int = 0) -> dict[str, Dataset]:
    """Write COCO annotations, with PaddleX's file names, into a data set of another format.

    Existing annotation files become ``.bak``, ``.bak2`` and so on. Images below ``images`` stay in place, others are
    copied there. Without a ``val`` split the data set is split at random, with `SplitConfig`'s defaults.

    Raises:
        UnknownNameError: unknown format.
        DatasetError: the source has errors; nothing has changed then.
    """
    root = check_path(root, "root")
    found = reading.read_dataset(root, from_)
    reading.refuse_errors(found, "correct them, or leave them out with `maskline convert --skip-errors`")
    splits = bring_in(unify_categories(found.splits), root / "images")
    if "val" not in splits:
        splits |= split_dataset(
            merge({split: d for split, d in splits.items() if split != "test"}), SplitConfig(seed=seed)
        )
    splits = {split: dataset for split, dataset in splits.items() if split != UNSPLIT}
    write_in_place(splits, {split: root / paddlex_name(split) for split in splits})
    return splits
