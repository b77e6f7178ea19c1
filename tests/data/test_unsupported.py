"""Formats that are not read are named; data sets that are read stay what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fixtures.readings import CASES, read, save_image, save_json

from maskline.data import unsupported
from maskline.data.file_kinds import DAMAGED, damage, kind_of, rle_columns
from maskline.data.source import Source
from maskline.errors import DatasetError

COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]], "iscrowd": 0}],
    "categories": [{"id": 1, "name": "cat"}],
}
SA1B = {
    "image": {"image_id": 1, "width": 60, "height": 40, "file_name": "sa_1.jpg"},
    "annotations": [{"id": 1, "segmentation": {}, "bbox": [], "predicted_iou": 0.9, "stability_score": 0.9}],
}
ISAT = {
    "info": {"description": "ISAT", "folder": ".", "name": "a.jpg", "width": 60, "height": 40, "depth": 3, "note": ""},
    "objects": [{"category": "cat", "group": 1, "segmentation": [[1, 1]], "area": 1, "layer": 1, "iscrowd": 0}],
}
ADE20K = {"annotation": {"filename": "a.jpg", "folder": "x", "imsize": [40, 60, 3], "object": [{"id": 0, "name": "x"}]}}
MAPILLARY = {"width": 60, "height": 40, "version": "2.0", "objects": [{"label": "x", "polygon": [[1, 1], [2, 2]]}]}
DARWIN = {
    "version": "2.0",
    "schema_ref": "https://darwin-public.s3.eu-west-1.amazonaws.com/darwin_json/2.0/schema.json",
    "item": {"name": "a.jpg", "path": "/", "slots": [{"slot_name": "0", "width": 60, "height": 40}]},
    "annotations": [{"id": "x", "name": "cat", "polygon": {"paths": [[{"x": 1, "y": 1}]]}, "slot_names": ["0"]}],
}
DATUMARO = {
    "dm_format_version": "1.0",
    "media_type": 2,
    "infos": {},
    "categories": {"label": {"labels": [{"name": "cat", "parent": ""}]}},
    "items": [{"id": "a", "annotations": [{"id": 0, "type": "polygon", "points": [1, 1]}], "image": {"path": "a.jpg"}}],
}
EISEG = [{"name": "cat", "labelIdx": 1, "color": [1, 2, 3], "points": [[1, 1], [2, 2], [3, 3]]}]
CREATEML = [
    {"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x": 1, "y": 1, "width": 2, "height": 2}}]}
]
POLYGONS = {"imgHeight": 40, "imgWidth": 60, "objects": [{"label": "car", "polygon": [[1, 1], [2, 2]]}]}
VIA_3 = {"project": {"pid": "x", "vid_list": ["1"]}, "config": {}, "attribute": {}, "file": {}, "metadata": {}}
VOC = "<annotation><object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object></annotation>"
NDJSON = '{"type": "dataset", "task": "segment", "name": "x", "class_names": {"0": "cat"}}\n{"type": "image"}\n'
OPEN_IMAGES = "MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks\n"


@pytest.mark.parametrize(
    ("file", "content", "title", "advice"),
    [
        ("sa_1.json", SA1B, "SA-1B", "COCO"),
        ("a.json", ISAT, "ISAT", "in ISAT"),
        ("a.json", ADE20K, "ADE20K", "COCO"),
        ("polygons/a.json", MAPILLARY, "Mapillary", "COCO"),
        ("a.json", DARWIN, "Darwin", "darwin-py"),
        ("annotations/default.json", DATUMARO, "Datumaro", "datum convert"),
        ("a.json", EISEG, "EISeg", "EISeg"),
        ("_annotations.createml.json", CREATEML, "CreateML", "COCO"),
        ("a_gtFine_polygons.json", POLYGONS, "Cityscapes", "cityscapesScripts"),
        ("project.json", VIA_3, "VIA 3", "VIA 2"),
        ("Annotations/a.xml", VOC, "Pascal VOC", "SegmentationObject"),
        ("set.ndjson", NDJSON, "Ultralytics NDJSON", "YOLO"),
        ("export.ndjson", '{"data_row": {"id": "x"}, "projects": {}}\n', "Labelbox", "SDK"),
        ("train-annotations-object-segmentation.csv", OPEN_IMAGES, "Open Images", "FiftyOne"),
        ("train.tfrecord", "", "TFRecord", "COCO"),
        ("coco_train.tfrecord-00000-of-00010", "", "TFRecord", "COCO"),
        ("data/train-00000-of-00002.parquet", "", "Parquet", "COCO"),
        ("0001_seg.npy", "", "Cellpose", "COCO"),
        ("0001_cp_masks.png", "", "Cellpose", "COCO"),
        ("ADE_train_1_parts_1.png", "", "ADE20K", "COCO"),
    ],
)
def test_it_is_named(tmp_path: Path, file: str, content: Any, title: str, advice: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    save_image(tmp_path / "a.jpg", 60, 40)
    with pytest.raises(DatasetError) as raised:
        read(tmp_path)
    message = str(raised.value)
    assert title in message
    assert advice in message
    assert file in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("files", "title"),
    [
        (("images/a.tif", "images/b.tif", "masks/a.tif", "masks/b.tif"), "label images (2"),
        (("train/image/a.png", "train/label/a.png"), "label images (train/label/a.png)"),
        (("x/images/x.png", "x/masks/1.png", "x/masks/2.png"), "mask images of one object each (2"),
    ],
)
def test_masks_are_named_by_their_folders(tmp_path: Path, files: tuple[str, ...], title: str) -> None:
    for file in files:
        save_image(tmp_path / file, 8, 8)
    with pytest.raises(DatasetError) as raised:
        read(tmp_path)
    assert title in str(raised.value)


def test_the_format_with_the_most_files_is_named(tmp_path: Path) -> None:
    for name in "abc":
        save_json(tmp_path / f"{name}.json", ISAT)
    save_json(tmp_path / "sa_1.json", SA1B)
    assert unsupported.describe(Source.of(tmp_path)) == (
        "holds ISAT files (3, such as a.json), which are not read: convert them to COCO in ISAT"
    )


@pytest.mark.parametrize("files", [(), ("a.png",), ("images/a.png", "images/b.png"), ("a.png", "notes.txt")])
def test_images_alone_are_nothing_in_particular(tmp_path: Path, files: tuple[str, ...]) -> None:
    for file in files:
        save_image(tmp_path / file, 8, 8) if file.endswith("png") else (tmp_path / file).write_text("x")
    assert unsupported.describe(Source.of(tmp_path)) is None


@pytest.mark.parametrize("other", [SA1B, ISAT, ADE20K, MAPILLARY, DARWIN, DATUMARO, EISEG, CREATEML, POLYGONS, VIA_3])
def test_other_files_next_to_a_data_set_do_not_change_what_it_is(tmp_path: Path, other: Any) -> None:
    save_image(tmp_path / "images" / "a.png", 60, 40)
    save_json(tmp_path / "annotations" / "instances_train.json", COCO)
    save_json(tmp_path / "other.json", other)
    reading = read(tmp_path)
    assert reading.format == "coco"
    assert len(reading.splits["train"].annotations) == 1


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({}, "coco"),
        ({"predicted_iou": 0.9, "stability_score": 0.9}, "coco"),
        ({"attributes": {"objects": 1, "size": 2, "tags": 3}}, "coco"),
        ({"result": 1, "completed_by": 2, "data": 3}, "coco"),
        ({"filename": 1, "regions": 2, "file_attributes": 3, "data_row": 4, "labelIdx": 5}, "coco"),
        ({"geometry": 1, "coordinates": 2, "crs": 3, "features": 4}, "coco"),
    ],
)
def test_coco_with_keys_of_other_formats_stays_coco(tmp_path: Path, more: dict[str, Any], kind: str) -> None:
    content = COCO | {"annotations": [{**COCO["annotations"][0], **more}]}
    save_json(tmp_path / "data.json", content)
    assert kind_of(tmp_path, "data.json") == kind
    save_json(tmp_path / "data.json", {key: content[key] for key in ("annotations", "categories", "images")})
    assert kind_of(tmp_path, "data.json") == kind


def test_a_labelme_file_with_keys_of_other_formats_stays_labelme(tmp_path: Path) -> None:
    shapes = [{"label": "cat", "points": [], "flags": {"objects": 1, "size": 1, "tags": 1, "classTitle": "x"}}]
    content = {"version": "5", "flags": {}, "shapes": shapes, "imagePath": "a.png", "annotations": 1, "data": 2}
    save_json(tmp_path / "a.json", content)
    assert kind_of(tmp_path, "a.json") == "labelme"


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("imageid,encodedpixels", ("imageid", "encodedpixels")),
        ("id,annotation,width,height", ("id", "annotation")),
        ("id,annotation", None),
        ("id,class,segmentation", ("id", "segmentation")),
        ("id,segmentation", None),
        ("imageid,label", None),
        ("encodedpixels", None),
        ("", None),
    ],
)
def test_columns_of_run_lengths(header: str, columns: tuple[str, str] | None) -> None:
    assert rle_columns(header.split(",")) == columns


def test_files_in_utf_16_and_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(SA1B), encoding="utf-16")
    assert kind_of(tmp_path, "a.json") == "sa1b"
    (tmp_path / "b.json").write_text(json.dumps(EISEG), encoding="utf-8-sig")
    assert kind_of(tmp_path, "b.json") == "eiseg"
    (tmp_path / "c.csv").write_text("ImageId,EncodedPixels\n", encoding="utf-8-sig")
    assert kind_of(tmp_path, "c.csv") == "kaggle"


@pytest.mark.parametrize("content", ["{}", "[]", "5", '"', '{"a": [1]}\n', "\ud800"])
def test_files_of_something_else_are_of_no_kind(tmp_path: Path, content: str) -> None:
    for suffix in ("json", "csv", "ndjson"):
        (tmp_path / f"a.{suffix}").write_bytes(content.encode("utf-8", "surrogatepass"))
        assert kind_of(tmp_path, f"a.{suffix}") is None
    (tmp_path / "a.xml").write_text("<project/>\n")
    assert kind_of(tmp_path, "a.xml") is None


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.json", b"", "empty"),
        ("a.xml", b"\0" * 1000, "empty"),
        ("a.csv", b" \n\n", "empty"),
        ("a.json", b"null", "contains only null"),
        ("a.json", b'{"x": [' + b"1, " * 100_000, "truncated"),
        ("a.geojson", b'[{"x": 1},', "truncated"),
        ("a.xml", b"<x><y>1</", "truncated"),
        ("a.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 99\n", "git lfs pull"),
        ("a.csv", b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "web page"),
        ("a.json", b"\xef\xbb\xbf<HTML>", "web page"),
        ("gone.json", None, "can't be read"),
    ],
)
def test_files_that_hold_nothing_of_their_kind(tmp_path: Path, name: str, content: bytes | None, why: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert kind_of(tmp_path, name) == DAMAGED
    assert why in damage(tmp_path, name)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("labelme", {"version": "5", "shapes": [{}] * 30_000, "imagePath": "a.png", "imageData": None}),
        ("labelme", {"shapes": [{}] * 30_000, "imagePath": "a.png", "imageData": "A" * 99_999, "imageHeight": 1}),
        ("labelstudio", [{"id": 1, "annotations": [{"result": [0] * 50_000}], "data": {"image": "a.png"}}]),
        ("coco", {"annotations": [0] * 50_000, "categories": [], "images": [{"id": 1}]}),
        ("coco", {"annotations": [0] * 50_000, "images": [{"id": 1}], "categories": [0] * 50_000}),
        ("labelme", {"version": 1, "imagePath": "a", "imageData": "A" * 99_999, "flags": {}, "shapes": [0] * 50_000}),
        (
            "coco",
            {"licenses": [0] * 50_000, "images": [0] * 50_000, "categories": [{}], "annotations": [{"category_id": 1}]},
        ),
        ("coco", {"categories": [0] * 50_000, "images": [0] * 50_000, "annotations": [{"category_id": 1, "bbox": []}]}),
    ],
)
def test_the_kind_of_a_large_file_is_found_at_its_two_ends_or_else_in_all_of_it(
    tmp_path: Path, kind: str, content: object
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert kind_of(tmp_path, "a.json") == kind


@pytest.mark.skipif(not CASES.exists(), reason="needs ../shared")
@pytest.mark.parametrize(
    ("case", "title"),
    [
        ("sa1b", "SA-1B"),
        ("cellpose_png", "Cellpose"),
        ("cellpose_tif", "Cellpose"),
        ("stardist", "label images"),
        ("dsb2018", "one object each"),
    ],
)
def test_the_cases(case: str, title: str) -> None:
    with pytest.raises(DatasetError, match=title):
        read(CASES / case)
