"""The files of a LabelMe data set: which JSON a line of a list means, and which picture a JSON file is of.

Paths come from other machines: with ``\\``, absolute, of another case or Unicode form, from before a move.
"""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from maskline.data.sources import text_of
from maskline.inputs import SUFFIXES

_TAIL = 10  # parts of a path that are tried, from its end


@dataclass(frozen=True, slots=True)
class Tree:
    """What lies below a folder. Paths are from there, with forward slashes.

    Attributes:
        root: the folder.
        sheets: JSON files, by their path and by its `key`.
        pictures: image files, likewise.
        by_name: image files by the key of their bare name.
    """

    root: Path
    sheets: Mapping[str, str]
    pictures: Mapping[str, str]
    by_name: Mapping[str, list[str]]

    @classmethod
    def of(cls, root: Path) -> Tree:
        """Look through a folder once."""
        paths = list(files(root))
        pictures = [path for path in paths if suffix(path) in SUFFIXES]
        by_name: dict[str, list[str]] = {}
        for path in pictures:
            by_name.setdefault(key(posixpath.basename(path)), []).append(path)
        return cls(root, _table(path for path in paths if suffix(path) == "json"), _table(pictures), by_name)

    def all_sheets(self) -> list[str]:
        """The JSON files in the order of their paths."""
        return sorted(set(self.sheets.values()))

    def listed_sheet(self, line: str) -> str | None:
        """The JSON file that a line of a list means: as a whole or, as some read the lists, by its last word."""
        for text in (line, line.split()[-1]):
            for tail in _tails(text.strip("\"'")):
                for place in (".", "annotations"):
                    if found := _find(self.sheets, posixpath.join(place, tail)):
                        return found
        return None

    def picture(self, sheet: str, image_path: str) -> str | None:
        """The picture of a JSON file.

        Tried in turn: where ``imagePath`` leads; the ends of that path, the longest first, beside the JSON file, in
        the folder of ``images`` that mirrors its own, in ``images`` and at the root; its bare name if that is the only
        one; a picture named as the JSON file in those same folders.
        """
        here = PurePosixPath(sheet).parent
        places = dict.fromkeys([str(here), mirrored(sheet), "images", "."])
        tails = _tails(image_path)
        own = [f"{PurePosixPath(sheet).stem}.{ending}" for ending in SUFFIXES]
        alone = self.by_name.get(key(tails[-1]), []) if tails else []
        guesses = [
            posixpath.join(str(here), image_path.replace("\\", "/")),
            *(posixpath.join(place, tail) for tail in tails for place in places),
            *(alone if len(alone) == 1 else []),
            *(posixpath.join(place, name) for name in own for place in places),
        ]
        return next((found for guess in guesses if (found := _find(self.pictures, guess))), None)


def mirrored(sheet: str) -> str:
    """The folder of pictures that stands for that of a JSON file: ``images/a`` for ``annotations/a/1.json``."""
    return str(PurePosixPath("images", *PurePosixPath(sheet).parent.parts[1:]))


def files(root: Path) -> Iterator[str]:
    """Paths of all files below; links are followed, hidden files and folders are not looked at."""
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        here = Path(folder).relative_to(root).as_posix()
        yield from (posixpath.normpath(f"{here}/{name}") for name in sorted(names) if not name.startswith("."))


def suffix(path: str) -> str:
    """In lower case, without the full stop."""
    return posixpath.splitext(path)[1][1:].lower()


def key(path: str) -> str:
    """One text for what file systems of other machines take for the same name."""
    return unicodedata.normalize("NFC", path).casefold()


def lines(path: Path) -> list[str]:
    """The lines of a text in any of the encodings that editors leave, without blank ones.

    Raises DatasetError if it can't be read.
    """
    return [line.strip() for line in text_of(path).splitlines() if line.strip()]


def _tails(path: str) -> list[str]:
    """The ends of a path of any machine, the longest first."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")][-_TAIL:]
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _table(paths: Iterable[str]) -> dict[str, str]:
    exact = {path: path for path in paths}
    return {key(path): path for path in exact} | exact


def _find(table: Mapping[str, str], path: str) -> str | None:
    path = posixpath.normpath(path)
    return table.get(path) or table.get(key(path))
