"""Recognize kinds of annotation files by suffix, first and last bytes."""

from __future__ import annotations

import codecs
import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from maskline.data.file_access import LFS_POINTER
from maskline.data.file_tree import suffix_of

#: Names of COCO's files for other tasks. Read only if there are no others: they have no masks, or the same ones.
_OTHER_COCO_TASK = re.compile(r"(lvis_v\d(\.\d)?_)?(captions|person_keypoints|stuff|image_info)")
OTHER_COCO = "coco of another task"

#: A file with the suffix of annotations that is empty, truncated, or the web page of a failed download.
DAMAGED = "damaged"

_PART = 1 << 16  # bytes read at either end
_JSON_SUFFIXES = ("json", "geojson")
_SUFFIXES_READ = (*_JSON_SUFFIXES, "xml", "csv", "ndjson", "jsonl")
_COCO_KEYS = frozenset(("images", "annotations", "categories"))
_COCO_NAME = re.compile(r"instances?_\w+|_annotations\.coco")
_CHUNK = 1 << 24  # bytes searched at once
_KEY_AND_LIST = re.compile(rb'"[^"\\\s]{1,40}"\s*:\s*\[?')
_KEY = re.compile(r'"([^"\\]{1,40})"\s*:')
_SUFFIXES = {"tfrecord": "tfrecord", "tfrecords": "tfrecord", "parquet": "parquet"}  # kinds identified by suffix


class _Signs(NamedTuple):
    """Keys that identify a kind of JSON file: all of ``all_of``, and at least one of ``one_of`` unless empty.

    Attributes:
        is_list: whether the file is a list; None if both occur.
    """

    kind: str
    all_of: frozenset[str]
    one_of: frozenset[str] = frozenset()
    is_list: bool | None = None


def _signs(kind: str, all_of: str, one_of: str = "", *, is_list: bool | None = None) -> _Signs:
    return _Signs(kind, frozenset(all_of.split()), frozenset(one_of.split()), is_list)


# The first match wins: these, then COCO, then the others.
_BEFORE_COCO = (
    _signs("labelme", "shapes", "imagePath imageData imageHeight"),
    _signs("panoptic", "segments_info"),
    _signs("labelstudio", "annotations data", "result completed_by was_cancelled file_upload", is_list=True),
    _signs("labelstudio", "annotations data from_name to_name", is_list=False),
    _signs("labelstudio", "completions data", "result"),
    _signs("labelstudio", "annotator annotation_id", is_list=True),
)
_AFTER_COCO = (
    _signs("coco", "annotations category_id"),
    _signs("coco", "categories category_id bbox", is_list=False),
    _signs("sa1b", "annotations", "predicted_iou stability_score"),
    _signs("via", "shape_attributes"),
    _signs("via", "", "_via_img_metadata _via_settings"),
    _signs("via", "filename regions file_attributes"),
    _signs("supervisely", "objects classTitle"),
    _signs("supervisely", "objects size tags"),
    _signs("via-3", "project vid_list"),
    _signs("darwin", "annotations", "schema_ref slot_names workview_url"),
    _signs("datumaro", "", "dm_format_version"),
    _signs("datumaro", "items categories info"),
    _signs("labelbox", "data_row"),
    _signs("createml", "annotations coordinates", is_list=True),
    _signs("gis", "features geometry crs"),
    _signs("geojson", "geometry coordinates"),
    _signs("eiseg", "labelIdx"),
    _signs("cityscapes-polygons", "objects imgHeight imgWidth"),
    _signs("isat", "objects info"),
    _signs("mapillary", "objects polygon height width"),
    _signs("ade20k", "annotation object filename"),
)
_JSON_LINES = (_signs("labelbox", "data_row"), _signs("ultralytics", "type", "task class_names"))

_IMAGE_COLUMNS = (
    "imageid",
    "image_id",
    "imageid_classid",
    "image_label",
    "id",
    "image",
    "img",
    "filename",
    "file_name",
)
_RLE_COLUMNS = ("encodedpixels", "encoded_pixels", "rle", "rle_mask", "mask_rle", "encoding")
#: RLE columns that require other columns.
_RLE_BESIDE = {"annotation": ("width", "height"), "segmentation": ("id", "class")}


def kind_of(root: Path, path: str) -> str | None:
    """The kind of a file: a key of `maskline.data.unsupported.KINDS` or of a format; None for anything else.

    Args:
        root: the folder of the data set.
        path: the file, relative to it. The kind of an unreadable file follows from its name, if possible.
    """
    suffix = suffix_of(path).partition("-")[0]  # .tfrecord-00000-of-00010
    if suffix not in _SUFFIXES_READ:
        return _SUFFIXES.get(suffix)
    try:
        ends = _Ends.of(root / path)
    except OSError:
        return "coco" if suffix == "json" and _COCO_NAME.fullmatch(Path(path).stem) else DAMAGED
    found = _kind(suffix, Path(path).stem, ends)
    if found is None and ends.damage(suffix):
        return DAMAGED
    if found is None and ends.tail and suffix in _JSON_SUFFIXES:
        found = _kind(suffix, Path(path).stem, ends.with_keys(root / path))
    return found or ("geojson" if suffix == "geojson" else None)


