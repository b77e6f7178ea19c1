"""List the files below a folder once, and find the file that a name in an annotation refers to.

Names come from other machines: absolute, with backslashes, a drive or ``..``, percent-encoded, in another case or
Unicode form, or from before the files were moved.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple, TypeAlias
from urllib.parse import unquote

from maskline._files import visible_files
from maskline.inputs import SUFFIXES, UNREAD_SUFFIXES

Parts: TypeAlias = tuple[str, ...]

UNSPLIT = "all"
#: How the names of files and folders spell a split.
SPLIT_WORDS = {"train": r"train(?:ing)?", "val": r"val(?:id(?:ation)?)?", "test": r"test(?:ing)?"}
SPLITS = tuple(SPLIT_WORDS)

_MAX_CANDIDATES = 50  # for a name of which only the end matches; with more candidates it is ambiguous


@lru_cache(maxsize=1 << 16)
def split_of(name: str) -> str | None:
    """The split that a name mentions: ``instances_val2017`` mentions ``val``."""
    for split, word in SPLIT_WORDS.items():
        if re.search(rf"(?<![a-z]){word}(?![a-z])", name.lower()):
            return split
    return None


@lru_cache(maxsize=1 << 16)
def split_named(folder: str) -> str | None:
    """The split that a folder is named after: ``val2017`` is named after ``val``, ``test_bench`` after none."""
    return next((s for s, word in SPLIT_WORDS.items() if re.fullmatch(rf"{word}\d*", folder.lower())), None)


def suffix_of(path: str) -> str:
    """The suffix in lower case, without the dot."""
    return posixpath.splitext(path)[1][1:].lower()


@lru_cache(maxsize=1 << 16)
def key_of(text: str) -> str:
    """A key that is equal for all spellings of a name: NFC, case-folded, percent-escapes decoded."""
    return unicodedata.normalize("NFC", unquote(text)).casefold()


def stem_of(path: str) -> str:
    """The key of a file name without suffix, which annotation files of single images are matched by."""
    return key_of(posixpath.splitext(posixpath.basename(path))[0])


def parts_of(name: str) -> Parts:
    """The parts of a path from any operating system, without drive, root, ``.`` and ``..``."""
    path = name.partition("?d=")[2] or name  # Label Studio: /data/local-files/?d=PATH
    parts = path.replace("\\", "/").split("/")
    if re.fullmatch(r"[A-Za-z]:", parts[0]):
        del parts[0]
    return tuple(part for part in parts if part not in ("", ".", ".."))


class Match(NamedTuple):
    """A file found for a name.

    Attributes:
        path: the file, as listed.
        base: the folder that the name is relative to, with a trailing slash unless empty; None if the name differs from
            the path.
        moved: only the end of the name matches, or the file is not in the folder of the others.
    """

    path: str
    base: str | None
    moved: bool


class Finder:
    """Finds files by names.

    A name refers to the file with the longest common end. Ties are broken, in this order, by: the same spelling, not
    being the only match of another name, the folder of the annotations, the longest common start, a folder named
    ``images``, the base folder of most names, the folder of the split, and the smaller depth. Names that remain
    ambiguous are not found.

    If only the end matches, files are excluded that are outside a folder of the name, in the folder of another split,
    or matched by another name.

    Args:
        files: relative paths with forward slashes.
        stems: match without suffixes.
        aliases: other paths of listed files, mapped to the listed ones.
    """

    def __init__(self, files: Iterable[str], *, stems: bool = False, aliases: Mapping[str, str] | None = None) -> None:
        self._files = list(files)
        listed = set(self._files) if aliases else set()
        self._aliases = {alias: path for alias, path in (aliases or {}).items() if path in listed}
        self._stems = stems
        self._tails: dict[int, dict[Parts, list[str]]] = {}

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def find(self, name: str, split: str | None = None, *, near: str = "", local: bool = False) -> Match | None:
        """The file that a name refers to, or None; arguments as for `find_all`."""
        return self.find_all([name], split, near=near, local=local).get(name)

    def find_all(
        self, names: Iterable[str], split: str | None = None, *, near: str = "", local: bool = False
    ) -> dict[str, Match]:
        """The files that names refer to; names without a file are left out.

        Args:
            names: as in the annotations; without suffixes if the finder matches stems.
            split: the split of the names.
            near: the folder of the annotations, with a trailing slash unless empty.
            local: the names are relative to the root of the tree, so all of their folders are significant, not only the
                last.
        """
        candidates = {name: self._candidates(name, split, local=local) for name in dict.fromkeys(names)}
        bases = Counter(base for found in candidates.values() for base in {m.base for m in found if m.base is not None})
        exact, inexact = {}, {}
        literal = {name: [m for m in matches if m.base is not None] for name, matches in candidates.items()}
        certain = {matches[0].path for matches in literal.values() if len(matches) == 1}
        for name, matches in literal.items():
            fit = [match for match in matches if len(matches) == 1 or match.path not in certain]
            best = self._best(name, fit, bases, split, near)
            if len(best) == 1:
                exact[name] = best[0]
        taken = {match.path for match in exact.values()}
        for name, matches in candidates.items():
            fit = [match for match in matches if match.base is None and match.path not in taken]
            if name not in exact and not any(match.base is not None for match in matches):
                best = self._best(name, fit, bases, split, near)
                if len(best) == 1:
                    inexact[name] = best[0]
        return self._with_strays(exact) | self._undisputed(inexact)

    @staticmethod
    def _with_strays(found: dict[str, Match]) -> dict[str, Match]:
        """Mark files outside the folder of the others as moved."""
        starts = Counter(match.base for match in found.values())
        if len(starts) < 2:
            return found
        home = max(starts, key=lambda base: (starts[base], "images/" in f"/{base}", base))
        return {name: match._replace(moved=match.moved or match.base != home) for name, match in found.items()}

    def rivals(self, name: str, split: str | None = None) -> list[str]:
        """The files that match a name equally well, if there are several."""
        matches = self._candidates(name, split, local=False)
        best = self._best(name, [m for m in matches if m.base is not None] or matches, Counter(), split, "")
        return sorted(match.path for match in best) if len(best) > 1 else []

    def _undisputed(self, found: Mapping[str, Match]) -> dict[str, Match]:
        """Among names for the same file, keep the one with the longest common end, if it is unique."""
        rivals: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        for name, match in found.items():
            ends = zip(parts_of(name)[::-1], self._name(match.path).split("/")[::-1], strict=False)
            same = takewhile(lambda pair: key_of(pair[0]) == key_of(pair[1]), ends)
            rivals[match.path].append((sum(1 for _ in same), name))
        best = {path: max(names) for path, names in rivals.items() if len(names) == 1 or _leads(names)}
        return {name: found[name] for _, name in best.values()}

    def _candidates(self, name: str, split: str | None, *, local: bool) -> list[Match]:
        """All files with the longest common end with a name, without excluded ones."""
        parts = parts_of(name)
        for length in range(len(parts), 0, -1):
            paths = self._with_tail(length).get(tuple(map(key_of, parts[-length:])), [])
            if not paths:
                continue
            if length < len(parts):
                own = {key_of(part) for part in (parts[:-length] if local else parts[-length - 1 : -length])}
                own &= self._folders
                few = paths if len(paths) <= _MAX_CANDIDATES else []
                paths = [path for path in few if own <= _folder_keys(path)]
            return [self._match(p, parts, length) for p in paths if not self._of_other_split(p, length, split)]
        return []

    def _name(self, path: str) -> str:
        return posixpath.splitext(path)[0] if self._stems else path

    def _with_tail(self, length: int) -> dict[Parts, list[str]]:
        """Files by the keys of their last ``length`` parts."""
        if length not in self._tails:
            table: defaultdict[Parts, list[str]] = defaultdict(list)
            for path, listed in (*zip(self._files, self._files, strict=True), *self._aliases.items()):
                parts = self._name(path).split("/")
                if len(parts) >= length and listed not in (found := table[tuple(map(key_of, parts[-length:]))])[-1:]:
                    found.append(listed)
            self._tails[length] = dict(table)
        return self._tails[length]

    @cached_property
    def _folders(self) -> set[str]:
        """The keys of all folders with images, at any depth."""
        folders = {posixpath.dirname(path) for path in self._files if suffix_of(path) in SUFFIXES}
        return {key_of(part) for folder in folders for part in folder.split("/") if part}

    @cached_property
    def _splits(self) -> set[str]:
        """The splits mentioned by folders."""
        folders = {part for path in self._files for part in posixpath.dirname(path).split("/")}
        return {split for folder in folders if (split := split_of(folder)) is not None}

    def _of_other_split(self, path: str, matched: int, split: str | None) -> bool:
        """Whether the folders of a path, without its ``matched`` last parts, belong to another split.

        A folder that only mentions a split, such as ``test_bench``, counts only if the own split has a folder.
        """
        if split in (None, UNSPLIT):
            return False
        folders = path.split("/")[:-matched]
        splits = {found for folder in folders if (found := split_of(folder)) is not None}
        named = {found for folder in folders if (found := split_named(folder)) is not None}
        return split not in splits and bool(splits if split in self._splits else named)

    def _match(self, path: str, parts: Parts, length: int) -> Match:
        stripped = self._name(path).split("/")
        literal = length == len(parts) and tuple(stripped[-length:]) == parts
        start = "".join(f"{part}/" for part in stripped[:-length])
        return Match(path, start if literal else None, length < len(parts))

    def _best(
        self, name: str, matches: Sequence[Match], bases: Counter[str], split: str | None, near: str
    ) -> list[Match]:
        """The matches with the highest rank."""
        if len(matches) < 2:
            return list(matches)
        parts = tuple(map(key_of, parts_of(name)))

        def rank(match: Match) -> tuple[bool, int, bool, int, bool, int]:
            folders = match.path.split("/")[:-1]
            keys = list(map(key_of, folders))
            shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(keys, parts, strict=False)))
            base = match.base if match.base is not None else f"{'/'.join(folders)}/"
            own_split = split is not None and any(split_of(part) == split for part in folders)
            return match.path.startswith(near), shared, "images" in keys, bases[base], own_split, -len(folders)

        ranks = [rank(match) for match in matches]
        return [match for match, its in zip(matches, ranks, strict=True) if its == max(ranks)]


def _leads(names: Sequence[tuple[int, str]]) -> bool:
    """Whether the longest common end is unique."""
    first, second = sorted((length for length, _ in names), reverse=True)[:2]
    return first > second


def _folder_keys(path: str) -> set[str]:
    return set(map(key_of, path.split("/")[:-1]))


@dataclass(frozen=True)
class FileTree:
    """The files below a folder.

    Attributes:
        root: the folder.
        files: relative paths of all files, with forward slashes, without hidden ones.
        unlisted: errors of folders that could not be listed, by relative path.
        aliases: other paths of files through links, mapped to the path in ``files``.
    """

    root: Path
    files: Sequence[str]
    unlisted: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path) -> FileTree:
        """List a folder, following links."""
        errors: list[OSError] = []
        files: list[str] = []
        real: dict[str, str] = {}  # folders, links resolved
        first: dict[str, str] = {}  # paths in the tree, by real folder
        aliases: dict[str, str] = {}
        for path in visible_files(root, on_error=errors.append, again=True):
            folder, name = posixpath.split(path)
            if folder not in real:
                real[folder] = os.path.realpath(root / folder)
            if (listed := first.setdefault(real[folder], folder)) == folder:
                files.append(path)
            else:
                aliases[path] = posixpath.join(listed, name)
        unlisted = {Path(e.filename).relative_to(root).as_posix(): e.strerror or str(e) for e in errors}
        return cls(root, tuple(files), unlisted, aliases)

    def extended(self, folders: Collection[Path]) -> FileTree:
        """The tree with the files of further folders; its root is their common ancestor. Links are listed once."""
        if not folders:
            return self
        root = Path(os.path.commonpath([self.root, *folders]))
        files = {
            f"{folder.relative_to(root).as_posix()}/{path}".removeprefix("./")
            for folder in {*folders, self.root}
            for path in visible_files(folder)
        }
        return FileTree(root, sorted(files))

    def with_suffix(self, *suffixes: str) -> list[str]:
        """The files with one of these suffixes, given in lower case without the dot."""
        return [path for path in self.files if suffix_of(path) in suffixes]

    @cached_property
    def image_names(self) -> Counter[str]:
        """Numbers of images by stem, see `stem_of`."""
        return Counter(map(stem_of, self.images))

    @cached_property
    def file_set(self) -> frozenset[str]:
        """``files`` as a set."""
        return frozenset(self.files)

    @cached_property
    def all(self) -> Finder:
        """Finder of all files."""
        return Finder(self.files, aliases=self.aliases)

    @cached_property
    def images(self) -> Finder:
        """Finder of image files in supported formats."""
        return Finder(self.with_suffix(*SUFFIXES), aliases=self.aliases)

    @cached_property
    def image_stems(self) -> Finder:
        """Finder of image files in supported formats, by names without suffix."""
        return Finder(self.with_suffix(*SUFFIXES), stems=True, aliases=self.aliases)

    @cached_property
    def unread_images(self) -> list[str]:
        """Image files in unsupported formats."""
        return self.with_suffix(*UNREAD_SUFFIXES)
