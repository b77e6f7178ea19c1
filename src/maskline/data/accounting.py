"""Faults for images and annotation files that a reader did not read, and whether annotations are lost with them."""

from __future__ import annotations

import filecmp
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from maskline._wording import counted, short
from maskline.data import file_kinds, unsupported
from maskline.data.dataset import Dataset
from maskline.data.faults import Fault
from maskline.data.file_tree import UNSPLIT, FileTree, key_of, stem_of, suffix_of
from maskline.data.source import Source

_MAX_NAMES = 5  # in one message


def first_names(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")


def unread_code(images: Iterable[Path], splits: Iterable[Dataset]) -> Literal["file-unread", "file-repeated"]:
    """The fault code for unread annotations of these images.

    ``file-repeated`` if each of the images, or a copy of it, has annotations in ``splits``; else ``file-unread``.
    """
    annotated = {dataset.path(image) for dataset in splits for image in dataset.images if dataset.of(image)}
    others = [path for path in images if path not in annotated]
    if not others:
        return "file-repeated"
    copies: defaultdict[tuple[str, int], list[Path]] = defaultdict(list)
    for path in annotated:
        copies[_size_and_name(path)].append(path)
    repeated = all(any(_same(path, copy) for copy in copies[_size_and_name(path)]) for path in others)
    return "file-repeated" if repeated else "file-unread"


def _size_and_name(path: Path) -> tuple[str, int]:
    try:
        size = path.stat().st_size
    except (OSError, ValueError):
        size = -1
    return key_of(path.name), size


def _same(path: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(path, other, shallow=False)
    except (OSError, ValueError):
        return False


def have_annotated_images(source: Source, files: Sequence[str], splits: Iterable[Dataset]) -> bool:
    """Whether each annotation file has the name of an image with annotations in ``splits``.

    The files are not read. False where two images of the data set share the name.
    """
    annotated = {stem_of(image.file_name) for data in splits for image in data.images if data.of(image)}
    return all(source.images.image_names[stem] == 1 and stem in annotated for stem in map(stem_of, files))


def moved_faults(split: str, file: str, paths: Mapping[str, str]) -> list[Fault]:
    """The fault for images found at other paths, if any.

    Args:
        paths: by the name in the annotations, the path found.
    """
    if not paths:
        return []
    name, path = next(iter(paths.items()))
    return [
        Fault("image-moved", split, file, f"{counted(len(paths), 'image')}, such as {short(name)}: found at {path}")
    ]


def damaged_files(source: Source, read: Collection[str]) -> Iterator[Fault]:
    """A fault for each damaged annotation file, and for each folder that can't be listed.

    A damaged file is an error where annotations are expected: next to files that were read, or with an image's name.

    Args:
        read: files that a reader has used.
    """
    homes = {(PurePosixPath(path).parent, suffix_of(path)) for path in read}
    for path in source.of_kind(file_kinds.DAMAGED):
        if path not in read:
            folder = PurePosixPath(path).parent
            expected = (folder, suffix_of(path)) in homes or stem_of(path) in source.images.image_names
            code = "file" if expected or key_of(folder.name) == "annotations" else "file-unlisted"
            yield Fault(code, UNSPLIT, path, file_kinds.damage(source.root, path))
    for tree in (source.tree,) if source.images is source.tree else (source.tree, source.images):
        for path, why in tree.unlisted.items():
            yield Fault("file", UNSPLIT, str(tree.root / path), f"the folder can't be listed: {why}")


def unsupported_files(source: Source, splits: Sequence[Dataset]) -> Iterator[Fault]:
    """A fault for the files of each recognized but unsupported format."""
    for kind, (title, advice) in unsupported.KINDS.items():
        files = source.of_kind(kind) if kind != "voc-boxes" else []  # VOC has them next to its masks
        if not files or have_annotated_images(source, files, splits):
            continue
        of_images = [path for path in files if stem_of(path) in source.images.image_names]
        what = f"{counted(len(files), 'file')} not read: {title}; {advice}"
        yield Fault("file-unread" if of_images else "file-unlisted", UNSPLIT, (of_images or files)[0], what)


def unlisted_images(source: Source, splits: Mapping[str, Dataset], faults: Iterable[Fault]) -> Iterator[Fault]:
    """Faults for image files in the folders of the splits that no split lists, in supported and unsupported formats.

    Args:
        faults: those found by the reader. Images whose record could not be used count as listed.
    """
    listed = {dataset.path(image) for dataset in splits.values() for image in dataset.images}
    listed |= {splits[split].folder / name for fault in faults for split, name in fault.others if split in splits}
    for folder in dict.fromkeys(dataset.folder for dataset in splits.values()):
        for code, paths in (
            ("image-unlisted", source.images.images),
            ("image-format", source.images.unread_images),
        ):
            names = list(_inside(source.images, folder, paths, listed))
            if names:
                split = next(split for split, dataset in splits.items() if dataset.folder == folder)
                kinds = Counter(f".{suffix_of(name)}" for name in names)
                counts = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
                what = f"{counted(len(names), 'image')} ({counts}): {first_names(names)}"
                yield Fault(code, split, folder.name, what)


def _inside(tree: FileTree, folder: Path, paths: Iterable[str], listed: set[Path]) -> Iterator[str]:
    """The paths below a folder that are not listed, relative to it."""
    for path in paths:
        whole = tree.root / path
        if whole.is_relative_to(folder) and whole not in listed:
            yield whole.relative_to(folder).as_posix()
