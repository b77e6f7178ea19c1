"""Find the files of a YOLO data set: ``data.yaml``, the images of each split, and their label files."""

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

from maskline.data.file_access import read_text_file
from maskline.data.file_tree import UNSPLIT, FileTree, Match, key_of, split_named, stem_of, suffix_of
from maskline.data.source import Source
from maskline.errors import DatasetError

Config: TypeAlias = Mapping[str, Any]  # content of data.yaml; its values are strings, lists and mappings

#: Splits by their names in data.yaml.
SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
IMAGES, LABELS = "images", "labels"

_LISTS_OF_NAMES = ("classes.txt", "obj.names")
_LINE = re.compile(rb"\s*-?\d+(\.0*)?([\s,]+[-+.\deE]+){4}")  # start of a label file
_HEAD = 4096


def find_configs(source: Source) -> list[tuple[str, Config]]:
    """The YAML files of a data set and their contents: files with splits before those with class names only, then the
    outermost first.

    Raises DatasetError if the given file, or the only ``data.yaml``, is invalid.
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
    """Load a YAML file with all scalars as strings: a class may be called ``no`` or ``1``."""
    try:
        return yaml.load(read_text_file(path), yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise DatasetError(f"{path} is not readable YAML ({' '.join(str(error).split())})") from None


def resolve_path(entry: str, bases: Sequence[Path]) -> Path | None:
    """Find a path written on another machine: below each base, first whole, then with leading parts removed one by one.

    So ``C:\\sets\\fruit\\train\\images`` and Roboflow's ``../train/images`` are both found as ``train/images``.
    """
    parts = PurePosixPath(entry.replace("\\", "/")).parts
    tails = (parts[start:] for start in range(max(len(parts), 1)))
    candidates = (base.joinpath(*tail) for tail in tails for base in bases)
    found = next((path for path in candidates if os.path.exists(path)), None)  # noqa: PTH110 (as in is_file)
    return None if found is None else Path(os.path.normpath(found))


def images_at(entry: str, bases: Sequence[Path]) -> Path | None:
    """The path of a split's entry, but never a parent of the data set, such as ``/``."""
    found = resolve_path(entry, bases)
    return None if found is None or any(found in base.parents for base in bases) else found


def with_folders(tree: FileTree, targets: Iterable[Path]) -> FileTree:
    """Add folders outside the tree, each with the siblings of its ``images`` folder, where its labels are."""
    return tree.extended({_above_images(path) for path in targets if not path.is_relative_to(tree.root)})


def _above_images(path: Path) -> Path:
    places = [place for place, part in enumerate(path.parts) if key_of(part) == IMAGES]
    return Path(*path.parts[: places[-1]]) if places else path.parent


def split_of_path(path: str) -> str:
    """The split of the first folder in a path that is named like one."""
    named = map(split_named, posixpath.dirname(path).split("/"))
    return next((split for split in named if split is not None), UNSPLIT)


def label_files(tree: FileTree) -> list[str]:
    """The text files in folders named ``labels``, and others that start like a label file.

    In a folder with one of these, text files with the name of an image are label files too. Files in Ultralytics'
    ``runs`` are predictions and left out.
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


def pair_labels(labels: Sequence[str], images: FileTree) -> dict[str, Match]:
    """The image of each label file that has one; each image is used once.

    A label file belongs to the image with the same path, with ``images`` in place of ``labels``, without suffix.
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
    """Whether an image has the same path as its label file, but with a sibling folder in place of ``labels``."""
    ours, theirs = (list(PurePosixPath(path).parent.parts) for path in (label, image))
    place = next((n for n in reversed(range(len(ours))) if key_of(ours[n]) == LABELS), None)
    return (
        place is not None
        and len(theirs) > place
        and theirs[:place] + theirs[place + 1 :] == ours[:place] + ours[place + 1 :]
    )


def image_name(label: str) -> str:
    """The expected path of a label file's image, without suffix."""
    parts = posixpath.splitext(label)[0].split("/")
    places = [place for place, part in enumerate(parts[:-1]) if key_of(part) == LABELS]
    if places:
        parts[places[-1]] = IMAGES
    return "/".join(parts)


def folders_of(images: Iterable[str], paired: Iterable[str]) -> dict[str, list[str]]:
    """The images of each split of a data set without ``data.yaml``, from folder names.

    Only folders named ``images`` are used; without any, folders with a paired image.
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
    """The folder that image names of a split are relative to: down to the last one named ``images`` or like a split."""
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
            "or a data.yaml; read the data sets separately"
        )
    return list(next(iter(lists))) if lists else None


def class_lists(source: Source) -> dict[tuple[str, ...], str]:
    """Files that list classes, one per line, by their content; without those below the folder of another.

    Raises DatasetError if one can't be read.
    """
    lists: dict[tuple[str, ...], str] = {}
    folders: set[str] = set()
    names = [path for path in source.tree.files if PurePosixPath(path).name in _LISTS_OF_NAMES]
    for path in sorted(names, key=lambda path: (path.count("/"), _LISTS_OF_NAMES.index(PurePosixPath(path).name))):
        if folders & {parent.as_posix() for parent in PurePosixPath(path).parents}:
            continue
        if lines := tuple(line.strip() for line in read_text_file(source.root / path).splitlines() if line.strip()):
            folders.add(posixpath.dirname(path) or ".")
            lists.setdefault(lines, path)
    return lists
