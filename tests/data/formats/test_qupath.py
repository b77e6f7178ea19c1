"""QuPath's GeoJSON, written by hand as its documentation describes it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.readings import (
    CASES,
    JUNK,
    SHARED,
    assert_same_in_coco,
    codes,
    masks,
    mutated,
    one_mask,
    read,
    rings,
    save_image,
    save_json,
)

from maskline.errors import DatasetError

WIDTH, HEIGHT = 60, 40
SQUARE = [[2, 3], [12, 3], [12, 9], [2, 9], [2, 3]]
HOLE = [[4, 4], [6, 4], [6, 6], [4, 6], [4, 4]]
OTHER = [[30, 10], [40, 10], [40, 20], [30, 20], [30, 10]]


def rectangle(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def feature(
    coordinates: Any = (SQUARE,),
    kind: str = "Polygon",
    label: Any = "Tumor",
    object_type: str = "annotation",
    **more: Any,
) -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": object_type}
    if label is not None:
        properties["classification"] = {"name": label, "color": [200, 0, 0]} if isinstance(label, str) else label
    geometry = {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "id": "8d1a", "geometry": geometry, "properties": properties, **more}


def make(root: Path, *features: Any, file: str = "a.geojson", image: str = "a.png", wrapped: bool = True) -> Path:
    save_image(root / image, WIDTH, HEIGHT)
    content = {"type": "FeatureCollection", "features": list(features)} if wrapped else list(features)
    save_json(root / file, content)
    return root


def test_a_polygon_keeps_its_vertices(tmp_path: Path) -> None:
    reading = read(make(tmp_path, feature()))
    assert reading.format == "qupath"
    assert rings(reading) == [SQUARE[:-1]]
    assert (one_mask(reading) == rectangle(3, 9, 2, 12)).all()
    assert reading.splits["all"].names == ["Tumor"]


def test_holes_are_kept_to_the_pixel(tmp_path: Path) -> None:
    mask = one_mask(read(make(tmp_path, feature([SQUARE, HOLE]))))
    assert (mask == rectangle(3, 9, 2, 12) - rectangle(4, 6, 4, 6)).all()


def test_parts_of_a_multipolygon(tmp_path: Path) -> None:
    reading = read(make(tmp_path, feature([[SQUARE], [OTHER]], "MultiPolygon")))
    assert rings(reading) == [SQUARE[:-1], OTHER[:-1]]
    mask = one_mask(read(make(tmp_path, feature([[SQUARE, HOLE], [OTHER]], "MultiPolygon"))))
    assert (mask == rectangle(3, 9, 2, 12) - rectangle(4, 6, 4, 6) + rectangle(10, 20, 30, 40)).all()


@pytest.mark.parametrize("form", ["list", "feature", "json"])
def test_other_forms_of_the_file(tmp_path: Path, form: str) -> None:
    file = "a.json" if form == "json" else "a.geojson"
    make(tmp_path, feature(), file=file, wrapped=form != "list")
    if form == "feature":
        save_json(tmp_path / file, feature())
    assert (one_mask(read(tmp_path)) == rectangle(3, 9, 2, 12)).all()


@pytest.mark.parametrize(
    ("file", "image"),
    [
        ("a.geojson", "images/a.tif"),
        ("a.png.geojson", "images/a.png"),
        ("annotations/a.v2.geojson", "images/a.v2.png"),
        ("a/x.geojson", "a/x.jpg"),
    ],
)
def test_the_image_of_a_file(tmp_path: Path, file: str, image: str) -> None:
    dataset = read(make(tmp_path, feature(), file=file, image=image)).splits["all"]
    assert dataset.path(dataset.images[0]) == tmp_path / image


def test_an_image_called_like_a_split_is_of_none(tmp_path: Path) -> None:
    assert list(read(make(tmp_path, feature(), file="test_1.geojson", image="test_1.png")).splits) == ["all"]


def test_splits_are_folders(tmp_path: Path) -> None:
    for split in ("train", "val"):
        make(tmp_path, feature(), file=f"{split}/a.geojson", image=f"{split}/a.png")
    reading = read(tmp_path)
    assert {s: d.folder.name for s, d in reading.splits.items()} == {"train": "train", "val": "val"}


@pytest.mark.parametrize(
    ("label", "object_type", "name"),
    [
        ({"names": ["Tumor", "Positive"], "color": [1, 2, 3]}, "cell", "Tumor: Positive"),
        ("Tumor: Positive", "cell", "Tumor: Positive"),
        (None, "cell", "cell"),
        (None, "detection", "detection"),
    ],
)
def test_classes(tmp_path: Path, label: Any, object_type: str, name: str) -> None:
    reading = read(make(tmp_path, feature(label=label, object_type=object_type)))
    assert reading.splits["all"].names == [name]
    assert codes(reading) == ([] if label else ["no-class"])


def test_cells_are_read_and_their_nuclei_counted(tmp_path: Path) -> None:
    nucleus = {"type": "Polygon", "coordinates": [HOLE]}
    reading = read(make(tmp_path, feature(object_type="cell", nucleusGeometry=nucleus)))
    assert (masks(reading)["a.png"][0][1] == rectangle(3, 9, 2, 12)).all()
    assert codes(reading) == ["shape-ignored"]
    assert "1 cell" in reading.faults[0].what


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (feature([1, 1], "Point"), "no-mask"),
        (feature([[1, 1], [9, 9]], "LineString"), "no-mask"),
        (feature([[1, 1], [9, 9]], "MultiPoint"), "no-mask"),
        (feature(object_type="tile"), "shape-ignored"),
        (feature(label="Ignore*"), "shape-ignored"),
        (feature([]), "polygon-broken"),
        (feature([SQUARE[:2]]), "polygon-broken"),
        (feature([[[1, 1], [2, "x"], [3, 3]]]), "polygon-broken"),
        (feature(5, "MultiPolygon"), "polygon-broken"),
        (
            {
                "type": "Feature",
                "geometry": None,
                "properties": {"objectType": "annotation", "classification": {"name": "x"}},
            },
            "record",
        ),
        (5, "record"),
    ],
)
def test_what_is_not_an_instance_is_reported(tmp_path: Path, found: Any, code: str) -> None:
    reading = read(make(tmp_path, found, feature()))
    assert [(fault.code, fault.lost) for fault in reading.faults] == [(code, 1)]
    assert len(reading.splits["all"].annotations) == 1


def test_a_hole_that_encloses_nothing_leaves_no_trace(tmp_path: Path) -> None:
    mask = one_mask(read(make(tmp_path, feature([SQUARE, [[4, 4], [5, 5]], [[4, 4], [6, 4], [4, 4]]]))))
    assert (mask == rectangle(3, 9, 2, 12)).all()


def test_a_file_without_its_image_counts_what_is_lost(tmp_path: Path) -> None:
    make(tmp_path, feature())
    make(tmp_path, feature(), feature(), file="gone.geojson")
    reading = read(tmp_path)
    assert [(fault.code, fault.lost) for fault in reading.faults] == [("image-missing", 2)]
    assert reading.listed["all"] == (2, 3)


def test_geographic_coordinates_are_named(tmp_path: Path) -> None:
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32631"}}
    save_json(tmp_path / "a.geojson", {"type": "FeatureCollection", "crs": crs, "features": [feature()]})
    save_image(tmp_path / "a.tif", WIDTH, HEIGHT)
    with pytest.raises(DatasetError, match="geographic coordinates"):
        read(tmp_path)


def test_mutated_features_are_read_or_reported(tmp_path: Path) -> None:
    chance = random.Random(0)
    features = [feature([SQUARE, HOLE]), feature([[SQUARE], [OTHER]], "MultiPolygon"), feature(label=None)]
    make(tmp_path)
    for _ in range(300):
        content = {"type": "FeatureCollection", "features": [*mutated(features, chance), feature()]}
        save_json(tmp_path / "a.geojson", content)
        assert read(tmp_path).listed["all"].annotations == 4


@pytest.mark.parametrize("content", JUNK)
def test_files_that_hold_something_else(tmp_path: Path, content: Any) -> None:
    make(tmp_path, feature())
    (tmp_path / "b.geojson").write_text(json.dumps(content), encoding="utf-8")
    save_image(tmp_path / "b.png", WIDTH, HEIGHT)
    reading = read(tmp_path)
    assert len(reading.splits["all"].annotations) == 1


def test_to_coco(tmp_path: Path) -> None:
    root = make(
        tmp_path / "set", feature([SQUARE, HOLE]), feature(label="Stroma"), feature([[SQUARE], [OTHER]], "MultiPolygon")
    )
    assert_same_in_coco(root, tmp_path / "coco")


@pytest.mark.skipif(not CASES.exists(), reason="needs ../shared")
def test_the_case_has_the_boxes_of_nuclei() -> None:
    reading = read(CASES / "qupath")
    assert [fault.code for fault in reading.faults] == ["boxes-only"]
    assert reading.listed["all"] == (4, 20)
    assert (SHARED / "data" / "nuclei").is_dir()
    for found in masks(reading).values():
        for _, mask in found:
            ys, xs = np.nonzero(mask)
            assert mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1].all()
