"""Where files of results go and what they are called, so that no input's overwrite another's."""

from __future__ import annotations

import itertools
import logging
import mimetypes
import os
import random
import time
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from maskline._files import NAME_BYTES, byte_length, cut_name
from maskline.errors import OutputError, ParameterError

AnyPath: TypeAlias = "str | os.PathLike[str]"

#: Suffixes an image can be saved under, and Pillow's name of the format. No .pgm and .pbm: those hold no colours.
IMAGE_FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pnm"), "PPM"),
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    **{f".{kind.lower()}": kind for kind in ("PNG", "WEBP", "GIF")},
}

#: PaddleX's list of the checkpoints of a training run (`maskline.paddlex.train_results`), under both of its names.
TRAIN_RESULTS = ("train_result.json", "train_results.json")

_STEM_BYTES = NAME_BYTES - len("_res.jpeg")  # of a stem: none of our endings is longer
_NUMBER_BYTES = len("_99999")  # room for the number that one of several equal names gets

logger = logging.getLogger("maskline")
_array_numbers = itertools.count(random.randrange(9000))  # one process: none twice within a second, up to 9000 arrays


class Stems:
    """The names taken in the folders results are saved to, so that inputs of the same name don't overwrite each other.

    Only hashes are kept, about 120 bytes for each name. Two names that share one, which among a million has a chance
    of 1e-8, cost the later its plain name and nothing else.
    """

    def __init__(self) -> None:
        self._owners: dict[int, int] = {}  # (folder, name) -> who has it
        self._numbered: dict[int, int] = {}  # (folder, stem, owner) -> the number given
        self._next: dict[int, int] = {}  # (folder, stem) -> number to try next
        self._told = False

    def claim(self, folder: Path, stem: str, owner: str) -> str:
        """The stem, or if another owner has that in this folder, the stem with a number: ``k``, ``k_1``, ``k_2`` …

        The same owner always gets the same answer. Names that differ in case only are taken for equal, as some file
        systems do. May be called from several threads.
        """
        place = str(folder.resolve())
        if self._take(place, stem, owner):
            return stem
        family = hash((place, stem.casefold()))
        key = hash((place, stem.casefold(), owner))
        if key not in self._numbered:
            numbers = itertools.count(self._next.get(family, 1))
            number = next(n for n in numbers if self._take(place, _cut(stem, f"_{n}"), owner))
            self._next[family] = number + 1
            self._tell(stem, _cut(stem, f"_{number}"))
            self._numbered.setdefault(key, number)
        return _cut(stem, f"_{self._numbered[key]}")

    def _take(self, place: str, name: str, owner: str) -> bool:
        held = hash(owner)
        return self._owners.setdefault(hash((place, name.casefold())), held) == held  # one step: safe among threads

    def _tell(self, stem: str, name: str) -> None:
        level = logging.INFO if self._told else logging.WARNING
        logger.log(level, "several inputs are named %s: one is saved as %s", stem, name)
        self._told = True


def stem_of(path: str | None, page: int | None) -> str:
    """What the files of an input are called: its name, with ``_<page>`` for a page; for an array the time, a number.

    A long name is cut, so that the names of its files have 255 bytes at most.
    """
    if path is None:
        # Processes forked from this one go on from the same number: their ids set them apart.
        return f"{int(time.time())}_{1000 + (next(_array_numbers) + 4001 * os.getpid()) % 9000}"
    return _cut(Path(path).stem, "" if page is None else f"_{page}")


def _cut(name: str, ending: str = "") -> str:
    """A stem: a name and its ending, without the last characters of the name if they are too long."""
    fits = byte_length(name + ending) <= _STEM_BYTES
    return name + ending if fits else cut_name(name, ending, _STEM_BYTES - _NUMBER_BYTES)


def named_file(save_path: AnyPath, suffixes: Collection[str]) -> Path | None:
    """The file a path names, or None for a folder: one that exists, ends in a slash, or has no suffix of known files.

    Raises:
        ParameterError: it has the suffix of a known kind of file, but none of ``suffixes``.
    """
    path = Path(save_path)
    suffix = path.suffix.lower()
    if os.fspath(save_path).endswith(("/", os.sep)) or path.is_dir():
        return None
    if suffix in suffixes:
        return path
    if suffix not in _known_suffixes():
        return None
    files = f", or a file ending in {', '.join(sorted(suffixes))}" if suffixes else ""
    raise ParameterError(f"save_path is {str(path)!r}: expected a folder (if this is one, end it in /){files}")


def check_folder(save_path: AnyPath) -> None:
    """Raise ParameterError or OutputError if a folder for results can't be made or written to. Makes nothing."""
    if not os.fspath(save_path):
        raise ParameterError("save_path is empty: expected a folder, such as output")
    named_file(save_path, ())
    path = Path(save_path).absolute()
    nearest = next(p for p in (path, *path.parents) if os.path.lexists(p))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        why = "can't be written to" if nearest.is_dir() else "is a file"
        raise OutputError(f"can't save to {save_path}: {nearest} {why}; give a folder")


@lru_cache(maxsize=1)
def _known_suffixes() -> frozenset[str]:
    """Those Python knows of itself: what a machine has registered besides differs from one to the next."""
    types = mimetypes.MimeTypes()
    return frozenset({*types.types_map[True], *types.types_map[False], *types.encodings_map, *IMAGE_FORMATS})
