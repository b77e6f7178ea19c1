"""Where the parts of a COCO data set lie: found in the layouts people have, and written in ours.

Ours is ``annotations/instances_train.json``, ``annotations/instances_val.json``, ``images/``, or with PaddleX's names,
``annotations/instance_train.json`` and so on. Found too: COCO's own (``annotations/instances_train2017.json`` beside
``train2017/``), a folder for each split with its JSON in it (``train/_annotations.coco.json``), and a single file for a
set that has not been split.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, count
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from maskline.data import coco
from maskline.data.dataset import Category, Dataset, Id, ImageRecord
from maskline.data.faults import Count, Fault, Reading
from maskline.data.sources import is_file
from maskline.errors import DatasetError, DatasetNotFoundError, OutputError
from maskline.files import replace_file

TITLE = "COCO"
UNSPLIT = "all"
#: How splits are called in the names of files and folders.
SPLIT_WORDS = {"train": r"train(?:ing)?", "val": r"val(?:id(?:ation)?)?", "test": r"test(?:ing)?"}
SPLITS = tuple(SPLIT_WORDS)
OTHER_TASKS = ("captions", "keypoints", "stuff", "panoptic", "image_info")  # COCO's files that are not instances
ERRORS_TOLD = 5
LOOKED_AT = 50  # pictures that tell a folder from another
_NAMED_SO = re.compile(r"instances?_\w+|_annotations\.coco")  # the stems of annotation files of COCO's layouts


def split_of(name: str) -> str | None:
    """The split that a name speaks of: ``instances_val2017`` of ``val``."""
    for split, word in SPLIT_WORDS.items():
        if re.search(rf"(?<![a-z]){word}(?![a-z])", name.lower()):
            return split
    return None


def annotation_name(split: str, source: Path | None = None) -> str:
    """The annotation file of a split in our layout, relative to the root.

    Args:
        source: the file it is made from; if that has PaddleX's name, so has this one. Otherwise it has COCO's.
    """
    if source is not None and source.name.startswith("instance_"):
        return paddlex_name(split)
    return f"annotations/instances_{split}.json"


def paddlex_name(split: str) -> str:
    """The annotation file of a split in PaddleX's layout, relative to the root."""
    return f"annotations/instance_{split}.json"


def find(root: Path) -> dict[str, Path]:
    """The annotation files of a data set by split, in the order train, val, test; or one for ``all``.

    Args:
        root: a folder, one of whose sub-folders may be the data set; or the annotation file itself.

    Raises:
        DatasetNotFoundError: there is no such folder, or no annotation file in it.
        DatasetError: several files could be meant.
    """
    if root.is_file():
        return {split_of(root.stem) or UNSPLIT: root}
    if not root.is_dir():
        raise DatasetNotFoundError(f"{root} does not exist: expected the folder of a data set")
    for folder in (root, *_below(root)):
        found = _annotation_files(folder)
        if found:
            return found
    raise DatasetNotFoundError(
        f"no annotations in {root}: expected {annotation_name('train')} and {annotation_name('val')} in COCO's form; "
        "`maskline convert` makes them from other forms"
    )


def detect(root: Path) -> bool:
    """Whether this is a data set in COCO's form."""
    try:
        return any(_looks_like_coco(path) for path in find(root).values())
    except (DatasetError, OSError):
        return False


def read(root: Path) -> Reading:
    """Read all splits of a COCO data set. A file that is no COCO file is a fault, if another one can be read.

    Raises:
        DatasetError: as `find`; or none of the files can be read.
    """
    splits, faults, listed, unread = dict[str, Dataset](), list[Fault](), dict[str, Count](), list[DatasetError]()
    base = root if root.is_dir() else root.parent
    for split, path in find(root).items():
        find_folder = partial(_image_folder, path, split, base)
        try:
            splits[split], found, listed[split] = coco.read(path, find_folder, split)
        except DatasetError as error:
            unread.append(error)
            found = [Fault("file", split, path.name, str(error))]
        faults += found
    if unread and not splits:
        raise unread[0]
    return Reading(splits, faults, listed)


def load(root: Path) -> dict[str, Dataset]:
    """Read a COCO data set that is meant to be right.

    Raises:
        DatasetError: as `read`; or records have errors: the message tells the first of them and how many.
    """
    reading = read(root)
    refuse_errors(reading)
    return reading.splits


def refuse_errors(reading: Reading, remedy: str = "`maskline check` tells all, --fix leaves them out") -> None:
    """Raise DatasetError if something could not be read as it stands, with the first errors and what to do."""
    if errors := reading.errors:
        told = "".join(f"\n  {fault.file}: {fault.what}" for fault in errors[:ERRORS_TOLD])
        more = f"\n  and {len(errors) - ERRORS_TOLD} more" if len(errors) > ERRORS_TOLD else ""
        raise DatasetError(f"{len(errors)} records can't be read; {remedy}:{told}{more}")


