"""Paths and names of result files, chosen so that inputs never overwrite each other's."""

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

from maskline._files import NAME_BYTES, AnyPath, byte_length, cut_name
from maskline.errors import OutputError, ParameterError

#: Suffixes for saving an image, and Pillow's name of the format. Not .pgm and .pbm, which have no colours.
IMAGE_FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pnm"), "PPM"),
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    **{f".{kind.lower()}": kind for kind in ("PNG", "WEBP", "GIF")},
}

#: PaddleX's list of the checkpoints of a training run (`maskline.paddlex.train_results`), under both of its names.
TRAIN_RESULTS = ("train_result.json", "train_results.json")

_STEM_BYTES = NAME_BYTES - len("_res.jpeg")  # limit for stems; no ending is longer than this one
_NUMBER_BYTES = len("_99999")  # reserved for the number that distinguishes equal names

logger = logging.getLogger("maskline")
_array_numbers = itertools.count(random.randrange(9000))  # per process: unique within a second, up to 9000 arrays


class Stems:
    """Names in use in the output folders, so that inputs with the same name don't overwrite each other.

    Only hashes are kept, about 120 bytes per name. On a hash collision (probability 1e-8 among a million names), the
    later name merely gets a number.
    """

    def __init__(self) -> None:
        self._owners: dict[int, int] = {}  # (folder, name) -> owner
        self._numbered: dict[int, int] = {}  # (folder, stem, owner) -> assigned number
        self._next: dict[int, int] = {}  # (folder, stem) -> next number to try
        self._warned = False

    def claim(self, folder: Path, stem: str, owner: str) -> str:
        """Return the stem, numbered if another owner has it in this folder: ``k``, ``k_1``, ``k_2`` …

        The same owner always gets the same name. Names are compared case-insensitively, as on some file systems.
        Thread-safe.
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
            self._log(stem, _cut(stem, f"_{number}"))
            self._numbered.setdefault(key, number)
        return _cut(stem, f"_{self._numbered[key]}")

    def _take(self, place: str, name: str, owner: str) -> bool:
        held = hash(owner)
        return self._owners.setdefault(hash((place, name.casefold())), held) == held  # atomic: thread-safe

    def _log(self, stem: str, name: str) -> None:
        level = logging.INFO if self._warned else logging.WARNING
        logger.log(level, "several inputs are named %s: one is saved as %s", stem, name)
        self._warned = True


def stem_of(path: str | None, page: int | None) -> str:
    """Stem of an input's files: its name, with ``_<page>`` for a page; for an array, the time and a number.

    Long names are cut, so that file names have at most 255 bytes.
    """
    if path is None:
        # Forked processes continue from the same number: the process id distinguishes them.
        return f"{int(time.time())}_{1000 + (next(_array_numbers) + 4001 * os.getpid()) % 9000}"
    return _cut(Path(path).stem, "" if page is None else f"_{page}")


def _cut(name: str, ending: str = "") -> str:
    """Join a name and its ending into a stem, truncating the name if needed."""
    fits = byte_length(name + ending) <= _STEM_BYTES
    return name + ending if fits else cut_name(name, ending, _STEM_BYTES - _NUMBER_BYTES)


def named_file(save_path: AnyPath, suffixes: Collection[str]) -> Path | None:
    """Return the path if it names a file; None for a folder: it exists, ends in a slash, or has no known file suffix.

    Raises:
        ParameterError: it has a known file suffix that is not among ``suffixes``.
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
    """Raise ParameterError or OutputError if a folder can't be created or written to. Creates nothing."""
    if not os.fspath(save_path):
        raise ParameterError("save_path is empty: expected a folder, such as output")
    named_file(save_path, ())
    path = Path(save_path).absolute()
    nearest = next(p for p in (path, *path.parents) if os.path.lexists(p))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        why = "is not writable" if nearest.is_dir() else "is a file"
        raise OutputError(f"can't save to {save_path}: {nearest} {why}; name a folder")


@lru_cache(maxsize=1)
def _known_suffixes() -> frozenset[str]:
    """Python's built-in suffixes only: those registered on a machine differ from one to the next."""
    types = mimetypes.MimeTypes()
    return frozenset({*types.types_map[True], *types.types_map[False], *types.encodings_map, *IMAGE_FORMATS})
