"""The files of a YOLO data set: ``data.yaml``, the images of each split, and the label file of each image."""

from __future__ import annotations

import codecs
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import yaml

from maskline._files import visible_files
from maskline.data.source import Source
from maskline.data.sources import text_of
from maskline.data.tree import UNSPLIT, Match, Tree, key_of, split_named, stem_of, suffix_of
from maskline.errors import DatasetError

Config: TypeAlias = Mapping[str, Any]  # of data.yaml; its values are texts, lists and mappings

#: What splits are called, in data.yaml and as folders.
SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
IMAGES, LABELS = "images", "labels"

_LISTS_OF_NAMES = ("classes.txt", "obj.names")
_LINE = re.compile(rb"\s*-?\d+(\.0*)?([\s,]+[-+.\deE]+){4}")  # the beginning of a label file
_HEAD = 4096


def configs(source: Source) -> list[tuple[str, Config]]:
    """The YAML files of a data set and what they hold: those with splits before those with class names only, then the
    outermost first.

    Raises DatasetError if that which was named, or a ``data.yaml`` without another, is broken.
    """
    found: list[tuple[str, Config]] = []
    broken: list[DatasetError] = []
    for path in source.tree.files if source.file is None else (source.file,):
        if suffix_of(path) not in ("yaml", "yml"):
            continue
        try:
            content = _load_yaml(source.root / path)
        except DatasetError as error:
            broken += [error] if source.file is not None or _has_usual_name(path) else []
            continue
        if isinstance(content, dict) and content.keys() & {"names", "nc"}:
            found.append((path, content))
    if broken and not found:
        raise broken[0]

    def order(config: tuple[str, Config]) -> tuple[bool, int, bool, str]:
        path, content = config
        return not content.keys() & SPLIT_KEYS.keys(), path.count("/"), not _has_usual_name(path), path

    return sorted(found, key=order)


def _has_usual_name(path: str) -> bool:
    return PurePosixPath(path).stem.lower() in ("data", "dataset")