def write(splits: Mapping[str, Dataset], folder: Path) -> list[str]:
    """Write a data set in our layout into an empty folder, pictures copied. COCO loses nothing: no notes."""
    for split, dataset in place_images(splits, folder / "images").items():
        coco.write(dataset, folder / annotation_name(split))
    return []


def write_annotations(splits: Mapping[str, Dataset], root: Path) -> None:
    """Write the annotation files of our layout, each named like the one it is made from (`annotation_name`)."""
    for split, dataset in splits.items():
        coco.write(dataset, root / annotation_name(split, dataset.source))


def unify(splits: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """The same data sets with one list of categories: those of the first, then those that others add, by name."""
    categories: dict[str, Category] = {}
    ids: set[Id] = set()
    for category in (category for dataset in splits.values() for category in dataset.categories):
        if category.name not in categories:
            key = category.id if category.id not in ids else _free_id(ids)
            categories[category.name] = replace(category, id=key)
            ids.add(key)
    return {split: _with_categories(dataset, categories) for split, dataset in splits.items()}


def _with_categories(dataset: Dataset, categories: Mapping[str, Category]) -> Dataset:
    new_ids = {category.id: categories[category.name].id for category in dataset.categories}
    annotations = dataset.annotations
    if any(old != new for old, new in new_ids.items()):
        annotations = [replace(a, category_id=new_ids[a.category_id]) for a in annotations]
    return replace(dataset, categories=tuple(categories.values()), annotations=annotations)


def _free_id(taken: Iterable[Id]) -> int:
    return max((key for key in taken if isinstance(key, int)), default=0) + 1


# ---- finding


def _below(root: Path) -> list[Path]:
    """Sub-folders that could be the data set: the parents of ``annotations``, the shortest path first."""
    found = (path.parent for path in root.rglob("annotations") if path.is_dir())
    return sorted(found, key=lambda path: (len(path.parts), path))


def _annotation_files(root: Path) -> dict[str, Path]:
    """The annotation files right here, by split."""
    ours = ((split, root / name) for split in SPLIT_WORDS for name in (annotation_name(split), paddlex_name(split)))
    if there := {split: path for split, path in ours if path.exists()}:  # if it is no file, that is told
        return there
    folders = [root / "annotations", root, *(path for path in _subfolders(root) if split_of(path.name))]
    candidates = [path for folder in folders for path in sorted(folder.glob("*.json")) if _looks_like_coco(path)]
    found: dict[str, Path] = {}
    for path in candidates:
        split = split_of(path.stem) or split_of(path.parent.name) or UNSPLIT
        if split in found:
            raise DatasetError(
                f"{found[split]} and {path} could both be the annotations of {split!r}: name one of them"
            )
        found[split] = path
    if UNSPLIT in found and len(found) > 1:
        del found[UNSPLIT]
    return {split: found[split] for split in (*SPLIT_WORDS, UNSPLIT) if split in found}


def _subfolders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir())


def _looks_like_coco(path: Path) -> bool:
    """By its first bytes; also a file that is named so but damaged, so that it is told."""
    if any(word in path.name for word in OTHER_TASKS):
        return False
    if _NAMED_SO.fullmatch(path.stem):
        return True
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError:
        return False
    return bool(re.search(rb'"(images|annotations|categories|info|licenses)"\s*:', head)) and b'"shapes"' not in head


def _image_folder(path: Path, split: str, root: Path, file_names: Sequence[str]) -> Path:
    """The folder in which most of the first pictures are there; ``images`` beside the annotations if none are."""
    base = path.parent.parent if path.parent.name == "annotations" else path.parent
    names = [name for name in (path.stem, path.parent.name) if split_of(name)]
    own = [folder for folder in _subfolders(base) if any(split_of(n) == split_of(folder.name) for n in names)]
    candidates = [base / "images", base / "images" / split, *own, path.parent, base, root / "images", root]

    def found(folder: Path) -> int:
        return sum(is_file(folder / name) for name in file_names[:LOOKED_AT])

    return max(candidates, key=found)


# ---- writing


