"""The files below a folder, listed once, and the one finder that tells which file a name in an annotation means.

Names come from other machines: absolute, with backslashes, a drive or ``..``, percent-encoded, in another case or
Unicode form, or from before the files were moved.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple, TypeAlias
from urllib.parse import unquote

from maskline.files import visible_files
from maskline.inputs import SUFFIXES, UNREAD_SUFFIXES

Parts: TypeAlias = tuple[str, ...]

UNSPLIT = "all"
#: How the names of files and folders spell a split.
SPLIT_WORDS = {"train": r"train(?:ing)?", "val": r"val(?:id(?:ation)?)?", "test": r"test(?:ing)?"}
SPLITS = tuple(SPLIT_WORDS)

_MAX_CANDIDATES = 1000  # files with one end in common; with more, a partial match would mean nothing


def split_of(name: str) -> str | None:
    """The split that a name mentions: ``instances_val2017`` mentions ``val``."""
    for split, word in SPLIT_WORDS.items():
        if re.search(rf"(?<![a-z]){word}(?![a-z])", name.lower()):
            return split
    return None


def suffix_of(path: str) -> str:
    """The suffix in lower case, without the dot."""
    return posixpath.splitext(path)[1][1:].lower()


def key_of(text: str) -> str:
    """The same text for all spellings of a name: NFC, case-folded, percent-escapes decoded."""
    return unicodedata.normalize("NFC", unquote(text)).casefold()


def parts_of(name: str) -> Parts:
    """The parts of a path of any machine, without its drive, root, ``.`` and ``..``."""
    path = name.partition("?d=")[2] or name  # Label Studio: /data/local-files/?d=PATH
    parts = path.replace("\\", "/").split("/")
    if re.fullmatch(r"[A-Za-z]:", parts[0]):
        del parts[0]
    return tuple(part for part in parts if part not in ("", ".", ".."))


class Match(NamedTuple):
    """A file found.

    Attributes:
        path: the file, as listed.
        base: the folder that the name starts from, with a trailing slash unless empty; None where only the end of the
            name matches, or only another spelling of it.
    """

    path: str
    base: str | None


class Finder:
    """Finds files by names.

    The longest common end of name and path wins, then the same spelling, the longest common start, the folder that most
    names start from, the folder of the split, and a folder named ``images``. What remains ambiguous is found only if
    the whole name matches. A file in the folder of another split is never taken for one that is missing, nor is a file
    that another name means exactly.

    Args:
        files: relative paths with forward slashes.
        stems: match without suffixes.
    """

    def __init__(self, files: Iterable[str], *, stems: bool = False) -> None:
        self._files = list(files)
        self._stems = stems
        self._tails: dict[int, dict[Parts, list[str]]] = {}

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def find(self, name: str, split: str | None = None) -> str | None:
        """The one file that a name means, or None."""
        found = self.find_all([name], split).get(name)
        return None if found is None else found.path

    def find_all(self, names: Iterable[str], split: str | None = None) -> dict[str, Match]:
        """The files that names mean; a name without one is not a key.

        Args:
            names: as the annotations give them; without suffixes where the finder matches stems.
            split: the split that the names belong to.
        """
        candidates = {name: self._candidates(name, split) for name in dict.fromkeys(names)}
        bases = Counter(base for found in candidates.values() for base in {m.base for m in found if m.base is not None})
        exact, inexact = {}, {}
        for name, matches in candidates.items():
            fit = [match for match in matches if match.base is not None]
            if (match := self._choose(name, fit, bases, split)) is not None:
                exact[name] = match
        taken = {match.path for match in exact.values()}
        for name, matches in candidates.items():
            fit = [match for match in matches if match.path not in taken]
            if name not in exact and (match := self._choose(name, fit, bases, split)) is not None:
                inexact[name] = match
        return exact | self._undisputed(inexact)

    def _undisputed(self, found: Mapping[str, Match]) -> dict[str, Match]:
        """Of names for one file only the one that has the longest end in common with it, if there is one."""
        rivals: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        for name, match in found.items():
            ends = zip(parts_of(name)[::-1], self._name(match.path).split("/")[::-1], strict=False)
            same = takewhile(lambda pair: key_of(pair[0]) == key_of(pair[1]), ends)
            rivals[match.path].append((sum(1 for _ in same), name))
        best = {path: max(names) for path, names in rivals.items() if len(names) == 1 or _leads(names)}
        return {name: found[name] for _, name in best.values()}

    def _candidates(self, name: str, split: str | None) -> list[Match]:
        """All files that share the longest end with a name."""
        parts = parts_of(name)
        for length in range(len(parts), 0, -1):
            paths = self._with_tail(length).get(tuple(map(key_of, parts[-length:])), [])
            if not paths or (len(paths) > _MAX_CANDIDATES and length < len(parts)):
                continue
            paths = [path for path in paths if not _of_other_split(path, length, split)]
            if paths:
                return [self._match(path, name, parts, length) for path in paths]
        return []

    def _name(self, path: str) -> str:
        return posixpath.splitext(path)[0] if self._stems else path

    def _with_tail(self, length: int) -> dict[Parts, list[str]]:
        """Files by the keys of their last parts, as many as ``length``."""
        if length not in self._tails:
            table: defaultdict[Parts, list[str]] = defaultdict(list)
            for path in self._files:
                parts = self._name(path).split("/")
                if len(parts) >= length:
                    table[tuple(map(key_of, parts[-length:]))].append(path)
            self._tails[length] = dict(table)
        return self._tails[length]

    def _match(self, path: str, name: str, parts: Parts, length: int) -> Match:
        stripped = self._name(path).split("/")
        literal = length == len(parts) and tuple(stripped[-length:]) == parts
        start = stripped[:-length]
        return Match(path, "".join(f"{part}/" for part in start) if literal else None)

    def _choose(self, name: str, matches: Sequence[Match], bases: Counter[str], split: str | None) -> Match | None:
        if len(matches) < 2:
            return matches[0] if matches else None
        parts = tuple(map(key_of, parts_of(name)))

        def rank(match: Match) -> tuple[int, int, bool, bool]:
            folders = match.path.split("/")[:-1]
            keys = list(map(key_of, folders))
            shared = 0
            for ours, theirs in zip(keys, parts, strict=False):
                if ours != theirs:
                    break
                shared += 1
            base = match.base if match.base is not None else f"{'/'.join(folders)}/"
            own_split = split is not None and any(split_of(part) == split for part in folders)
            return shared, bases[base], own_split, "images" in keys

        ranks = [rank(match) for match in matches]
        best = [match for match, its in zip(matches, ranks, strict=True) if its == max(ranks)]
        if len(best) > 1 and best[0].base is None:
            return None
        return min(best, key=lambda match: (match.path.count("/"), match.path))


def _leads(names: Sequence[tuple[int, str]]) -> bool:
    """Whether one name has a longer end in common than all others."""
    first, second = sorted((length for length, _ in names), reverse=True)[:2]
    return first > second


def _of_other_split(path: str, matched: int, split: str | None) -> bool:
    """Whether the folders of a path, but for its last parts that match a name, belong to another split."""
    if split in (None, UNSPLIT):
        return False
    splits = {split_of(part) for part in path.split("/")[:-matched]} - {None}
    return bool(splits) and split not in splits


@dataclass(frozen=True)
class Tree:
    """What lies below a folder.

    Attributes:
        root: the folder.
        files: relative paths of all files, with forward slashes; no hidden ones.
    """

    root: Path
    files: Sequence[str]

    @classmethod
    def of(cls, root: Path) -> Tree:
        """List a folder, links followed."""
        return cls(root, tuple(visible_files(root)))

    def with_suffix(self, *suffixes: str) -> list[str]:
        """The files with one of these suffixes, given in lower case without the dot."""
        return [path for path in self.files if suffix_of(path) in suffixes]

    @cached_property
    def all(self) -> Finder:
        """Finds files of any kind."""
        return Finder(self.files)

    @cached_property
    def images(self) -> Finder:
        """Finds image files of the kinds that are read."""
        return Finder(self.with_suffix(*SUFFIXES))

    @cached_property
    def image_stems(self) -> Finder:
        """Finds image files of the kinds that are read, by names without suffix."""
        return Finder(self.with_suffix(*SUFFIXES), stems=True)

    @cached_property
    def unread_images(self) -> list[str]:
        """Image files of kinds that are not read."""
        return self.with_suffix(*UNREAD_SUFFIXES)