def _load_yaml(path: Path) -> Any:
    """A YAML file with all its values as they are written: a class may be called ``no``, or ``1``."""
    try:
        return yaml.load(text_of(path), yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise DatasetError(f"{path} is not readable YAML ({' '.join(str(error).split())})") from None


def resolve(entry: str, bases: Sequence[Path]) -> Path | None:
    """A path as another machine wrote it: tried below each base, first whole, then without more and more of its start.

    So ``C:\\sets\\fruit\\train\\images`` and Roboflow's ``../train/images`` are both found as ``train/images``.
    """
    parts = PurePosixPath(entry.replace("\\", "/")).parts
    tails = (parts[start:] for start in range(max(len(parts), 1)))
    candidates = (base.joinpath(*tail) for tail in tails for base in bases)
    found = next((path for path in candidates if os.path.exists(path)), None)  # noqa: PTH110 (as in is_file)
    return None if found is None else Path(os.path.normpath(found))


def images_at(entry: str, bases: Sequence[Path]) -> Path | None:
    """What an entry of a split means; not a folder around the data set, such as ``/``."""
    found = resolve(entry, bases)
    return None if found is None or any(found in base.parents for base in bases) else found


def widened(tree: Tree, targets: Iterable[Path]) -> Tree:
    """A tree with the files of folders outside too, each from beside its ``images`` on, where its labels are."""
    roots = {_above_images(path) for path in targets if not path.is_relative_to(tree.root)}
    if not roots:
        return tree
    common = Path(os.path.commonpath([tree.root, *roots]))
    files = {
        f"{root.relative_to(common).as_posix()}/{path}".removeprefix("./")
        for root in roots | {tree.root}
        for path in visible_files(root)
    }
    return Tree(common, sorted(files))


def _above_images(path: Path) -> Path:
    places = [place for place, part in enumerate(path.parts) if key_of(part) == IMAGES]
    return Path(*path.parts[: places[-1]]) if places else path.parent


def split_of_path(path: str) -> str:
    """The split that a folder of a path is named after."""
    named = map(split_named, posixpath.dirname(path).split("/"))
    return next((split for split in named if split is not None), UNSPLIT)


def label_files(tree: Tree) -> list[str]:
    """The text files in folders named ``labels``, and elsewhere those that begin like a label file.

    With one of these in a folder, all its text files are label files that have the name of an image. What Ultralytics
    leaves in ``runs`` are predictions.
    """
    texts = [path for path in tree.with_suffix("txt") if PurePosixPath(path).name not in _LISTS_OF_NAMES]
    texts = [path for path in texts if not path.startswith("runs/")]
    sure = {path for path in texts if _in_labels(path) or _is_label_file(tree.root / path)}
    folders = set(map(posixpath.dirname, sure))
    named = (path for path in texts if posixpath.dirname(path) in folders)
    sure |= {path for path in named if stem_of(path) in tree.image_names}
    return [path for path in texts if path in sure]


def _in_labels(path: str) -> bool:
    return any(key_of(part) == LABELS for part in posixpath.dirname(path).split("/"))


def _is_label_file(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD).removeprefix(codecs.BOM_UTF8)
            return not head or _LINE.match(head) is not None
    except OSError:
        return False


def pair(labels: Sequence[str], images: Tree) -> dict[str, Match]:
    """The image of each label file that has one, no image twice.

    A label file belongs to the image of the same path without suffix, but for ``images`` in place of ``labels``.
    """
    names: defaultdict[str, dict[str, str]] = defaultdict(dict)  # by split: label files by the name of the image
    for path in sorted(labels, key=_in_labels, reverse=True):
        names[split_of_path(path)].setdefault(image_name(path), path)
    found: dict[str, Match] = {}
    taken: set[str] = set()
    for split, by_name in names.items():
        for name, match in images.image_stems.find_all(by_name, split, local=True).items():
            if match.path not in taken:
                taken.add(match.path)
                label = by_name[name]
                found[label] = match._replace(moved=match.moved and not _beside_labels(label, match.path))
    return found


def _beside_labels(label: str, image: str) -> bool:
    """Whether an image is where its label file is, but in a folder beside ``labels``, whatever that is called."""
    ours, theirs = (list(PurePosixPath(path).parent.parts) for path in (label, image))
    place = next((n for n in reversed(range(len(ours))) if key_of(ours[n]) == LABELS), None)
    return (
        place is not None
        and len(theirs) > place
        and theirs[:place] + theirs[place + 1 :] == ours[:place] + ours[place + 1 :]
    )


def image_name(label: str) -> str:
    """The image of a label file, without suffix."""
    parts = posixpath.splitext(label)[0].split("/")
    places = [place for place, part in enumerate(parts[:-1]) if key_of(part) == LABELS]
    if places:
        parts[places[-1]] = IMAGES
    return "/".join(parts)


def folders_of(images: Iterable[str], paired: Iterable[str]) -> dict[str, list[str]]:
    """The images of each split of a data set without ``data.yaml``, by the names of their folders.

    Images are those in folders named ``images``; without such folders, those in folders with a paired image.
    """
    listed = list(images)
    found = [path for path in listed if IMAGES in map(key_of, posixpath.dirname(path).split("/"))]
    if not found:
        folders = set(map(posixpath.dirname, paired))
        found = [path for path in listed if posixpath.dirname(path) in folders]
    splits: defaultdict[str, list[str]] = defaultdict(list)
    for path in found:
        splits[split_of_path(path)].append(path)
    if len(splits) > 1:
        splits.pop(UNSPLIT, None)
    return {split: splits[split] for split in ("train", "val", "test", UNSPLIT) if split in splits}


def start_of(images: Sequence[str]) -> str:
    """The folder that the names of a split's images start from: as far as that named after the split, or ``images``."""
    folders = [posixpath.dirname(path).split("/") for path in images]
    starts = set()
    for parts in folders:
        places = [n for n, part in enumerate(parts) if key_of(part) == IMAGES or split_named(part)]
        starts.add("/".join(parts[: places[-1] + 1] if places else parts))
    common = posixpath.commonpath(starts) if starts and all(starts) else ""
    return f"{common}/" if common else ""


def listed_names(source: Source) -> list[str] | None:
    """Class names of a data set without a YAML file.

    Raises DatasetError if a list can't be read, or there are different ones.
    """
    lists = class_lists(source)
    if len(lists) > 1:
        raise DatasetError(
            f"{' and '.join(lists.values())} in {source.given} name different classes: expected one list of classes, "
            "or a data.yaml; read the data sets one by one"
        )
    return list(next(iter(lists))) if lists else None


def class_lists(source: Source) -> dict[tuple[str, ...], str]:
    """The files that list classes, one a line, by what they list; without those below the folder of another.

    Raises DatasetError if one can't be read.
    """
    lists: dict[tuple[str, ...], str] = {}
    folders: set[str] = set()
    names = [path for path in source.tree.files if PurePosixPath(path).name in _LISTS_OF_NAMES]
    for path in sorted(names, key=lambda path: (path.count("/"), _LISTS_OF_NAMES.index(PurePosixPath(path).name))):
        if folders & {parent.as_posix() for parent in PurePosixPath(path).parents}:
            continue
        if lines := tuple(line.strip() for line in text_of(source.root / path).splitlines() if line.strip()):
            folders.add(posixpath.dirname(path) or ".")
            lists.setdefault(lines, path)
    return lists