@contextmanager
def new_folder(target: Path, source: Path | None = None) -> Iterator[Path]:
    """A folder to fill, which becomes ``target`` when all went well; if not, nothing of it stays.

    Args:
        source: the data set that it is made from, which has to stay as it is.

    Raises:
        OutputError: ``target`` is there already and not an empty folder, lies inside ``source``, or can't be written.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise OutputError(f"{target} is there already: name a new or an empty folder")
    if source is not None and target.resolve().is_relative_to(source.resolve()):
        raise OutputError(f"{target} lies inside {source}, which is not to be changed: name a folder elsewhere")
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


def back_up(path: Path) -> Path | None:
    """Copy a file to ``.bak``, or ``.bak2``, ``.bak3``, ... where that is taken; None if there is no such file."""
    if not path.exists():
        return None
    names = (path.with_name(f"{path.name}.bak{number if number > 1 else ''}") for number in count(1))
    target = next(name for name in names if not name.exists())
    return replace_file(target, lambda temporary: shutil.copy2(path, temporary))


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
        source = _readable(dataset.path(image))
        shutil.copyfile(source, folder / name)
        moved.append(replace(image, file_name=name))
    return replace(dataset, folder=folder, images=tuple(moved))


def _readable(path: Path) -> Path:
    if not is_file(path) or not os.access(path, os.R_OK):
        raise DatasetError(f"image {path} is missing or can't be read: `maskline check` tells all that are")
    return path


def bring_in(splits: Mapping[str, Dataset], folder: Path) -> dict[str, Dataset]:
    """Have all pictures in a folder that may be there already and have some of them in it, or copies of them.

    Those below it stay where they are; of the others those are copied that are not there yet, under their own names
    where no other picture has those. If one can't be copied, nothing stays of the others either.

    Returns:
        The data sets with their file names from the folder.

    Raises:
        DatasetError: a picture is missing or can't be read.
        OutputError: a copy can't be written.
    """
    folder = _absolute(folder)
    names = {split: _names_within(dataset, folder) for split, dataset in splits.items()}
    taken = {name.casefold(): folder / name for found in names.values() for name in found.values()}
    copies: dict[Path, Path] = {}
    for split, dataset in splits.items():
        for image in dataset.images:
            if image.id not in names[split]:
                path = _absolute(dataset.path(image))
                name = _free_name(path, image, split, taken, fits=partial(_fits, folder, path))
                names[split][image.id] = name
                if not (folder / name).exists():
                    copies[folder / name] = _readable(path)
    _copy_all(copies, folder)
    return {
        split: replace(
            dataset,
            folder=folder,
            images=tuple(replace(image, file_name=names[split][image.id]) for image in dataset.images),
        )
        for split, dataset in splits.items()
    }


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (links stay)


def _names_within(dataset: Dataset, folder: Path) -> dict[Id, str]:
    """By image id, the names from a folder of those pictures that lie below it."""
    paths = {image.id: _absolute(dataset.path(image)) for image in dataset.images}
    return {key: path.relative_to(folder).as_posix() for key, path in paths.items() if path.is_relative_to(folder)}


def _fits(folder: Path, path: Path, name: str) -> bool:
    """Whether a picture can have a name in a folder: nothing has it there, or the same picture."""
    there = folder / name
    return not there.exists() or (there.is_file() and is_file(path) and filecmp.cmp(there, path, shallow=False))


def _copy_all(copies: Mapping[Path, Path], folder: Path) -> None:
    """Copy files, each to its new name below a folder; all of them or none."""
    with ExitStack() as undo:
        if not folder.exists():
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
        for new, old in copies.items():
            undo.callback(new.unlink, missing_ok=True)
            replace_file(new, partial(shutil.copyfile, old))
        undo.pop_all()


def place_images(splits: Mapping[str, Dataset], folder: Path) -> dict[str, Dataset]:
    """Copy the pictures of all splits into one folder, under their names where those are not taken by another."""
    names = unique_names(splits)
    return {split: copy_images(dataset, folder, names[split]) for split, dataset in splits.items()}


def unique_names(splits: Mapping[str, Dataset], *, flat: bool = False) -> dict[str, dict[Id, str]]:
    """Names under which the pictures of all splits can lie in one folder: by split, by image id.

    Args:
        flat: without sub-folders, and no two alike but for their suffix, as formats need that go by the bare name.
    """
    taken: dict[str, Path] = {}
    found: dict[str, dict[Id, str]] = {}
    for split, dataset in splits.items():
        found[split] = {
            image.id: _free_name(dataset.path(image), image, split, taken, flat=flat) for image in dataset.images
        }
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
    """A name that is not taken by another picture, and that fits."""
    own = image.file_name.replace("/", "_") if flat else image.file_name
    stem, suffix = str(PurePosixPath(own).with_suffix("")), PurePosixPath(own).suffix
    prefixed = f"{split}_{stem}" if flat else f"{split}/{stem}"
    numbered = (f"{prefixed}_{number}" for number in count(2))
    for name in chain((stem, prefixed), numbered):
        key = (name if flat else name + suffix).casefold()
        if taken.get(key, path) == path and fits(name + suffix):
            taken[key] = path
            return name + suffix
    raise AssertionError("names came to an end")
