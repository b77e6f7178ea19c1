"""What a whole data set shows: units, sizes, crowds, and classes that are not objects; good sets have no faults."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fixtures import narrow, sets

from maskline.data import crowds
from maskline.data.check.run import check
from maskline.data.convert import convert
from maskline.data.faults import Reading
from maskline.data.fix import fix
from maskline.data.reading import load_splits, read_dataset
from maskline.errors import DatasetError
from maskline.evaluate import load_split
from maskline.paddlex.check_dataset import examine

SHARED = Path(__file__).parents[3] / "shared"
WHOLE = {"polygon-unit", "polygon-corner", "masks-implausible", "boxes-only", "crowd-only", "category-no-object"}

Json = dict[str, Any]


def codes(reading: Reading) -> set[str]:
    return {fault.code for fault in reading.faults} & WHOLE


def what(reading: Reading, code: str) -> list[str]:
    return [fault.what for fault in reading.faults if fault.code == code]


def triangle(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x, y + height]


def annotation(number: int, image: int, shape: Any, **more: Any) -> Json:
    return {"id": number, "image_id": image, "category_id": 1, "segmentation": shape, "iscrowd": 0, **more}


def make(root: Path, sizes: list[tuple[int, int]], annotations: list[Json], classes: Any = ("cell",)) -> Path:
    """A set of one split, ``all``, with images of these ``(width, height)``; ids count from 1."""
    (root / "images").mkdir(parents=True)
    images = []
    for number, (width, height) in enumerate(sizes, 1):
        cv2.imwrite(str(root / "images" / f"{number}.png"), sets.image(number, (height, width)))
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
    categories = [c if isinstance(c, dict) else {"id": i, "name": c} for i, c in enumerate(classes, 1)]
    sets.save(root, "all", {"images": images, "annotations": annotations, "categories": categories})
    return root


# ---- shares and percent


def in_unit(border: float, sizes: list[tuple[int, int]], per_image: int = 1) -> tuple[list[Json], list[np.ndarray]]:
    """Triangles all over the images in shares of 1 or 100, with box and area; and the polygons in pixels."""
    chance = random.Random(0)
    found: list[Json] = []
    pixels: list[np.ndarray] = []
    for image, (width, height) in enumerate(sizes, 1):
        for _ in range(per_image):
            x, y = chance.uniform(0, 0.6), chance.uniform(0, 0.6)
            x, y = (0.6, 0.6) if not found else (x, y)
            share = triangle(x, y, 0.39, 0.39)
            flat = [border * value for value in share]
            box = [border * value for value in (x, y, 0.39, 0.39)]
            area = (border * 0.39) ** 2 / 2
            found.append(annotation(len(found) + 1, image, [flat], bbox=box, area=area))
            pixels.append(np.asarray(share).reshape(-1, 2) * (width, height))
    return found, pixels


@pytest.mark.parametrize("border", [1, 100])
def test_shares_and_percent_are_an_error_and_multiplied(tmp_path: Path, border: int) -> None:
    sizes = [(320, 240), (400, 300)] * 5
    annotations, pixels = in_unit(border, sizes, per_image=2)
    root = make(tmp_path / "set", sizes, annotations)
    reading = check(root)
    (message,) = what(reading, "polygon-unit")
    assert f"all 20 polygons are within 0 to {border}" in message
    assert [fault.code for fault in reading.faults] == ["polygon-unit"]  # no more of what follows from it
    done = fix(reading, tmp_path / "fixed")
    assert done.number("fixed") == 1
    (dataset,) = load_splits(tmp_path / "fixed").values()
    for found, expected in zip(dataset.annotations, pixels, strict=True):
        np.testing.assert_allclose(narrow.polygon(found), expected)
        low, extent = expected.min(axis=0), np.ptp(expected, axis=0)
        assert found.box is not None and found.area is not None
        np.testing.assert_allclose(found.box, [*low, *extent])
        np.testing.assert_allclose(found.area, extent.prod() / 2)
    assert not check(tmp_path / "fixed").faults


@pytest.mark.parametrize("format_", ["labelme", "cvat"])
def test_shares_in_other_formats(tmp_path: Path, format_: str) -> None:
    root = tmp_path / "set"
    root.mkdir()
    cv2.imwrite(str(root / "a.png"), sets.image(1))
    if format_ == "labelme":
        shape = {"label": "cell", "points": [[0.1, 0.1], [0.9, 0.1], [0.5, 1.0]], "shape_type": "polygon"}
        sheet = {"shapes": [shape], "imagePath": "a.png", "imageData": None, "imageWidth": 64, "imageHeight": 48}
        (root / "a.json").write_text(json.dumps(sheet))
    else:
        polygon = '<polygon label="cell" points="0.1,0.1;0.9,0.1;0.5,1.0"/>'
        image = f'<image id="0" name="a.png" width="64" height="48">{polygon}</image>'
        (root / "annotations.xml").write_text(f"<annotations><version>1.1</version>{image}</annotations>")
    reading = check(root)
    assert what(reading, "polygon-unit") == [
        "the only polygon is within 0 to 1: fractions of the image size? Expected pixels"
    ]
    fix(reading, tmp_path / "fixed")
    (dataset,) = load_splits(tmp_path / "fixed").values()
    np.testing.assert_allclose(narrow.polygon(dataset.annotations[0]), np.asarray([[6.4, 4.8], [57.6, 4.8], [32, 48]]))


def test_shares_are_refused_wherever_they_are_used(tmp_path: Path) -> None:
    annotations, _ = in_unit(1, [(64, 48)] * 2)
    root = make(tmp_path / "set", [(64, 48)] * 2, annotations)
    for use in (
        lambda: convert(root, tmp_path / "new", "coco"),
        lambda: convert(root, tmp_path / "new", "yolo", skip_errors=True),  # no record can be left out to mend it
        lambda: load_splits(root),
        lambda: load_split(root),
    ):
        with pytest.raises(DatasetError, match="fractions of the image size.*maskline check --fix"):
            use()
    assert not (tmp_path / "new").exists()


def test_boxes_and_areas_in_pixels_stay_with_polygons_in_fractions(tmp_path: Path) -> None:
    stated = annotation(1, 1, [triangle(0.25, 0.25, 0.5, 0.5)], bbox=[16, 12, 32, 24], area=384)
    fix(check(make(tmp_path / "set", [(64, 48)], [stated])), tmp_path / "fixed")
    (dataset,) = load_splits(tmp_path / "fixed").values()
    found = dataset.annotations[0]
    assert (found.box, found.area) == ((16, 12, 32, 24), 384)


def test_some_polygons_in_fractions_are_reported_and_not_changed(tmp_path: Path) -> None:
    shapes = [triangle(5 + i, 5, 30, 30) for i in range(6)] + [triangle(0.1 * i, 0.2, 0.5, 0.6) for i in range(4)]
    annotations = [annotation(number, 1, [shape]) for number, shape in enumerate(shapes, 1)]
    reading = check(make(tmp_path / "set", [(64, 48)], annotations))
    assert what(reading, "polygon-unit") == ["4 of 10 masks are within 0 to 1: fractions, not pixels?"]
    done = dict(zip((f.code for f in reading.faults), fix(reading, tmp_path / "fixed").done, strict=True))
    assert done["polygon-unit"].outcome == "left"


def test_percent_that_is_not_certain_is_a_warning(tmp_path: Path) -> None:
    annotations, _ = in_unit(100, [(320, 240)] * 6)
    reading = check(make(tmp_path / "set", [(320, 240)] * 6, annotations))
    assert codes(reading) == {"polygon-corner"} and not reading.errors


@pytest.mark.parametrize(
    ("sizes", "shapes"),
    [
        ([(640, 480)], [triangle(10, 10, 30, 30)]),  # one small object at the upper left
        ([(640, 480)] * 3, [triangle(5 * i, 10, 30, 30) for i in range(9)]),  # nine of them
        ([(110, 110), (120, 120)] * 5, [triangle(i, i, 79, 79) for i in range(20)]),  # small images
        ([(640, 480), (500, 400)] * 5, [triangle(2, 2, 98, 98)] * 19 + [triangle(50, 50, 60, 60)]),  # one reaches over
        ([(1, 1)], [triangle(0, 0, 1, 1)]),  # a pixel is the image
        ([(64, 48)], [triangle(0, 0, 3, 3), triangle(0, 0, 40, 1.01)]),
    ],
)
def test_pixels_are_pixels(tmp_path: Path, sizes: list[tuple[int, int]], shapes: list[list[float]]) -> None:
    found = [annotation(i, i % len(sizes) + 1, [shape]) for i, shape in enumerate(shapes)]
    assert not codes(check(make(tmp_path / "set", sizes, found)))


# ---- masks that can't be objects


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([triangle(100, 100, 30, 30)], "1 of 1 mask without pixels in the image: polygons reach x 130 and y 130"),
        ([triangle(70 * i, 10, 30, 30) for i in range(6)], "5 of 6 masks without pixels in the image"),
        ([[x, 9, x + 1, 9, x + 1, 10, x, 10] for x in (5, 15, 25)], "all 3 masks have 2 pixels or fewer"),
        ([[0, 0, 64, 0, 64, 48, 0, 48]] * 3, "all 3 masks cover their whole image"),
    ],
)
def test_masks_that_are_not_objects(tmp_path: Path, shapes: list[list[float]], message: str) -> None:
    found = [annotation(i, i % 2 + 1, [shape]) for i, shape in enumerate(shapes)]
    reading = check(make(tmp_path / "set", [(64, 48), (64, 48)], found))
    (fault,) = what(reading, "masks-implausible")
    assert message in fault and reading.errors


@pytest.mark.parametrize(
    "shapes",
    [
        [[5, 5, 6, 5, 6, 6, 5, 6]],  # one mask says nothing of all
        [[x, 9, x + 1, 9, x + 1, 10, x, 10] for x in (5, 15)] + [triangle(5, 5, 9, 9)],
        [[0, 0, 64, 0, 64, 48, 0, 48]] * 2,
        [[0, 0, 64, 0, 64, 44, 0, 48]] * 4,  # nearly all of the image
        [triangle(5 + i, 5, 30, 30) for i in range(6)] + [triangle(100, 100, 9, 9)] * 5,
    ],
)
def test_a_few_odd_masks_do_not_concern_the_file(tmp_path: Path, shapes: list[list[float]]) -> None:
    found = [annotation(i, i % 2 + 1, [shape]) for i, shape in enumerate(shapes)]
    assert "masks-implausible" not in codes(check(make(tmp_path / "set", [(64, 48), (64, 48)], found)))


def test_crowd_regions_may_be_the_whole_image(tmp_path: Path) -> None:
    whole = {"size": [48, 64], "counts": [0, 48 * 64]}
    found = [annotation(i, i, whole, iscrowd=1) for i in (1, 2, 3)] + [annotation(4, 1, [triangle(5, 5, 9, 9)])]
    assert not codes(check(make(tmp_path / "set", [(64, 48)] * 3, found)))


# ---- boxes


def test_a_set_of_boxes_is_reported_once(tmp_path: Path) -> None:
    boxes = [annotation(i, 1, [[i, 5, i + 9, 5, i + 9, 20, i, 20]]) for i in range(9)]
    root = make(tmp_path / "set", [(64, 48)], [*boxes, annotation(9, 1, [triangle(5, 20, 20, 20)])])
    assert what(check(root), "boxes-only") == ["9 of 10 instances are boxes: their masks are rectangles"]
    assert [fault.code for fault in convert(root, tmp_path / "new", "labelme").faults] == ["boxes-only"]
    assert "boxes-only" in codes(check(tmp_path / "new"))


def test_boxes_are_counted_by_split(tmp_path: Path) -> None:
    """A split without boxes is not named for those of another."""
    box, outline = [[5, 5, 14, 5, 14, 20, 5, 20]], [triangle(5, 20, 20, 20)]
    root = make(tmp_path / "set", [(64, 48)], [annotation(1, 1, outline)])
    one = sets.load(root, "all")
    (root / "annotations" / "instance_all.json").unlink()
    parts: dict[str, list[Any]] = {"test": [outline], "train": [*[box] * 8, outline], "val": [box] * 11}
    for split, shapes in parts.items():
        annotations = [annotation(number, 1, shape) for number, shape in enumerate(shapes, 1)]
        sets.save(root, split, one | {"annotations": annotations})
    reported = [(fault.split, fault.what) for fault in read_dataset(str(root)).faults if fault.code == "boxes-only"]
    counts = {"train": "8 of 9", "val": "11 of 11"}
    assert reported == [(s, f"{count} instances are boxes: their masks are rectangles") for s, count in counts.items()]


def test_a_few_boxes_do_not_concern_the_set(tmp_path: Path) -> None:
    boxes = [annotation(i, 1, [[i, 5, i + 9, 5, i + 9, 20, i, 20]]) for i in range(9)]
    outlines = [annotation(9 + i, 1, [triangle(5 + i, 20, 20, 20)]) for i in range(2)]
    assert not codes(check(make(tmp_path / "some", [(64, 48)], boxes + outlines)))
    assert not codes(check(make(tmp_path / "few", [(64, 48)], boxes[:4])))


# ---- crowds


def rle(number: int) -> Json:
    return {"size": [48, 64], "counts": [48 * (2 * number) + 5, 20, 28, 20, 48 * 64 - 73 - 96 * number]}


def marked(
    masks: int, polygons: int, images: int, plain: int = 0, classes: Callable[[int], int] = lambda number: 1
) -> list[Json]:
    """Marked RLE masks, polygons, and RLE masks without a mark, over some images."""
    found = [annotation(i, i % images + 1, rle(i % 30), iscrowd=1) for i in range(masks)]
    found += [annotation(0, i % images + 1, [triangle(i % 30, 9, 20, 20)]) for i in range(polygons)]
    found += [annotation(0, i % images + 1, rle(i % 30)) for i in range(plain)]
    return [a | {"id": i, "category_id": classes(i)} for i, a in enumerate(found, 1)]


@pytest.mark.parametrize(
    ("masks", "polygons", "images", "message"),
    [
        (6, 0, 6, "6 of 6 annotations with iscrowd 1 (6 'cell')"),  # all of it, as with CVAT's brush alone
        (1, 0, 1, "1 of 1 annotation with iscrowd 1 (1 'cell')"),
        (10, 10, 10, "10 of 20 annotations with iscrowd 1 (10 'cell')"),  # a mixed set
        (6, 24, 6, "6 of 30 annotations with iscrowd 1 (6 'cell')"),  # a fifth
        (6, 90, 2, "6 of 96 annotations with iscrowd 1 (6 'cell')"),  # few, but several to an image
    ],
)
def test_masks_of_brushes_are_not_crowds(tmp_path: Path, masks: int, polygons: int, images: int, message: str) -> None:
    root = make(tmp_path / "set", [(64, 48)] * images, marked(masks, polygons, images))
    reading = check(root)
    assert what(reading, "crowd-only") == [message] and [fault.code for fault in reading.errors] == ["crowd-only"]
    with pytest.raises(DatasetError, match=f"{masks} of .*--crowd instances"):
        convert(root, tmp_path / "new", "coco")
    with pytest.raises(DatasetError):
        convert(root, tmp_path / "new", "coco", skip_errors=True)


@pytest.mark.parametrize(
    ("masks", "polygons", "images", "plain"),
    [
        (4, 4, 4, 0),  # few
        (10, 290, 10, 0),  # as COCO's: one to an image, among many objects
        (6, 10, 6, 2),  # other RLE masks carry no mark, so that it means something
        (0, 9, 3, 9),
    ],
)
def test_crowds_are_crowds(tmp_path: Path, masks: int, polygons: int, images: int, plain: int) -> None:
    assert not codes(check(make(tmp_path / "set", [(64, 48)] * images, marked(masks, polygons, images, plain))))


def test_one_class_of_many_is_found(tmp_path: Path) -> None:
    found = marked(6, 120, 6, classes=lambda number: 1 if number <= 6 else 2)
    reading = check(make(tmp_path / "set", [(64, 48)] * 6, found, ("stain", "cell")))
    assert what(reading, "crowd-only") == ["6 of 126 annotations with iscrowd 1 (6 'stain')"]


def test_a_split_of_nothing_but_crowds(tmp_path: Path) -> None:
    """Also of polygons, and though the other split has many instances."""
    root = sets.make(tmp_path / "set")
    content = sets.load(root, "val")
    content["annotations"] = [content["annotations"][0] | {"iscrowd": 1}]
    sets.save(root, "val", content)
    reading = check(root)
    assert [(f.split, f.what) for f in reading.faults if f.code == "crowd-only"] == [
        ("val", "1 of 1 annotation with iscrowd 1 (1 'cat')")
    ]


def test_crowds_are_read_as_instances_on_demand(tmp_path: Path) -> None:
    root = make(tmp_path / "set", [(64, 48)] * 6, marked(10, 12, 6))
    reading = check(root, crowd="instances")
    assert not codes(reading) and list(reading.notes) == ["10 crowd regions of all read as instances"]
    fix(reading, tmp_path / "fixed")
    assert json.loads((tmp_path / "fixed" / "fixes.json").read_text())["notes"] == reading.notes
    done = convert(root, tmp_path / "new", "coco", crowd="instances")
    assert "10 crowd regions of all read as instances" in done.notes
    for copy in (tmp_path / "fixed", tmp_path / "new"):
        (dataset,) = load_splits(copy).values()
        assert len(dataset.annotations) == 22 and not crowds.count(dataset)


def test_crowds_are_kept_on_demand(tmp_path: Path) -> None:
    root = make(tmp_path / "set", [(64, 48)] * 6, marked(10, 12, 6))
    reading = check(root, crowd="regions")
    assert not codes(reading) and crowds.count(reading.splits["all"]) == 10
    (dataset,) = convert(root, tmp_path / "new", "coco", crowd="regions").splits.values()
    assert crowds.count(dataset) == 10


def test_commands_that_go_on_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make(tmp_path / "set", [(64, 48)] * 6, marked(10, 12, 6))
    for use in (load_splits, load_split):
        caplog.clear()
        use(root)
        (record,) = caplog.records
        assert record.levelname == "WARNING" and "10 of 22 annotations with iscrowd 1" in record.getMessage()


# ---- classes that are not objects


@pytest.mark.parametrize("name", ["_background_", "__background__", "background", "Background", "__ignore__"])
@pytest.mark.parametrize("used", [0, 2])
def test_background_is_left_out_with_its_annotations(tmp_path: Path, name: str, used: int) -> None:
    found = [annotation(i, 1, [triangle(i, 5, 30, 30)]) | {"category_id": 1 if i < used else 2} for i in range(5)]
    root = make(tmp_path / "set", [(64, 48)], found, (name, "cell"))
    reading = check(root)
    assert what(reading, "category-no-object") == [
        f"class {name!r} is background or ignored, by its name: left out with {used} annotations"
    ]
    assert not reading.errors
    (checked,), (loaded,) = reading.splits.values(), load_splits(root).values()
    converted = convert(root, tmp_path / "new", "yolo")
    assert [fault.code for fault in converted.faults] == ["category-no-object"]
    for dataset in (checked, loaded, load_split(root), *converted.splits.values()):
        assert dataset.names == ["cell"] and len(dataset.annotations) == 5 - used  # so its index is 0 everywhere
    assert (tmp_path / "new" / "data.yaml").read_text().count("cell") == 1
    fix(reading, tmp_path / "fixed")
    assert load_splits(tmp_path / "fixed")["all"].names == ["cell"] and not codes(check(tmp_path / "fixed"))


def parents(*pairs: tuple[str, str | None]) -> list[Json]:
    return [{"id": i, "name": name, "supercategory": parent} for i, (name, parent) in enumerate(pairs)]


ROBOFLOW = parents(("fruit", "none"), ("apple", "fruit"), ("pear", "fruit"))


@pytest.mark.parametrize(
    ("classes", "used", "left_out"),
    [
        (ROBOFLOW, (1, 2), ["fruit"]),
        (ROBOFLOW, (1,), ["fruit"]),
        (ROBOFLOW, (0, 1, 2), []),  # it has objects of its own
        (parents(("fruit", "none"), ("apple", "fruit"), ("stone", "none")), (1, 2), []),  # not of all
        (parents(("animal", "animal"), ("person", "person")), (0,), []),
        (parents(("cell", "cell")), (), []),
        (parents(("background", None)), (0,), []),  # a set of nothing else
    ],
)
def test_the_empty_parent_of_all_others_is_left_out(
    tmp_path: Path, classes: list[Json], used: tuple[int, ...], left_out: list[str]
) -> None:
    found = [annotation(i, 1, [triangle(i, 5, 30, 30)]) | {"category_id": i} for i in used]
    reading = read_dataset(make(tmp_path / "set", [(64, 48)], found, classes))
    (dataset,) = reading.splits.values()
    assert dataset.names == [c["name"] for c in classes if c["name"] not in left_out]
    assert len(dataset.annotations) == len(used)
    assert [message.partition(" is ")[0] for message in what(reading, "category-no-object")] == [
        f"class {name!r}" for name in left_out
    ]


def test_a_parent_that_one_split_uses_stays_in_all(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "set")
    for split, classes in (("train", (1, 2)), ("val", (0, 1))):
        content = sets.load(root, split)
        content["categories"] = ROBOFLOW
        for annotation_, number in zip(content["annotations"], classes * 9, strict=False):
            annotation_["category_id"] = number
        sets.save(root, split, content)
    assert {tuple(d.names) for d in read_dataset(root).splits.values()} == {("fruit", "apple", "pear")}


# ---- strict


def test_strict_fails_on_warnings(tmp_path: Path) -> None:
    root = make(tmp_path / "set", [(64, 48)], marked(0, 5, 1), ("_background_", "cell"))
    for annotation_ in (content := sets.load(root, "all"))["annotations"]:
        annotation_["category_id"] = 2
    sets.save(root, "all", content)
    for strict in (False, True):
        reading, result = examine(root, tmp_path, strict=strict)
        assert [fault.kind.severity for fault in reading.faults] == ["warning"]
        assert result["check_pass"] is not strict
        page = (tmp_path / "check_dataset" / "report.html").read_text()
        assert ("Failed" in page, "Passed" in page) == (strict, not strict)


# ---- real sets


@pytest.mark.skipif(not (SHARED / "data").exists(), reason="the shared data sets are not here")
@pytest.mark.parametrize("name", ["coco_sample", "nuclei"])
def test_nothing_is_reported_for_real_sets(name: str) -> None:
    reading = read_dataset(SHARED / "data" / name)
    assert not codes(reading) and not list(crowds.faults(reading.splits))


@pytest.mark.skipif(not (SHARED / "data").exists(), reason="the shared data sets are not here")
def test_nothing_is_reported_for_any_part_of_coco() -> None:
    """Samples of a few images, which have odd shares of crowds by chance."""
    for dataset in read_dataset(SHARED / "data" / "coco_sample").splits.values():
        images = list(dataset.images)
        with_crowds = [image for image in images if any(a.crowd for a in dataset.of(image))]
        for seed in range(60):
            part = dataset.select(random.Random(seed).sample(images, 5) + with_crowds[: seed % 4])
            if crowds.count(part) < len(part.annotations):
                assert not list(crowds.faults({"train": part}))


@pytest.mark.skipif(not (SHARED / "cases").exists(), reason="the shared cases are not here")
@pytest.mark.parametrize(
    ("case", "code", "message"),
    [
        ("datasets/cvat_coco_masks", "crowd-only", "427 of 427 annotations with iscrowd 1 (427 'nucleus')"),
        ("datasets/cvat_mixed", "crowd-only", "214 of 427 annotations with iscrowd 1 (214 'nucleus')"),
        (
            "wild/azure_normalised",
            "polygon-unit",
            "all 2 polygons are within 0 to 1: fractions of the image size? Expected pixels",
        ),
    ],
)
def test_cases(tmp_path: Path, case: str, code: str, message: str) -> None:
    shutil.copytree(SHARED / "cases" / case, tmp_path / "set")
    assert message in what(check(tmp_path / "set"), code)[0]
