"""Formats that are recognized but not supported, and how to convert each of them."""

from __future__ import annotations

import itertools
import posixpath
import re
from collections import defaultdict
from typing import NamedTuple

from maskline.data.file_tree import key_of
from maskline.data.source import Source
from maskline.inputs import SUFFIXES


class Unsupported(NamedTuple):
    """An unsupported format.

    Attributes:
        title: description of its files.
        advice: how to convert them.
    """

    title: str
    advice: str


_LABEL_IMAGES = "write the mask of each label into a COCO file (with RLE from pycocotools.mask.encode)"

#: By the kinds of `maskline.data.file_kinds`, and by those recognized by file names only.
KINDS = {
    "tfrecord": Unsupported("TFRecord files", "export the data set as COCO with the original tool"),
    "parquet": Unsupported(
        "Parquet files (Hugging Face)", "write their images and a COCO file with the datasets package"
    ),
    "openimages": Unsupported("Open Images files", "load them with FiftyOne and export a COCODetectionDataset"),
    "sa1b": Unsupported("SA-1B files", "merge their annotations, which have no classes, into one COCO file"),
    "isat": Unsupported("ISAT files", "convert them to COCO in ISAT"),
    "ade20k": Unsupported("ADE20K files", "convert their instance maps to COCO"),
    "mapillary": Unsupported("Mapillary Vistas files", "convert their polygons to COCO"),
    "darwin": Unsupported("Darwin files (V7)", "export the data set as COCO, or convert it with darwin-py"),
    "datumaro": Unsupported("Datumaro files", "run: datum convert -i DIR -if datumaro -f coco -o NEW -- --save-media"),
    "eiseg": Unsupported("EISeg files", "save the annotations as COCO in EISeg"),
    "createml": Unsupported("CreateML files", "these are boxes: export polygons as COCO"),
    "labelbox": Unsupported("Labelbox files", "convert them to COCO with Labelbox's SDK"),
    "ultralytics": Unsupported("Ultralytics NDJSON files", "export the data set as YOLO: data.yaml, images and labels"),
    "voc-boxes": Unsupported("Pascal VOC boxes", "add instance masks in SegmentationObject"),
    "cityscapes-polygons": Unsupported("Cityscapes polygons", "create the instanceIds files with cityscapesScripts"),
    "gis": Unsupported("GeoJSON files in geographic coordinates", "convert them to pixel coordinates"),
    "via-3": Unsupported("VIA 3 projects", "use VIA 2 for images"),
    "cellpose": Unsupported("Cellpose masks", _LABEL_IMAGES),
    "objects": Unsupported("mask images of one object each", _LABEL_IMAGES),
    "labels": Unsupported("label images", _LABEL_IMAGES),
}

_MASK_FOLDERS = re.compile(r"masks?|labels?|instances?|annotations?|gt")
_IMAGE_FOLDERS = re.compile(r"images?|imgs?|raw|inputs?")


def describe(source: Source) -> str | None:
    """Describe the unsupported format of a data set; None if none is recognized.

    Returns:
        A predicate for the name of the data set, such as ``holds SA-1B files (sa_1.json), which are not read: ...``.
    """
    found = {kind: source.of_kind(kind) for kind in KINDS}
    if not any(found.values()):
        found = _named_files(source)
    kind, files = max(found.items(), key=lambda item: len(item[1]), default=("", []))
    if not files:
        return None
    counted = files[0] if len(files) == 1 else f"{len(files)}, such as {files[0]}"
    return f"holds {KINDS[kind].title} ({counted}), which are not read: {KINDS[kind].advice}"


def _named_files(source: Source) -> dict[str, list[str]]:
    """Files recognized by their names and folders only."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    siblings: defaultdict[str, defaultdict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for path in source.files:
        folder, name = posixpath.split(path)
        stem, suffix = posixpath.splitext(key_of(name))
        if re.search(r"_seg\.npy$|_(cp_)?masks\.(png|tiff?)$", key_of(name)):
            found["cellpose"].append(path)
        elif re.search(r"_seg\.png$|_parts_\d\.png$", key_of(name)):
            found["ade20k"].append(path)
        elif suffix[1:] in SUFFIXES:
            parent, own = posixpath.split(folder)
            siblings[parent][key_of(own)][stem] = path
    for folders in siblings.values():
        images = [paths for name, paths in folders.items() if _IMAGE_FOLDERS.fullmatch(name)]
        masks = [paths for name, paths in folders.items() if _MASK_FOLDERS.fullmatch(name)]
        for image, mask in itertools.product(images, masks):
            if image.keys() & mask.keys():
                found["labels"] += mask.values()
            elif len(image) == 1:
                found["objects"] += mask.values()
    return found


def markdown_table() -> str:
    """The table as Markdown, for the documents."""
    rows = "".join(f"| {title} | {advice} |\n" for title, advice in KINDS.values())
    return f"| what a data set holds | what to do |\n| --- | --- |\n{rows}"
