"""Find the files of a LabelMe data set: JSON files named in lists, and the image of each JSON file."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from maskline._wording import short
from maskline.data.faults import UnusableError
from maskline.data.file_access import is_file, read_text_file, relative_name
from maskline.data.file_tree import UNSPLIT, Finder, Match, key_of, split_named, suffix_of
from maskline.data.source import Source
from maskline.inputs import SUFFIXES


class LabelMeFiles:
    """The JSON files of a data set and their images. Paths are relative to the folder of the data set.

    Args:
        source: the data set.
        sheets: its JSON files.
    """

    def __init__(self, source: Source, sheets: Iterable[str]) -> None:
        self.source = source
        self.sheets = sorted(sheets)

    @cached_property
    def _finder(self) -> Finder:
        return Finder(self.sheets)

    def listed_sheet(self, line: str) -> str | None:
        """The JSON file that a line of a list refers to, by the whole line or by its last word."""
        found = (self._finder.find(text.strip("\"'")) for text in (line, line.split()[-1]))
        return next((match.path for match in found if match is not None), None)

    def image(self, sheet: str, image_path: str) -> Match | None:
        """The image of a JSON file, below ``source.images``.

        Tried in this order: ``imagePath`` relative to the JSON file, to the folder in ``images`` that mirrors its own,
        to the same folder in ``images``, to ``images`` and to the root; the stem of the JSON file next to it and in the
        mirrored folder; the end of ``imagePath``; the end of the JSON file's own path.
        """
        images, stems = self.source.images.images, self.source.images.image_stems
        path, stem = image_path.replace("\\", "/"), posixpath.splitext(posixpath.basename(sheet))[0]
        folder, mirror = posixpath.dirname(sheet), mirrored(sheet)
        guesses = (
            [(images, f"{place}/{path}") for place in (folder, mirror, f"images/{folder}", "images", ".")]
            if path
            else []
        )
        guesses += [(stems, f"{place}/{stem}") for place in (folder, mirror)]
        for finder, guess in guesses:
            name = posixpath.normpath(guess)
            match = None if name.startswith(("../", "/")) else finder.find(name, local=True)
            if match is not None and not match.moved and match.path.count("/") == name.count("/"):
                return match
        absolute = path.startswith("/") or path[1:2] == ":"
        named = path if absolute else posixpath.normpath(posixpath.join(folder, path))
        found = images.find(named, local=not absolute) if path else None
        found = found or stems.find(posixpath.join(folder, stem), local=True)
        return None if found is None else found._replace(moved=not absolute or found.moved)

    def name_of_missing(self, sheet: str, image_path: str) -> str:
        """A name for a missing image, relative to the folder of the images.

        Raises UnusableError if the file exists but can't be used.
        """
        path = image_path.replace("\\", "/")
        if path and is_file((self.source.root / sheet).parent / path):
            if suffix_of(path) not in SUFFIXES:
                what = f"imagePath is {short(image_path)}: expected an image of one of the types {', '.join(SUFFIXES)}"
                raise UnusableError("image-unreadable", what)
            what = f"imagePath {short(image_path)} leads out of the data set: name the folder that holds both"
            raise UnusableError("image-path", what)
        bare = PurePosixPath(path).name or f"{PurePosixPath(sheet).stem}.jpg"
        if suffix_of(bare) not in SUFFIXES:  # the image in imageData is written under this name
            bare += ".png"
        name = relative_name(f"{mirrored(sheet)}/{bare}")
        if name is None:
            raise UnusableError("image-path", f"imagePath is {short(image_path)}: expected the name of a file")
        return name


def mirrored(sheet: str) -> str:
    """The folder of images that mirrors that of a JSON file: ``images/a`` for ``annotations/a/1.json``."""
    parts = list(PurePosixPath(sheet).parent.parts)
    places = [place for place, part in enumerate(parts) if key_of(part) in ("annotations", "labels")]
    place = places[-1] if places else 0
    return "/".join((*parts[:place], "images", *parts[place + 1 :]))


def read_lines(path: Path) -> list[str]:
    """The non-blank lines of a text file in any usual encoding. Raises DatasetError."""
    return [line.strip() for line in read_text_file(path).splitlines() if line.strip()]


def is_blank(path: Path) -> bool:
    """Whether a file is empty or can't be read."""
    try:
        return path.stat().st_size < 16 and not path.read_bytes().strip()
    except OSError:
        return True


def split_folder(sheet: str) -> str:
    """The split of the first folder in a path that is named like one."""
    named = map(split_named, PurePosixPath(sheet).parent.parts)
    return next((split for split in named if split is not None), UNSPLIT)


def common_folder(names: Sequence[str]) -> str:
    """The folder named ``images`` that contains all names, with a trailing slash; else an empty string."""
    starts = set()
    for name in names:
        folders = name.split("/")[:-1]
        place = next((place for place, folder in enumerate(folders) if key_of(folder) == "images"), -1)
        starts.add("".join(f"{folder}/" for folder in folders[: place + 1]))
    return starts.pop() if len(starts) == 1 else ""