def damage(root: Path, path: str) -> str:
    """Describe what is wrong with a file of the kind `DAMAGED`."""
    try:
        ends = _Ends.of(root / path)
    except OSError as error:
        return f"it can't be read: {error.strerror}"
    return ends.damage(suffix_of(path)) or ""


class _Ends(NamedTuple):
    """Start and end of a file as text; the end is empty if the start is the whole file."""

    head: str
    tail: str

    @classmethod
    def of(cls, path: Path) -> _Ends:
        """Read both ends. Raises OSError."""
        with path.open("rb") as file:
            head = file.read(_PART)
            rest = max(file.seek(0, os.SEEK_END) - len(head), 0)
            file.seek(-min(rest, _PART), os.SEEK_END)
            tail = file.read() if rest else b""
        head = head.removeprefix(codecs.BOM_UTF16_LE).removeprefix(codecs.BOM_UTF16_BE)
        return cls(*(part.replace(b"\0", b"").decode("utf-8", "replace") for part in (head, tail)))  # \0: UTF-16

    def with_keys(self, path: Path) -> _Ends:
        """Replace the end by all keys of the file."""
        keys: set[str] = set()
        with path.open("rb") as file:
            before = b""
            while part := file.read(_CHUNK):
                keys |= {match[0].decode("utf-8", "replace") for match in _KEY_AND_LIST.finditer(before + part)}
                before = part[-_PART:]
        return _Ends(self.head, " ".join(keys))

    def damage(self, suffix: str) -> str | None:
        """Why a file is damaged; None if it seems complete."""
        text = self.head.strip("\ufeff \t\r\n")
        if not text:
            return "it is empty"
        if text.startswith(LFS_POINTER):
            return "it is a pointer of Git LFS: run git lfs pull"
        if suffix != "xml" and re.match(r"<(!doctype|html)", text, re.IGNORECASE):
            return "it is a web page: download it again"
        end = (self.tail or text).rstrip()
        if suffix in _JSON_SUFFIXES and (text == "null" or not end.endswith(("}", "]") if text[0] in "{[" else end)):
            return "it contains only null" if text == "null" else "it is truncated: download it again"
        if suffix == "xml" and not end.endswith(">"):
            return "it is truncated: download it again"
        return None


def _kind(suffix: str, stem: str, ends: _Ends) -> str | None:
    if suffix == "xml":
        return _kind_of_xml(ends.head)
    if suffix == "csv":
        return _kind_of_csv(ends.head)
    if suffix in ("ndjson", "jsonl"):
        return _fitting(_JSON_LINES, ends)
    return _kind_of_json(stem, ends)


def rle_columns(header: Sequence[str]) -> tuple[str, str] | None:
    """The image and RLE columns of a CSV header in lower case; None unless it has both."""
    image = next((name for name in _IMAGE_COLUMNS if name in header), None)
    runs = next((name for name in _RLE_COLUMNS if name in header), None)
    for name, others in _RLE_BESIDE.items():
        if runs is None and name in header and all(other in header for other in others):
            runs = name
    return None if image is None or runs is None else (image, runs)


def _kind_of_json(stem: str, ends: _Ends) -> str | None:
    if _COCO_NAME.fullmatch(stem) and (ends.damage("json") or _COCO_KEYS & _keys(ends)):
        return "coco"
    if re.match(r'\W*\{\s*"imageData"\s*:', ends.head):  # a base64 image, longer than what is read
        return "labelme"
    found = _fitting(_BEFORE_COCO, ends)
    if found is not None:
        return found
    if any(re.search(r'"images"\s*:\s*\[', text) for text in ends):
        if _OTHER_COCO_TASK.match(stem):
            return OTHER_COCO
        return "panoptic" if "panoptic" in stem else "coco"
    if _OTHER_COCO_TASK.match(stem):
        return None
    return _fitting(_AFTER_COCO, ends)


def _keys(ends: _Ends) -> frozenset[str]:
    return frozenset(key for text in ends for key in _KEY.findall(text))


def _fitting(rows: Sequence[_Signs], ends: _Ends) -> str | None:
    keys = _keys(ends)
    is_list = re.match(r'[^\[{"]*\[', ends.head) is not None
    for row in rows:
        if row.all_of <= keys and (not row.one_of or row.one_of & keys) and row.is_list in (None, is_list):
            return row.kind
    return None


def _kind_of_xml(head: str) -> str | None:
    if re.search(r"<annotations[\s>]", head):
        return "cvat"
    return "voc-boxes" if re.search(r"<annotation[\s>]", head) and "<bndbox>" in head else None


def _kind_of_csv(head: str) -> str | None:
    line = head.lstrip("\ufeff\ufffd#").partition("\n")[0].strip()
    header = [name.strip().lower() for name in next(csv.reader([line]), [])]
    if "region_shape_attributes" in header:
        return "via"
    if {"imageid", "labelname"} <= set(header):
        return "openimages"
    return "kaggle" if rle_columns(header) else None
