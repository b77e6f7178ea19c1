"""The files of a YOLO data set: ``data.yaml``, the pictures of each split, and which labels are whose."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import yaml

from maskline.data.sources import is_file, text_of
from maskline.errors import DatasetError
from maskline.inputs import SUFFIXES

Config: TypeAlias = Mapping[str, Any]  # of data.yaml; its values are texts, lists and mappings

#: What splits are called, in data.yaml and as folders.
SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_FOLDER = re.compile(rf"({'|'.join(SPLIT_KEYS)})(\d{{4}})?", re.IGNORECASE)  # also COCO's train2017
_LISTS_OF_NAMES = ("classes.txt", "obj.names")


def find_config(root: Path) -> tuple[Path, Config] | None:
    """The YAML file of a data set and what it holds. Raises DatasetError if only broken ones are there."""
    files = sorted([root] if root.is_file() else root.iterdir())
    files = [path for path in files if path.suffix.lower() in (".yaml", ".yml") and is_file(path)]
    broken: list[DatasetError] = []
    for path in sorted(files, key=lambda path: path.stem.lower() not in ("data", "dataset")):
        try:
            content = _load_yaml(path)
        except DatasetError as error:
            broken.append(error)
            continue
        if isinstance(content, dict) and content.keys() & {"names", "nc"}:
            return path, content
    if broken:
        raise broken[0]
    return None


def _load_yaml(path: Path) -> Any:
    """A YAML file with all its values as they are written: a class may be called ``no``, or ``1``."""
    try:
        return yaml.load(text_of(path), yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise DatasetError(f"{path} is not readable YAML ({' '.join(str(error).split())})") from None


def bare_folders(root: Path) -> dict[str, Path]:
    """The splits of a folder without a YAML file, by the names of folders; one called ``all`` where there are none."""
    images = root / "images"
    found = _split_folders(images)
    if not found:
        found = {split: path / "images" for split, path in _split_folders(root).items() if (path / "images").is_dir()}
    if not found and images.is_dir():
        found = {"all": images}
    if not found and any(is_file(root / name) for name in _LISTS_OF_NAMES):
        found = {"all": root}
    return found


def _split_folders(folder: Path) -> dict[str, Path]:
    """Sub-folders named after a split, in the order train, val, test."""
    named = {path: _FOLDER.fullmatch(path.name) for path in _subfolders(folder)}
    found = {SPLIT_KEYS[match[1].lower()]: path for path, match in named.items() if match}
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def pictures_in(folder: Path) -> list[Path]:
    """The image files in a folder and below, by path; hidden ones, which archives from a Mac hold, are not meant."""
    files = (path for path in folder.rglob("*") if path.suffix[1:].lower() in SUFFIXES and path.name[0] != ".")
    return sorted(path for path in files if is_file(path))


def has_labels(folder: Path) -> bool:
    """Whether the folder beside one with pictures has text files in it."""
    return any(True for _ in _beside(folder).rglob("*.txt"))


def _beside(path: Path) -> Path:
    """A path with ``labels`` for its last ``images``."""
    parts = list(path.parts)
    for place in range(len(parts) - 1, -1, -1):
        if parts[place].lower() == "images":
            parts[place] = "labels"
            return Path(*parts)
    return path


def resolve(entry: str, bases: Sequence[Path]) -> Path | None:
    """A path as another machine wrote it: tried below each base, first whole, then without more and more of its start.

    So ``C:\\sets\\fruit\\train\\images`` and Roboflow's ``../train/images`` are both found as ``train/images``.
    """
    parts = PurePosixPath(entry.replace("\\", "/")).parts
    tails = (parts[start:] for start in range(max(len(parts), 1)))
    candidates = (base.joinpath(*tail) for tail in tails for base in bases)
    found = next((path for path in candidates if os.path.exists(path)), None)  # noqa: PTH110 (as in is_file)
    return None if found is None else Path(os.path.normpath(found))


def labels_of(picture: Path) -> Path | None:
    """The label file of a picture, also one right beside it; None if there is none."""
    files = (_beside(picture).with_suffix(".txt"), picture.with_suffix(".txt"))
    return next((path for path in files if is_file(path)), None)


def listed_names(root: Path) -> list[str] | None:
    """Class names of a set without a YAML file, one a line."""
    path = next((root / name for name in _LISTS_OF_NAMES if is_file(root / name)), None)
    return None if path is None else [line.strip() for line in text_of(path).splitlines() if line.strip()] or None


def start_of(targets: Sequence[Path], pictures: Sequence[Path]) -> Path:
    """The folder that a split's file names start from."""
    if len(targets) == 1 and targets[0].is_dir():
        inner = targets[0] / "images"
        return inner if pictures and all(path.is_relative_to(inner) for path in pictures) else targets[0]
    return Path(os.path.commonpath([path.parent for path in pictures])) if pictures else targets[0].parent
