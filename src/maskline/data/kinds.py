"""What an annotation file is, told from its suffix and its first bytes."""

from __future__ import annotations

import re
from pathlib import Path

from maskline.data.tree import suffix_of

#: COCO's files for other tasks than instances; they hold no masks of instances, or repeat those of ``instances_*``.
OTHER_COCO_TASKS = ("captions", "person_keypoints", "stuff", "panoptic", "image_info")

_HEAD = 1 << 16  # bytes that tell a kind
_COCO_NAME = re.compile(r"instances?_\w+|_annotations\.coco")


def kind_of(root: Path, path: str) -> str | None:
    """The kind of a file: a key of `maskline.data.foreign.KINDS`, or of a format; None for anything else.

    Args:
        root: the folder of the data set.
        path: the file, relative to it. A file that can't be read is of the kind that its name says, if any.
    """
    suffix = suffix_of(path)
    if suffix not in ("json", "geojson", "xml"):
        return None
    try:
        with (root / path).open("rb") as file:
            head = file.read(_HEAD).replace(b"\0", b"")  # UTF-16
    except OSError:
        head = b""
    if suffix == "xml":
        return "cvat" if re.search(rb"<annotations[\s>]", head) else None
    return _kind_of_json(Path(path).stem, head)


def _kind_of_json(stem: str, head: bytes) -> str | None:
    if _COCO_NAME.fullmatch(stem):
        return "coco"
    if (_has(head, "shapes") and (_has(head, "imagePath") or _has(head, "imageData"))) or _starts_with(
        head, "imageData"
    ):
        return "labelme"
    if stem.startswith(OTHER_COCO_TASKS):
        return None
    if re.search(rb'"images"\s*:\s*\[', head) or (_has(head, "annotations") and _has(head, "category_id")):
        return "coco"
    return None


def _has(head: bytes, key: str) -> bool:
    return re.search(rb'"%s"\s*:' % key.encode(), head) is not None


def _starts_with(head: bytes, key: str) -> bool:
    return re.match(rb'\s*\{\s*"%s"\s*:' % key.encode(), head) is not None
