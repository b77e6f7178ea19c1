"""Cityscapes: ``gtFine/<split>/<city>`` with maps of instances, ``leftImg8bit/<split>/<city>`` with their images.

The map of ``<stem>_leftImg8bit.png`` is ``<stem>_gtFine_instanceIds.png``, or ``<stem>_gtCoarse_instanceIds.png``. A
value of 1000 and more is an instance: 1000 times its class, and a number. A smaller one is a class: of a thing it is a
group that could not be taken apart, which becomes a crowd. ``instanceTrainIds`` has the same with other numbers for the
classes. https://github.com/mcordts/cityscapesScripts
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from maskline.data.faults import Reading, UnusableError
from maskline.data.formats.assembly import Assembly
from maskline.data.formats.pngs import masks_of, read_png
from maskline.data.source import Source
from maskline.errors import InputError

TITLE = "Cityscapes"

#: Classes whose instances the benchmark counts, by their id.
THINGS = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
_TRAIN_IDS = dict(enumerate(THINGS.values(), 11))
_UNCOUNTED = {29: "caravan", 30: "trailer"}
_INSTANCES = 1000  # values from here on
_FILE = re.compile(r"(?P<stem>.+?)(?:_(?P<kind>gt[A-Za-z]+))?_instance(?P<train>Train)?Ids\.png")


class _Map(NamedTuple):
    """A file of instances, those to be preferred first."""

    is_coarse: bool
    has_train_ids: bool
    path: str
    stem: str


def detect(source: Source) -> list[str]:
    """The files of instances."""
    return [path for path in source.files if _FILE.fullmatch(PurePosixPath(path).name)]


def read(source: Source) -> Reading:
    """Read all of them, for each image the finest; it belongs to the split that its folder mentions.

    Raises:
        DatasetError: there are none.
    """
    assembly = Assembly(source)
    assembly.declare(THINGS.values())
    maps: dict[str, dict[str, list[_Map]]] = {}
    for path in detect(source):
        match = _FILE.fullmatch(PurePosixPath(path).name)
        if match is not None:
            stem = match["stem"]
            found = _Map(match["kind"] == "gtCoarse", match["train"] is not None, path, stem)
            maps.setdefault(assembly.split(path, of_one_image=True), {}).setdefault(stem, []).append(found)
    for split, by_stem in maps.items():
        _read_split(assembly, split, [min(found) for found in by_stem.values()])
        if extra := sum(len(found) - 1 for found in by_stem.values()):
            what = f"{extra} files of instances: those with finer outlines, or with instanceIds, were read"
            assembly.fault("file-repeated", split, source.root.name, what)
    return assembly.reading("files called ..._instanceIds.png")


def _read_split(assembly: Assembly, split: str, maps: list[_Map]) -> None:
    names = {found: str(PurePosixPath(found.path).parent / f"{found.stem}_leftImg8bit") for found in maps}
    paths = assembly.find(names.values(), split)
    others = {found: str(PurePosixPath(name).parent / found.stem) for found, name in names.items() if name not in paths}
    paths |= assembly.find(others.values(), split)
    ignored: Counter[str] = Counter()
    for found in maps:
        path = paths.get(names[found]) or paths.get(others.get(found, ""))
        _read_map(assembly, split, found, path, ignored)
    if ignored:
        kinds = ", ".join(f"{number} {name}" for name, number in ignored.most_common())
        what = f"instances of classes that the benchmark does not count: {kinds}"
        assembly.fault("shape-ignored", split, assembly.source.root.name, what, lost=ignored.total())


def _read_map(assembly: Assembly, split: str, found: _Map, path: str | None, ignored: Counter[str]) -> None:
    classes: Mapping[int, str] = _TRAIN_IDS if found.has_train_ids else THINGS
    try:
        mode, values = read_png(assembly.source.root / found.path)
        if values.ndim != 2:
            raise InputError(f"pixels of the kind {mode}: expected numbers of 16 bits")
    except InputError as error:
        assembly.leave_out(UnusableError("rle-broken", str(error)), split, found.path, 0)
        return
    masks = dict(masks_of(values, (values >= _INSTANCES) | np.isin(values, list(classes))))
    image = assembly.image(split, found.path, found.stem, path, annotations=len(masks), size=values.shape)
    if image is None:
        return
    for value, mask in masks.items():
        key = value // _INSTANCES if value >= _INSTANCES else value
        if key in classes:
            assembly.add(split, image, classes[key], mask, crowd=value < _INSTANCES)
        else:
            ignored[_UNCOUNTED.get(key, f"of class {key}")] += 1
