"""Where the parts of a data set lie: found in the layouts people have, and written in ours.

Ours is the reference's: ``annotations/instance_train.json``, ``annotations/instance_val.json``, ``images/``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from maskline.data.dataset import Dataset, Id, ImageRecord
from maskline.errors import DatasetError, OutputError

SPLITS = ("train", "val", "test")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``target`` when all went well; if not, nothing of it stays.

    Raises:
        OutputError: ``target`` is there already and not an empty folder, or can't be written.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise OutputError(f"{target} is there already: name a new or an empty folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
            folder = Path(temporary) / "new"
            folder.mkdir()
            yield folder
            if target.exists():
                target.rmdir()
            folder.replace(target)
    except OSError as error:
        if isinstance(error, (OutputError, DatasetError)):
            raise
        raise OutputError(f"{target} can't be written: {error.strerror or error}") from error


def copy_images(dataset: Dataset, folder: Path, names: Mapping[Id, str] | None = None) -> Dataset:
    """Copy a split's pictures.

    Args:
        folder: where to; sub-folders are made as the names say.
        names: new names by image id, with forward slashes; None keeps the names.

    Returns:
        The same data set, with the images where they now are.

    Raises:
        DatasetError: a picture is missing or can't be read.
        OSError: the copy can't be written.
    """
    moved = []
    for image in dataset.images:
        name = image.file_name if names is None else names[image.id]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        source = dataset.path(image)
        if not os.access(source, os.R_OK) or not source.is_file():
            raise DatasetError(f"image {source} is missing or can't be read: `maskline check` tells all that are")
        shutil.copyfile(source, folder / name)
        moved.append(replace(image, file_name=name))
    return replace(dataset, folder=folder, images=tuple(moved))


def unique_names(splits: Mapping[str, Dataset], *, flat: bool = False) -> dict[str, dict[Id, str]]:
    """Names under which the pictures of all splits can lie in one folder: by split, by image id.

    Args:
        flat: without sub-folders, and no two alike but for their suffix, as formats need that go by the bare name.
    """
    taken: dict[str, Path] = {}
    found: dict[str, dict[Id, str]] = {}
    for split, dataset in splits.items():
        found[split] = {
            image.id: _free_name(dataset.path(image), image, split, taken, flat) for image in dataset.images
        }
    return found


def _free_name(path: Path, image: ImageRecord, split: str, taken: dict[str, Path], flat: bool) -> str:
    own = image.file_name.replace("/", "_") if flat else image.file_name
    stem, suffix = str(PurePosixPath(own).with_suffix("")), PurePosixPath(own).suffix
    prefixed = f"{split}_{stem}" if flat else f"{split}/{stem}"
    numbered = (f"{prefixed}_{number}" for number in range(2, len(taken) + 3))
    for name in (stem, prefixed, *numbered):
        key = (name if flat else name + suffix).casefold()
        if taken.setdefault(key, path) == path:
            return name + suffix
    raise AssertionError("there are more names than pictures")
