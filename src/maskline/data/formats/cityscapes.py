"""Cityscapes: instance maps in ``gtFine/<split>/<city>``, images in ``leftImg8bit/<split>/<city>``.

The map of ``<stem>_leftImg8bit.png`` is ``<stem>_gtFine_instanceIds.png``, or ``<stem>_gtCoarse_instanceIds.png``. A
value of 1000 or more is an instance: 1000 times its class, plus a number. A smaller one is a class: for a thing, a
group of inseparable instances, which becomes a crowd. ``instanceTrainIds`` is the same with other class numbers. https://github.com/mcordts/cityscapesScripts
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath

import numpy as np

from maskline._wording import counted
from maskline.data.faults import Fault, Reading, UnusableError
from maskline.data.file_tree import UNSPLIT
from maskline.data.formats.assembly import Assembly, Sheet, located
from maskline.data.formats.pngs import masks_of, read_png
from maskline.data.source import Source
from maskline.errors import InputError

TITLE = "Cityscapes"

#: Classes whose instances the benchmark evaluates, by id.
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
_INSTANCES = 1000  # lowest value of an instance
_FILE = re.compile(r"(?P<stem>.+?)(?:_gt[A-Za-z]+)?_instance(?:Train)?Ids\.png")


def detect(source: Source) -> list[str]:
    """The instance maps."""
    return [path for path in source.files if _FILE.fullmatch(PurePosixPath(path).name)]


def read(source: Source) -> Reading:
    """Read the finest map of each image; its split is the one that its folder mentions.

    Raises:
        DatasetError: there are no maps.
    """
    assembly = Assembly(source)
    assembly.declare(THINGS.values())
    maps: dict[tuple[str, ...], list[str]] = {}
    for file in detect(source):
        *folders, name = file.split("/")
        key = *(folder for folder in folders if not folder.startswith("gt")), _FILE.sub(r"\g<stem>", name)
        maps.setdefault(key, []).append(file)
    images = {min(paths, key=_rank): f"leftImg8bit/{'/'.join(key)}_leftImg8bit" for key, paths in maps.items()}
    for sheet, name, path in located(assembly, images):
        _read_map(sheet, name, path)
    if others := sum(map(len, maps.values())) - len(images):
        what = f"{counted(others, 'map')} of images that have one with finer outlines, or one with instanceIds"
        assembly.faults.append(Fault("file-repeated", UNSPLIT, source.root.name, what))
    return assembly.reading("files called ..._instanceIds.png")


def _rank(path: str) -> tuple[bool, bool]:
    """Sort key of the maps of an image; the lowest is read."""
    return "_gtCoarse_" in path, _has_train_ids(path)


def _has_train_ids(path: str) -> bool:
    return path.endswith("TrainIds.png")


def _read_map(sheet: Sheet, name: str, path: str | None) -> None:
    classes: Mapping[int, str] = _TRAIN_IDS if _has_train_ids(sheet.file) else THINGS
    try:
        mode, values = read_png(sheet.assembly.source.root / sheet.file)
        if values.ndim != 2:
            raise InputError(f"pixels of the mode {mode}: expected 16-bit integers")
    except InputError as error:
        sheet.leave_out(UnusableError("rle-broken", str(error)), 0)
        return
    masks = dict(masks_of(values, (values >= _INSTANCES) | np.isin(values, list(classes))))
    image = sheet.image(name, path, annotations=len(masks), size=values.shape)
    if image is None:
        return
    ignored: Counter[str] = Counter()
    for value, mask in masks.items():
        key = value // _INSTANCES if value >= _INSTANCES else value
        if key in classes:
            sheet.add(image, classes[key], mask, crowd=value < _INSTANCES)
        else:
            ignored[_UNCOUNTED.get(key, f"class {key}")] += 1
    if ignored:
        kinds = ", ".join(f"{number} of {kind}" for kind, number in ignored.most_common())
        what = f"instances of classes that the benchmark does not count: {kinds}"
        sheet.fault("shape-ignored", what, image, lost=ignored.total())
