"""A data set as given by the user: a folder or annotation file, and the folder to search for images."""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from maskline._checks import check_path
from maskline._files import AnyPath
from maskline.data.file_kinds import kind_of
from maskline.data.file_tree import FileTree
from maskline.errors import DatasetNotFoundError

_ANNOTATION_FOLDERS = ("annotations", "labels")  # the images are next to these, not in them


@dataclass(frozen=True)
class Located:
    """Locations of the images of a split, by their names in the annotations.

    Attributes:
        folder: the common folder of all images.
        paths: paths below the folder; names without a file are left out.
        moved: paths of those images for which only the end of the name matches.
        rivals: for ambiguous names, the files that match equally well.
    """

    folder: Path
    paths: Mapping[str, str]
    moved: Mapping[str, str] = field(default_factory=dict)
    rivals: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A data set to read.

    Attributes:
        given: the folder or file given by the user.
        tree: the files of the data set.
        images: the files to search for images; ``tree`` unless another folder is given.
        file: the annotation file given, relative to ``tree.root``; None for a folder.
        folder: the folder given, likewise, with a trailing slash unless it is the root.
    """

    given: Path
    tree: FileTree
    images: FileTree
    file: str | None = None
    folder: str = ""

    @classmethod
    def of(cls, path: AnyPath, images: AnyPath | None = None) -> Source:
        """List the files of a data set.

        Args:
            path: a folder or an annotation file.
            images: the folder with the images, if different.

        Raises:
            DatasetNotFoundError: one of them does not exist, or ``images`` is not a folder.
        """
        path, images = check_path(path, "path"), None if images is None else check_path(images, "images")
        if not path.exists():
            raise DatasetNotFoundError(f"{path} does not exist: expected a data set's folder or annotation file")
        if images is not None and not images.is_dir():
            raise DatasetNotFoundError(f"{images} is not a folder: expected the folder with the images")
        whole = Path(os.path.abspath(path))  # noqa: PTH100 (links stay)
        folder = whole if path.is_dir() else whole.parent
        tree = FileTree.of(folder)
        if not any(_is_image(tree, path) for path in tree.images) and (above := _above_annotations(folder)) is not None:
            tree = FileTree.of(above)
        inside = whole.relative_to(tree.root).as_posix()
        looked_in = tree if images is None else FileTree.of(Path(os.path.abspath(images)))  # noqa: PTH100
        if path.is_dir():
            return cls(path, tree, looked_in, folder="" if inside == "." else f"{inside}/")
        return cls(path, tree, looked_in, inside)

    @property
    def root(self) -> Path:
        """The folder of the data set."""
        return self.tree.root

    @cached_property
    def files(self) -> Sequence[str]:
        """The files that may contain annotations: those in the folder given, or the one file."""
        if self.file is not None:
            return (self.file,)
        return [path for path in self.tree.files if path.startswith(self.folder)]

    def of_kind(self, kind: str) -> list[str]:
        """The annotation files of a kind of `maskline.data.file_kinds`."""
        return self._by_kind.get(kind, [])

    def locate(self, names: Collection[str], split: str | None = None, near: str = "") -> Located:
        """Find the images that names in annotations refer to, see `Finder`.

        Args:
            near: the folder of the annotations, with a trailing slash unless empty.
        """
        found = self.images.all.find_all(names, split, near=near)
        bases = {match.base for match in found.values()}
        moved = {name: match.path for name, match in found.items() if match.moved}
        if len(bases) == 1 and None not in bases:
            base = bases.pop() or ""
        else:
            folders = {posixpath.dirname(match.path) for match in found.values()}
            common = posixpath.commonpath([f"/{folder}" for folder in folders])[1:] if folders else "images"
            base = f"{common}/" if common else ""
        folder = self.images.root / base
        if not found and not folder.is_dir():
            base, folder = "", self.images.root
        missing = (name for name in names if name not in found)
        rivals = {name: paths for name in missing if (paths := self.images.all.rivals(name, split))}
        return Located(folder, {name: match.path.removeprefix(base) for name, match in found.items()}, moved, rivals)

    @cached_property
    def _by_kind(self) -> Mapping[str, list[str]]:
        found: defaultdict[str, list[str]] = defaultdict(list)
        for path in self.files:
            kind = kind_of(self.root, path)
            if kind is not None:
                found[kind].append(path)
        return found


def _above_annotations(folder: Path) -> Path | None:
    """The parent of a folder named ``annotations`` or ``labels``; ``folder`` is that folder or a child of it."""
    named = (part.parent for part in (folder, folder.parent) if part.name.lower() in _ANNOTATION_FOLDERS)
    return next(named, None)


def _is_image(tree: FileTree, path: str) -> bool:
    """Whether an image is not a mask of COCO panoptic: those are in a folder named like the JSON file."""
    folder = posixpath.dirname(path)
    return not folder or f"{folder}.json" not in tree.file_set
