"""Copy the images of a data set under unique names."""

from __future__ import annotations

import filecmp
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import chain, count
from pathlib import Path, PurePosixPath

from maskline._files import NAME_BYTES, cut_name, replace_file
from maskline._progress import track
from maskline._wording import counted, short
from maskline.data.dataset import Dataset, Id, ImageRecord
from maskline.data.file_access import is_file
from maskline.data.image_headers import embedded_image
from maskline.errors import DatasetError

_LONGEST_SUFFIX = ".json"  # of files named after an image

logger = logging.getLogger("maskline")


def copy_images(dataset: Dataset, folder: Path, names: Mapping[Id, str] | None = None) -> Dataset:
    """Copy a split's images.

    Args:
        folder: destination; sub-folders in names are created.
        names: new names by image id, with forward slashes; None keeps the names.

    Returns:
        The data set with the new image paths.

    Raises:
        DatasetError: an image is missing or can't be read.
        OSError: the copy can't be written.
    """
    moved = []
    for image in track(dataset.images, f"copying images of {dataset.split}", len(dataset.images)):
        name = image.file_name if names is None else names[image.id]
        copy = _copy(dataset, image)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy(folder / name)
        moved.append(replace(image, file_name=name, embedded=None))
    return replace(dataset, folder=folder, images=tuple(moved))


def is_available(dataset: Dataset, image: ImageRecord) -> bool:
    """Whether an image has a file or is embedded in its annotation file."""
    return image.embedded is not None or is_file(dataset.path(image))


def _copy(dataset: Dataset, image: ImageRecord) -> Callable[[Path], object]:
    """A function that writes an image to a path. Raises DatasetError if the image is missing."""
    if image.embedded is None:
        return partial(shutil.copyfile, _readable(dataset.path(image)))
    data = embedded_image(image.embedded)
    return lambda path: path.write_bytes(data)


def _readable(path: Path) -> Path:
    if not is_file(path) or not os.access(path, os.R_OK):
        raise DatasetError(f"image {path} is missing or can't be read: `maskline check` lists them")
    return path


def bring_in(splits: Mapping[str, Dataset], folder: Path) -> dict[str, Dataset]:
    """Bring all images into a folder, which may exist and already contain some of them or copies.

    Images below the folder stay in place. Others are copied unless an identical copy exists, under their own names if
    those are free. If one can't be copied, all copies are removed.

    Returns:
        The data sets with file names relative to the folder.

    Raises:
        DatasetError: an image is missing or can't be read.
        OutputError: a copy can't be written.
    """
    folder = _absolute(folder)
    names = {split: _names_within(dataset, folder) for split, dataset in splits.items()}
    taken = {name.casefold(): folder / name for found in names.values() for name in found.values()}
    copies: dict[Path, Callable[[Path], object]] = {}
    for split, dataset in splits.items():
        for image in dataset.images:
            if image.id not in names[split]:
                path = _absolute(dataset.path(image))
                name = _free_name(path, image, split, taken, fits=partial(_fits, folder, path))
                names[split][image.id] = name
            elif image.embedded is None:
                continue
            if not (new := folder / names[split][image.id]).exists():
                copies[new] = _copy(dataset, image)
    _copy_all(copies, folder)
    return {
        split: replace(
            dataset,
            folder=folder,
            images=tuple(replace(image, file_name=names[split][image.id], embedded=None) for image in dataset.images),
        )
        for split, dataset in splits.items()
    }


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (links stay)


def _names_within(dataset: Dataset, folder: Path) -> dict[Id, str]:
    """Names of images below a folder, relative to it, by image id."""
    paths = {image.id: _absolute(dataset.path(image)) for image in dataset.images}
    return {key: path.relative_to(folder).as_posix() for key, path in paths.items() if path.is_relative_to(folder)}


def _fits(folder: Path, path: Path, name: str) -> bool:
    """Whether a name in a folder is free, or already that of an identical image."""
    target = folder / name
    return not target.exists() or (target.is_file() and is_file(path) and filecmp.cmp(target, path, shallow=False))


def _copy_all(copies: Mapping[Path, Callable[[Path], object]], folder: Path) -> None:
    """Copy images to their new paths below a folder; all or none."""
    with ExitStack() as undo:
        if not folder.exists():
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
        for new, copy in copies.items():
            undo.callback(new.unlink, missing_ok=True)
            replace_file(new, copy)
        undo.pop_all()


def place_images(splits: Mapping[str, Dataset], folder: Path) -> dict[str, Dataset]:
    """Copy the images of all splits to one folder, under their own names if those are free."""
    names = unique_names(splits)
    return {split: copy_images(dataset, folder, names[split]) for split, dataset in splits.items()}


def unique_names(splits: Mapping[str, Dataset], *, flat: bool = False) -> dict[str, dict[Id, str]]:
    """Unique names for the images of all splits in one folder: by split, by image id.

    Names too long for the suffix of an annotation file are truncated, with a warning.

    Args:
        flat: without sub-folders and with unique stems, for formats that identify images by stem.
    """
    taken: dict[str, Path] = {}
    found: dict[str, dict[Id, str]] = {}
    long: list[str] = []
    for split, dataset in splits.items():
        found[split] = {
            image.id: _free_name(dataset.path(image), image, split, taken, flat=flat) for image in dataset.images
        }
        parts = ((image.file_name, *_parts(image, flat=flat)) for image in dataset.images)
        long += [name for name, stem, suffix in parts if _cut(stem, suffix) != stem]
    if long:
        which = counted(len(long), "image name is", "image names are")
        logger.warning("%s too long for a data set's files and truncated; the first: %s", which, short(long[0]))
    return found


def _free_name(
    path: Path,
    image: ImageRecord,
    split: str,
    taken: dict[str, Path],
    *,
    flat: bool = False,
    fits: Callable[[str], bool] = lambda _: True,
) -> str:
    """A name that no other image has and that ``fits`` accepts."""
    stem, suffix = _parts(image, flat=flat)
    prefixed = f"{split}_{stem}" if flat else f"{split}/{stem}"
    numbered = (_cut(prefixed, suffix, f"_{number}") for number in count(2))
    for name in chain((_cut(stem, suffix), _cut(prefixed, suffix)), numbered):
        key = (name if flat else name + suffix).casefold()
        if taken.get(key, path) == path and fits(name + suffix):
            taken[key] = path
            return name + suffix
    raise AssertionError("no name is free")


def _parts(image: ImageRecord, *, flat: bool) -> tuple[str, str]:
    """The name of an image without its suffix, and the suffix."""
    own = PurePosixPath(image.file_name.replace("/", "_") if flat else image.file_name)
    return str(own.with_suffix("")), own.suffix


def _cut(stem: str, suffix: str, ending: str = "") -> str:
    """A stem with an ending, truncated so that the image and files named after it can have the name."""
    folder, slash, name = stem.rpartition("/")
    return folder + slash + cut_name(name, ending, NAME_BYTES - max(len(suffix.encode()), len(_LONGEST_SUFFIX)))
