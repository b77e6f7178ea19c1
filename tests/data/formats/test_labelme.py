"""LabelMe: what people's folders hold, read; what is written, read back pixel for pixel."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
from maskline.data.faults import Reading
from maskline.data.formats.labelme import format as labelme
from maskline.data.reading import read_dataset as read_any
from maskline.data.shapes import area, crop, to_rle
from maskline.data.source import Source
from maskline.errors import DatasetError, DatasetNotFoundError
from maskline.masks import rle_decode, rle_encode

SHARED = Path(__file__).parents[4] / "shared" / "data"
WIDTH, HEIGHT = 40, 30
SQUARE = [[5, 5], [15, 5], [15, 15], [5, 15]]


def read(root: Path) -> Reading:
    """What the format's own reader makes of a folder or file."""
    return labelme.read(Source.of(root))


def detect(root: Path) -> bool:
    return root.exists() and bool(labelme.detect(Source.of(root)))


def image(path: Path, width: int = WIDTH, height: int = HEIGHT, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (len(path.name) * 7 % 256, 90, 30)).save(path, **options)
    return path


def shape(label: Any = "cat", points: Any = SQUARE, kind: Any = "polygon", group: Any = None, **more: Any) -> Any:
    return {"label": label, "points": points, "shape_type": kind, "group_id": group, "flags": {}, **more}


def sheet(path: Path, shapes: Any = (), image: Any = "../images/a.jpg", **more: Any) -> Path:
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes) if isinstance(shapes, tuple) else shapes,
        "imagePath": image,
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def png(mask: np.ndarray, mode: str = "L") -> str:
    image = Image.fromarray(mask.astype(np.uint8) * 255) if mode == "1" else Image.fromarray(mask.astype(np.uint8))
    image.convert(mode).save(buffer := io.BytesIO(), "png")
    return base64.b64encode(buffer.getvalue()).decode()


def one(root: Path, *shapes: Any) -> tuple[Dataset, list[str]]:
    """A set of one image: as read, and the codes of its faults."""
    image(root / "images/a.jpg")
    sheet(root / "annotations/a.json", shapes)
    reading = read(root)
    return reading.splits["all"], [fault.code for fault in reading.faults]


def pixels(dataset: Dataset, number: int = 0) -> np.ndarray:
    annotation = dataset.annotations[number]
    size = dataset.by_id[annotation.image_id].size
    return rle_decode(to_rle(annotation.segmentation, size), size)


def filled(*rows_columns: tuple[slice, slice]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for window in rows_columns:
        mask[window] = 1
    return mask


# ---- shapes


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        ("polygon", SQUARE),
        ("polygon", [*SQUARE, SQUARE[0]]),
        ("Polygon", SQUARE),
        (None, SQUARE),
        ("rectangle", [[5, 5], [15, 15]]),
        ("rectangle", [[15, 5], [5, 15]]),
        ("rectangle", [[15.0, 15.0], [5.0, 5.0]]),
        ("rectangle", SQUARE),
        ("rotation", SQUARE),
        ("oriented_rectangle", SQUARE),
        ("quadrilateral", SQUARE),
        ("quadrilateral", [*SQUARE, SQUARE[0]]),
    ],
)
def test_outlines(tmp_path: Path, kind: str | None, points: Any) -> None:
    """B30: other shapes than polygons."""
    dataset, faults = one(tmp_path, shape(kind=kind, points=points))
    assert faults == []
    assert (pixels(dataset) == filled((slice(5, 15), slice(5, 15)))).all()
    assert len(dataset.annotations[0].segmentation[0]) == 4


@pytest.mark.parametrize("radius", [3.0, 8.0, 11.5])
def test_a_circle_is_right_within_half_a_pixel(tmp_path: Path, radius: float) -> None:
    dataset, faults = one(tmp_path, shape(kind="circle", points=[[20, 15], [20 + radius * 0.6, 15 + radius * 0.8]]))
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    distance = np.hypot(x - 20, y - 15)
    found = pixels(dataset)
    assert faults == []
    assert found[distance <= radius - 0.5].all()
    assert not found[distance >= radius + 0.5].any()


def test_a_large_circle_has_many_corners_and_a_huge_one_is_no_drawing(tmp_path: Path) -> None:
    dataset, faults = one(
        tmp_path, shape(kind="circle", points=[[0, 0], [5000, 0]]), shape(kind="circle", points=[[0, 0], [9e8, 0]])
    )
    (ring,) = dataset.annotations[0].segmentation
    middle = np.hypot(*((ring + np.roll(ring, 1, axis=0)) / 2).T)
    assert (middle > 5000 - 0.2).all()
    assert len(ring) < 1000
    assert faults == ["polygon-broken"]


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_mask_whose_box_includes_its_last_pixel(tmp_path: Path, mode: str) -> None:
    mask = np.array([[1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 0]])
    dataset, faults = one(tmp_path, shape(kind="mask", points=[[6, 20], [9, 22]], mask=png(mask, mode)))
    expected = filled()
    expected[20:23, 6:10] = mask
    assert faults == []
    assert (pixels(dataset) == expected).all()


def test_mask_with_swapped_corners_exclusive_end_or_the_whole_frame(tmp_path: Path) -> None:
    full = filled((slice(2, 5), slice(7, 9)))
    dataset, faults = one(
        tmp_path,
        shape(kind="mask", points=[[8, 4], [7, 2]], mask=png(np.ones((3, 2)))),
        shape(kind="mask", points=[[7, 2], [9, 5]], mask=png(np.ones((3, 2)))),
        shape(kind="mask", points=[[7, 2], [8, 4]], mask=png(full)),
        shape(kind="mask", points=[[7, 2], [8, 4]], mask="data:image/png;base64," + png(np.ones((3, 2)))),
    )
    assert faults == []
    for number in range(4):
        assert (pixels(dataset, number) == full).all()


@pytest.mark.parametrize(
    ("corner", "expected"),
    [
        ((-2, -1), (slice(0, 3), slice(0, 2))),
        ((38, 28), (slice(28, 30), slice(38, 40))),
        ((90, 5), (slice(0), slice(0))),
    ],
)
def test_a_mask_is_cut_at_the_image(tmp_path: Path, corner: tuple[int, int], expected: tuple[slice, slice]) -> None:
    x, y = corner
    dataset, faults = one(tmp_path, shape(kind="mask", points=[[x, y], [x + 3, y + 3]], mask=png(np.ones((4, 4)))))
    assert faults == []
    assert (pixels(dataset) == filled(expected)).all()


@pytest.mark.parametrize(
    ("bad", "code", "words"),
    [
        (shape(kind="linestrip"), "no-mask", "linestrip"),
        (shape(kind="line", points=[[1, 1], [9, 9]]), "no-mask", "'line' is not a region"),
        (shape(kind="point", points=[[1, 1]]), "no-mask", "'point'"),
        (shape(kind=["x"]), "no-mask", "not a region"),
        (shape(points=[[1, 1], [9, 9]]), "polygon-broken", "encloses nothing"),
        (shape(points=[[1, 1], [5, 1], [9, 1]]), "polygon-broken", "encloses nothing"),
        (shape(points=[[1, 1], [5, 1], [9, float("nan")]]), "polygon-broken", "pairs of numbers"),
        (shape(points=[[1, 1], [5, 1], [9, 10**400]]), "polygon-broken", "pairs of numbers"),
        (shape(points=[[1, 1], [5], [9, 1]]), "polygon-broken", "pairs of numbers"),
        (shape(points=[["1", "1"], ["5", "1"], ["9", "4"]]), "polygon-broken", "pairs of numbers"),
        (shape(points=None), "polygon-broken", "None"),
        (shape(points=[[1, 1], [5, 1], [9, 2e9]]), "polygon-broken", "pairs of numbers"),
        (shape(kind="rectangle", points=[[1, 1], [2, 2], [3, 3]]), "polygon-broken", "rectangle"),
        (shape(kind="circle", points=[[1, 1], [1, 1]]), "polygon-broken", "circle"),
        (shape(kind="mask", points=[[1, 1], [2, 2]]), "rle-broken", "base64"),
        (shape(kind="mask", points=[[1, 1], [2, 2]], mask="iVBOR!"), "rle-broken", "damaged base64"),
        (shape(kind="mask", points=[[1, 1], [2, 2]], mask="iVBORw0KGgo="), "rle-broken", "image"),
        (shape(kind="mask", points=[[1, 1], [9, 9]], mask=png(np.ones((4, 4)))), "rle-broken", "4 x 4"),
        (shape(kind="mask", points=[[1, 1]], mask=png(np.ones((4, 4)))), "rle-broken", "two corners"),
        (shape(label="  "), "record", "expected a name"),
        (shape(label=None), "record", "expected a name"),
        ("cat", "record", "expected label"),
        (shape(label="__ignore__"), "shape-ignored", "__ignore__"),
    ],
)
def test_a_bad_shape_is_told_and_the_rest_stays(tmp_path: Path, bad: Any, code: str, words: str) -> None:
    image(tmp_path / "images/a.jpg")
    sheet(tmp_path / "annotations/a.json", (shape("dog"), bad, shape("cow")))
    reading = read(tmp_path)
    (fault,) = reading.faults
    assert (fault.code, fault.file, fault.image_id) == (code, "annotations/a.json", 1)
    assert "shape 1" in fault.what
    assert words in fault.what
    assert [a.id for a in reading.splits["all"].annotations] == [1, 2]
    assert reading.splits["all"].names == ["dog", "cow"]


def test_a_cut_png_is_told(tmp_path: Path) -> None:
    whole = base64.b64decode(png(np.ones((4, 4))))
    _, faults = one(tmp_path, shape(kind="mask", points=[[0, 0], [3, 3]], mask=base64.b64encode(whole[:-8]).decode()))
    assert faults == ["rle-broken"]


def test_groups_are_one_object_per_label(tmp_path: Path) -> None:
    """B30: shapes of a group are one object."""
    right = [[20, 5], [30, 5], [30, 15], [20, 15]]
    dataset, faults = one(
        tmp_path,
        shape("cat", SQUARE, group=0),
        shape("dog", SQUARE, group=0),
        shape("cat", SQUARE),
        shape("cat", right, group=0),
        shape("cat", [[31, 20], [33, 22]], "rectangle", group="b"),
        shape("cat", [[31, 22], [32, 23]], "mask", group="b", mask=png(np.ones((2, 2)))),
    )
    assert faults == []
    assert [dataset.names[dataset.labels[a.category_id]] for a in dataset.annotations] == ["cat", "dog", "cat", "cat"]
    assert len(dataset.annotations[0].segmentation) == 2
    assert (pixels(dataset, 0) == filled((slice(5, 15), slice(5, 15)), (slice(5, 15), slice(20, 30)))).all()
    assert isinstance(dataset.annotations[3].segmentation, str)
    assert (pixels(dataset, 3) == filled((slice(20, 22), slice(31, 33)), (slice(22, 24), slice(31, 33)))).all()


def boxed(x1: float, y1: float, x2: float, y2: float, label: str = "cat", group: Any = 7) -> Any:
    return shape(label, [[x1, y1], [x2, y2]], "rectangle", group=group)


def test_a_box_that_only_bounds_its_group_is_left_out(tmp_path: Path) -> None:
    """Some tools write the box of each object beside its outline."""
    triangle = shape("cat", [[10, 10], [30, 10], [10, 30]], group=7)
    holed = shape("cat", [[25, 15], [34, 24]], "mask", group=8, mask=png(1 - np.eye(10)))
    alone, _ = one(tmp_path / "alone", triangle, holed)
    boxes = [boxed(10, 10, 30, 30), boxed(10.4, 9.7, 30.2, 29.5), boxed(25, 15, 34.5, 24.5, group=8)]
    both, faults = one(tmp_path / "both", boxes[0], triangle, boxes[1], holed, boxes[2])
    assert faults == ["shape-ignored"]
    (fault,) = labelme.read(Source.of(tmp_path / "both")).faults
    assert fault.what == "boxes left out because they only bound the other shapes of their group: 3"
    for number in range(2):
        assert (pixels(both, number) == pixels(alone, number)).all()


@pytest.mark.parametrize(
    "others",
    [
        (boxed(10, 10, 30, 34),),  # it bounds more
        (boxed(10, 10, 20, 20),),  # a part of it
        (boxed(40, 2, 48, 8),),  # elsewhere
        (boxed(10, 10, 30, 30, label="dog"),),  # another object
        (boxed(10, 10, 30, 30, group=None),),
        (shape("cat", [[10, 10], [30, 10], [30, 30], [10, 30]], group=7),),  # an outline that is a square
    ],
)
def test_other_boxes_of_a_group_stay(tmp_path: Path, others: tuple[Any, ...]) -> None:
    triangle = shape("cat", [[10, 10], [30, 10], [10, 30]], group=7)
    dataset, faults = one(tmp_path / "both", triangle, *others)
    assert faults == []
    union = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, each in enumerate((triangle, *others)):
        union |= pixels(one(tmp_path / str(number), each)[0])
    assert (np.maximum.reduce([pixels(dataset, n) for n in range(len(dataset.annotations))]) == union).all()


def test_a_group_of_boxes_alone_is_their_union(tmp_path: Path) -> None:
    dataset, faults = one(tmp_path, boxed(10, 10, 30, 30), boxed(10, 10, 30, 30), boxed(35, 10, 40, 30))
    assert faults == [] and len(dataset.annotations[0].segmentation) == 3


def test_a_group_of_masks_outside_the_image_is_an_empty_object(tmp_path: Path) -> None:
    far = shape(kind="mask", points=[[90, 90], [91, 91]], group=1, mask=png(np.ones((2, 2))))
    dataset, faults = one(tmp_path, far, far)
    assert faults == []
    assert [area(a.segmentation, (HEIGHT, WIDTH)) for a in dataset.annotations] == [0]


def test_flags_tell_crowds_and_notes_are_kept(tmp_path: Path) -> None:
    crowd = {"flags": {"iscrowd": True, "blurred": True}, "description": "a herd", "attributes": {"age": "old"}}
    dataset, _ = one(
        tmp_path, {**shape(), **crowd}, {**shape(), "flags": {"iscrowd": False}}, {**shape(), "flags": None}
    )
    assert [a.crowd for a in dataset.annotations] == [True, False, False]
    kept = {"description": "a herd", "flags": {"blurred": True}, "attributes": {"age": "old"}}
    assert [dict(a.extra) for a in dataset.annotations] == [kept, {}, {}]


@pytest.mark.parametrize("name", ["iscrowd", "crowd", "is_crowd", "Crowd"])
@pytest.mark.parametrize(("value", "crowd"), [(True, True), (1, True), ("yes", True), (False, False), ("dense", False)])
def test_crowd_flags(tmp_path: Path, name: str, value: Any, crowd: bool) -> None:
    dataset, _ = one(tmp_path, {**shape(), "flags": {name: value}})
    assert dataset.annotations[0].crowd is crowd
    assert dict(dataset.annotations[0].extra) == ({"flags": {name: value}} if value == "dense" else {})


# ---- layouts


def reference_layout(root: Path) -> None:
    for number, label in enumerate(("kiwi", "fig", "lime")):
        image(root / f"images/{number}.jpg")
        sheet(root / f"annotations/{number}.json", (shape(label),), f"..\\images\\{number}.jpg")


def test_lists_name_the_splits(tmp_path: Path) -> None:
    reference_layout(tmp_path)
    (tmp_path / "train_anno_list.txt").write_bytes(b"\xef\xbb\xbfannotations\\1.json\r\n\r\n   \r\nannotations/0.json")
    (tmp_path / "val_anno_list.txt").write_text("images/2.jpg annotations/2.json\n")
    reading = read(tmp_path)
    train, val = reading.splits["train"], reading.splits["val"]
    assert list(reading.splits) == ["train", "val"]
    assert reading.faults == []
    assert [image.file_name for image in train.images] == ["1.jpg", "0.jpg"]
    assert [image.file_name for image in val.images] == ["2.jpg"]
    assert train.folder == tmp_path / "images"
    assert train.categories == val.categories == (Category(1, "fig"), Category(2, "kiwi"), Category(3, "lime"))
    assert [a.id for a in train.annotations] == [1, 2]
    assert [a.category_id for a in val.annotations] == [3]
    assert (train.source.name, val.source.name) == ("train_anno_list.txt", "val_anno_list.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_encodings_and_names_with_spaces(tmp_path: Path, encoding: str) -> None:
    image(tmp_path / "images/水果 1.jpg")
    path = sheet(tmp_path / "annotations/水果 1.json", (shape("苹果"),), "../images/水果 1.jpg")
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    (tmp_path / "train_anno_list.txt").write_bytes("annotations/水果 1.json\n".encode(encoding))
    (tmp_path / "label.txt").write_bytes("苹果\n梨\n".encode(encoding))
    reading = read(tmp_path)
    assert reading.faults == []
    assert reading.splits["train"].names == ["苹果", "梨"] and len(reading.splits["train"].annotations) == 1
    assert [image.file_name for image in reading.splits["train"].images] == ["水果 1.jpg"]


def test_a_missing_or_empty_val_list(tmp_path: Path) -> None:
    reference_layout(tmp_path)
    (tmp_path / "train_anno_list.txt").write_text("annotations/0.json\nannotations/1.json\nannotations/2.json")
    assert list(read(tmp_path).splits) == ["train"]
    (tmp_path / "val_anno_list.txt").write_text("\n")
    reading = read(tmp_path)
    assert len(reading.splits["train"].images) == 3
    assert reading.splits["val"].images == ()
    assert len(reading.splits["val"].categories) == 3


def test_lines_that_lead_nowhere_or_come_twice_and_files_no_list_names(tmp_path: Path) -> None:
    reference_layout(tmp_path)
    (tmp_path / "annotations/instance_train.json").write_text('{"images": [], "annotations": [], "categories": []}')
    lines = ["annotations/0.json", "annotations/7.json", "0.json", f"{tmp_path}/annotations/1.json"]
    (tmp_path / "train_anno_list.txt").write_text("\n".join(lines))
    reading = read(tmp_path)
    assert len(reading.splits["train"].images) == 2
    assert [fault.code for fault in reading.faults] == ["record", "image-listed-twice", "file-unlisted"]
    assert "annotations/7.json" in reading.faults[0].what
    assert "1 annotation file with 1 shape" in reading.faults[2].what
    assert "annotations/2.json" in reading.faults[2].what


def test_lists_in_a_sub_folder(tmp_path: Path) -> None:
    reference_layout(tmp_path / "fruit")
    (tmp_path / "fruit/train_anno_list.txt").write_text("annotations/0.json")
    assert detect(tmp_path)
    assert read(tmp_path).splits["train"].folder == tmp_path / "fruit/images"


def test_json_beside_images(tmp_path: Path) -> None:
    for name in ("a/1", "a/2", "b/1"):
        image(tmp_path / f"{name}.PNG")
        sheet(tmp_path / f"{name}.json", (shape(),), f"{name[-1]}.png")
    (tmp_path / "classes.json").write_text('["cat"]')
    reading = read(tmp_path)
    assert list(reading.splits) == ["all"]
    assert reading.faults == []
    assert reading.splits["all"].folder == tmp_path
    assert [image.file_name for image in reading.splits["all"].images] == ["a/1.PNG", "a/2.PNG", "b/1.PNG"]


@pytest.mark.parametrize("pattern", ["{}/{}", "annotations/{}/{}", "{}/labels/{}"])
def test_folders_named_as_splits(tmp_path: Path, pattern: str) -> None:
    for split in ("valid", "Train", "test"):
        image(tmp_path / "images" / split / f"{split}.jpg")
        sheet(tmp_path / (pattern.format(split, split) + ".json"), (shape(split),), f"{split}.jpg")
    sheet(tmp_path / "stray.json")
    reading = read(tmp_path)
    assert list(reading.splits) == ["train", "val", "test"]
    moved = 3 if pattern == "{}/labels/{}" else 0  # whose images would be in train/images
    assert sorted(fault.code for fault in reading.faults) == ["file-unlisted", *["image-moved"] * moved]
    assert [d.images[0].file_name for d in reading.splits.values()] == [
        "Train/Train.jpg",
        "valid/valid.jpg",
        "test/test.jpg",
    ]
    assert [d.names for d in reading.splits.values()] == [["Train", "valid", "test"]] * 3


def test_a_class_named_as_a_split_makes_none(tmp_path: Path) -> None:
    for name in ("train", "tram"):
        image(tmp_path / name / "1.jpg")
        sheet(tmp_path / name / "1.json", (shape(name),), "1.jpg")
    reading = read(tmp_path)
    assert list(reading.splits) == ["all"]
    assert len(reading.splits["all"].images) == 2


def test_label_txt_orders_the_classes(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ndog\n\n cat \ndog\n")
    dataset, faults = one(tmp_path, shape("cow"), shape("cat"))
    assert faults == []
    assert [(c.id, c.name) for c in dataset.categories] == [(1, "dog"), (2, "cat"), (3, "cow")]


def test_links_to_folders_are_followed_without_end(tmp_path: Path) -> None:
    image(tmp_path / "disk/a.jpg")
    sheet(tmp_path / "set/annotations/a.json", (shape(),))
    (tmp_path / "set/images").symlink_to(tmp_path / "disk")
    (tmp_path / "set/annotations/loop").symlink_to(tmp_path / "set")
    reading = read(tmp_path / "set")
    assert reading.faults == []
    assert len(reading.splits["all"].images) == 1


# ---- images


@pytest.mark.parametrize(
    ("there", "where", "image_path"),
    [
        ("images/a.jpg", "annotations/a.json", "../images/a.jpg"),
        ("images/a.jpg", "annotations/a.json", "..\\images\\a.jpg"),
        ("images/a.jpg", "annotations/a.json", "a.jpg"),
        ("images/a.jpg", "annotations/a.json", "C:\\Users\\me\\fruit\\images\\a.jpg"),
        ("images/a.jpg", "annotations/a.json", "/home/me/fruit/a.jpg"),
        ("images/a.JPG", "annotations/a.json", "../images/A.jpg"),
        ("images/a.jpg", "annotations/a.json", "../images/before_renaming.jpg"),
        ("images/a.png", "annotations/a.json", "../images/a.jpg"),
        ("images/a.jpg", "annotations/a.json", None),
        ("images/b/c/a.jpg", "annotations/b/c/a.json", "a.jpg"),
        ("images/b/a.jpg", "annotations/a.json", "D:/x/images/b/a.jpg"),
        ("photos/2020/a.jpg", "annotations/a.json", "/mnt/a.jpg"),
        ("annotations/a.jpg", "annotations/a.json", "x/a.jpg"),
        ("images/caf\u00e9.jpg", "annotations/a.json", "../images/cafe\u0301.jpg"),
    ],
)
def test_images_are_found(tmp_path: Path, there: str, where: str, image_path: str | None) -> None:
    """B30: also by Windows paths."""
    image(tmp_path / there)
    sheet(tmp_path / where, (shape(),), image_path)
    reading = read(tmp_path)
    dataset = reading.splits["all"]
    moved = there.startswith("photos") or "/b/a" in (image_path or "")
    assert [fault.code for fault in reading.faults] == ["image-moved"] * moved
    assert dataset.path(dataset.images[0]) == tmp_path / there


def test_the_namesake_beside_a_json_file_comes_before_what_is_found_elsewhere(tmp_path: Path) -> None:
    image(tmp_path / "set" / "x1.jpg")
    image(tmp_path / "thumbs" / "image.jpg")
    sheet(tmp_path / "set" / "x1.json", (shape(),), "image.jpg")
    assert [image.file_name for image in read(tmp_path).splits["all"].images] == ["set/x1.jpg"]


def test_an_image_of_another_json_file_is_not_taken_for_one_that_is_missing(tmp_path: Path) -> None:
    image(tmp_path / "photos" / "1.jpg")
    sheet(tmp_path / "a.json", (shape(),), "/mnt/cam2/1.jpg")
    sheet(tmp_path / "photos" / "b.json", (shape(),), "1.jpg")
    reading = read(tmp_path)
    assert [(f.code, f.file) for f in reading.faults] == [("image-missing", "a.json")]
    assert {i.file_name for i in reading.splits["all"].images} == {"photos/1.jpg", "images/1.jpg"}


def test_of_two_images_of_one_name_the_nearest(tmp_path: Path) -> None:
    for folder in ("", "b/", "c/"):
        image(tmp_path / f"images/{folder}a.jpg")
        sheet(tmp_path / f"annotations/{folder}a.json", (shape(),), "/elsewhere/a.jpg")
    dataset = read(tmp_path).splits["all"]
    assert sorted(image.file_name for image in dataset.images) == ["a.jpg", "b/a.jpg", "c/a.jpg"]


def test_images_comes_before_other_folders(tmp_path: Path) -> None:
    image(tmp_path / "images/a.jpg")
    image(tmp_path / "previews/a.jpg")
    sheet(tmp_path / "annotations/b/a.json", (shape(),), "/elsewhere/a.jpg")
    dataset = read(tmp_path).splits["all"]
    assert dataset.path(dataset.images[0]) == tmp_path / "images/a.jpg"


def test_a_missing_image_is_told_and_its_size_is_that_stated(tmp_path: Path) -> None:
    content = base64.b64encode(image(tmp_path / "x.jpg").read_bytes()).decode()
    (tmp_path / "x.jpg").unlink()
    old = {"label": "cat", "points": SQUARE, "line_color": None, "fill_color": None}  # as LabelMe 3 wrote
    sheet(tmp_path / "annotations/b/a.json", (old,), "a.jpg", imageData=content)
    sheet(tmp_path / "annotations/c.json", (old,), "c.jpg", imageData=content, imageHeight=None, imageWidth=None)
    sheet(tmp_path / "annotations/d.json", (old,), "d.jpg", imageHeight=None, imageWidth=None)
    reading = read(tmp_path)
    assert [fault.code for fault in reading.faults] == ["image-embedded", "image-embedded", "image-missing"]
    assert "imageData" in reading.faults[0].what
    images = reading.splits["all"].images
    assert [(image.file_name, image.size) for image in images] == [
        ("b/a.jpg", (HEIGHT, WIDTH)),
        ("c.jpg", (HEIGHT, WIDTH)),
    ]
    assert len(reading.splits["all"].annotations) == 2


def test_sizes_not_stated_are_those_of_the_turned_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image(tmp_path / "images/a.jpg", exif=exif)
    sheet(tmp_path / "annotations/a.json", (), imageHeight=None, imageWidth=0)
    (tmp_path / "images/b.jpg").write_bytes(b"\xff\xd8\xff junk")
    sheet(tmp_path / "annotations/b.json", (), "b.jpg", imageHeight="30")
    sheet(tmp_path / "annotations/c.json", (), "b.jpg", imageHeight=10.0, imageWidth=20.0)
    reading = read(tmp_path)
    assert [image.size for image in reading.splits["all"].images] == [(WIDTH, HEIGHT), (10, 20)]
    assert [(fault.code, fault.file) for fault in reading.faults] == [("image-unreadable", "annotations/b.json")]


def test_images_out_of_reach(tmp_path: Path) -> None:
    image(tmp_path / "outside.jpg")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.gif").write_bytes(b"GIF89a")
    sheet(tmp_path / "set/a.json", (shape(),), "../outside.jpg")
    sheet(tmp_path / "set/b.json", (shape(),), "a.gif")
    sheet(tmp_path / "set/c.json", (shape(),), "a\0b.jpg")
    reading = read(tmp_path / "set")
    assert [fault.code for fault in reading.faults] == ["image-path", "image-unreadable", "image-path"]
    assert reading.splits["all"].images == ()


def test_two_files_of_one_image_are_merged(tmp_path: Path) -> None:
    image(tmp_path / "images/a.jpg")
    sheet(tmp_path / "annotations/a.json", (shape("cat"),))
    sheet(tmp_path / "annotations/b.json", (shape("dog"),))
    reading = read(tmp_path)
    dataset = reading.splits["all"]
    assert [fault.code for fault in reading.faults] == ["image-listed-twice"]
    assert (len(dataset.images), [a.image_id for a in dataset.annotations]) == (1, [1, 1])


# ---- what is not LabelMe


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="no LabelMe annotations"):
        read(tmp_path)
    (tmp_path / "coco.json").write_text('{"images": []}')
    with pytest.raises(DatasetError, match="no LabelMe annotations"):
        read(tmp_path)
    with pytest.raises(DatasetError, match="no LabelMe annotations"):
        read(tmp_path / "coco.json")
    for root in (tmp_path, tmp_path / "nowhere", tmp_path / "coco.json"):
        assert not detect(root)


def test_detect(tmp_path: Path) -> None:
    one(tmp_path / "a", shape())
    assert detect(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/val_anno_list.txt").touch()
    assert detect(tmp_path / "b")


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"shapes": {}}', b'{"shapes": 1, "x"', b"[" * 100_000 + b'"shapes"', b'\xff"shapes"']
)
def test_broken_files_are_told_and_the_rest_stays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/0.json").write_bytes(content)
    (tmp_path / "train_anno_list.txt").write_text("annotations/0.json\nannotations/a.json")
    image(tmp_path / "images/a.jpg")
    sheet(tmp_path / "annotations/a.json", (shape(),))
    reading = read(tmp_path)
    assert [(fault.code, fault.file) for fault in reading.faults] == [("record", "annotations/0.json")]
    assert len(reading.splits["train"].annotations) == 1


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["mask", "circle"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_junk_never_raises(tmp_path: Path, data: st.DataObject) -> None:
    content = json.loads(
        sheet(tmp_path / "a.json", (shape(), shape(kind="mask", mask=png(np.ones((2, 2))))), "a.jpg").read_text()
    )
    spot = data.draw(st.sampled_from([content, *content["shapes"]]))
    for key in data.draw(st.lists(st.sampled_from(list(spot)), min_size=1, max_size=3)):
        spot[key] = data.draw(JUNK)
    (tmp_path / "a.json").write_text(json.dumps(content))
    reading = read(tmp_path)
    for dataset in reading.splits.values():
        for image in dataset.images:
            dataset.instances(image)
    assert all(str(fault) for fault in reading.faults)


# ---- writing


def made(root: Path, split: str, names: list[str], *annotations: Annotation) -> Dataset:
    for name in names:
        image(root / name)
    images = [ImageRecord(f"id{n}", name, WIDTH, HEIGHT) for n, name in enumerate(names)]
    return Dataset(split, root, images, annotations, (Category(7, "cat"), Category(3, "sea\tlion")))


def test_round_trip(tmp_path: Path) -> None:
    ring = np.array(SQUARE, np.float64)
    hole = filled((slice(2, 9), slice(2, 9)))
    hole[4:6, 4:6] = 0
    solid = filled((slice(2, 9), slice(2, 9)), (slice(20, 30), slice(30, 40)))
    source = made(
        tmp_path / "source",
        "train",
        ["x/a.jpg", "a.jpg", "a.png"],
        Annotation(1, "id0", 7, (ring + 0.123456789,)),
        Annotation(2, "id0", 7, (ring, ring + 12.5), crowd=True, extra={"flags": {"blurred": True}}),
        Annotation(3, "id1", 3, rle_encode(hole)),
        Annotation(4, "id1", 3, rle_encode(solid)),
        Annotation(5, "id1", 3, rle_encode(filled())),
    )
    other = made(tmp_path / "other", "val", ["a.jpg"])
    target = tmp_path / "target"
    target.mkdir()
    notes = labelme.write({"train": source, "val": other}, target)
    reading = read(target)
    back = reading.splits["train"]

    assert [note.rpartition(": ")[2] for note in notes[:-1]] == ["1", "1", "1"]
    assert "'sea\\tlion' as 'sea lion'" in notes[-1]
    assert reading.faults == []
    assert [image.file_name for image in back.images] == ["x/a.jpg", "a.jpg", "a.png"]
    assert [image.file_name for image in reading.splits["val"].images] == ["val/a.jpg"]
    assert (
        target / "train_anno_list.txt"
    ).read_text() == "annotations/x/a.json\nannotations/a.json\nannotations/a.png.json\n"
    assert (target / "label.txt").read_text() == "cat\nsea lion\n"
    assert [a.crowd for a in back.annotations] == [False, True, False, False]
    assert back.annotations[1].extra == {"flags": {"blurred": True}}
    assert (back.annotations[0].segmentation[0] == ring + 0.123456789).all()
    assert len(back.annotations[1].segmentation) == 2
    assert (pixels(back, 2) == hole).all()
    assert (pixels(back, 3) == solid).all()
    assert detect(target)


def test_what_is_written_is_labelme_json(tmp_path: Path) -> None:
    mask = filled((slice(2, 9), slice(3, 9)))
    mask[4, 4] = 0
    ring = np.array(SQUARE, np.float64)
    source = made(
        tmp_path,
        "all",
        ["x/ä.jpg"],
        Annotation(1, "id0", 7, (ring, ring + 1)),
        Annotation(2, "id0", 3, rle_encode(mask)),
    )
    target = tmp_path / "target"
    target.mkdir()
    labelme.write({"all": source}, target)
    assert sorted(path.name for path in target.iterdir()) == ["annotations", "images", "label.txt"]
    content = json.loads((target / "annotations/x/ä.json").read_bytes())
    assert list(content) == ["version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"]
    assert content["imagePath"] == "../../images/x/ä.jpg"
    assert (target / "annotations/x" / content["imagePath"]).is_file()
    assert (content["imageData"], content["imageHeight"], content["imageWidth"]) == (None, HEIGHT, WIDTH)
    keys = ["label", "points", "group_id", "description", "shape_type", "flags", "mask"]
    assert [list(entry) for entry in content["shapes"]] == [keys] * 3
    assert [entry["group_id"] for entry in content["shapes"]] == [1, 1, None]
    assert content["shapes"][0]["points"] == SQUARE
    last = content["shapes"][2]
    assert (last["shape_type"], last["points"]) == ("mask", [[3, 2], [8, 8]])
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(last["mask"]))))
    assert (decoded == mask[2:9, 3:9]).all()
    assert read(target).splits["all"].names == ["cat", "sea lion"]


def test_names_that_would_not_come_back(tmp_path: Path) -> None:
    names = ["__ignore__", "a b", "a  b", "a\nb", "ok"]
    image(tmp_path / "a.jpg")
    square = (np.array(SQUARE, np.float64),)
    annotations = [Annotation(n, 1, n, square) for n in range(len(names))]
    categories = [Category(n, name) for n, name in enumerate(names)]
    source = Dataset("train", tmp_path, [ImageRecord(1, "a.jpg", WIDTH, HEIGHT)], annotations, categories)
    target = tmp_path / "target"
    target.mkdir()
    (note,) = labelme.write({"train": source}, target)
    back = read(target).splits["train"]
    assert note.startswith("classes renamed")
    assert back.names == ["__ignore__ class", "a b", "a b 2", "a b 3", "ok"]
    assert [a.category_id for a in back.annotations] == [1, 2, 3, 4, 5]


def test_an_unsplit_part_beside_splits_gets_a_list(tmp_path: Path) -> None:
    splits = {split: made(tmp_path / split, split, [f"{split}.jpg"]) for split in ("train", "all")}
    (tmp_path / "target").mkdir()
    assert labelme.write(splits, tmp_path / "target") == [
        "classes renamed to fit a line of label.txt: 'sea\\tlion' as 'sea lion'"
    ]
    back = read(tmp_path / "target").splits
    assert {split: [image.file_name for image in d.images] for split, d in back.items()} == {
        "train": ["train.jpg"],
        "all": ["all.jpg"],
    }


def test_a_missing_image_stops_the_writing(tmp_path: Path) -> None:
    source = made(tmp_path, "train", ["a.jpg"])
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "target").mkdir()
    with pytest.raises(DatasetError, match=r"a\.jpg is missing"):
        labelme.write({"train": source}, tmp_path / "target")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bits=st.integers(1, 2**48 - 1), crowd=st.booleans())
def test_any_mask_comes_back_pixel_for_pixel(tmp_path_factory: pytest.TempPathFactory, bits: int, crowd: bool) -> None:
    root = tmp_path_factory.mktemp("set")
    mask = filled()
    mask[9:15, 3:11] = np.array([bits >> n & 1 for n in range(48)]).reshape(6, 8)
    source = made(root, "train", ["a.jpg"], Annotation(1, "id0", 7, rle_encode(mask), crowd=crowd))
    (root / "target").mkdir()
    labelme.write({"train": source}, root / "target")
    back = read(root / "target").splits["train"]
    assert len(back.annotations) == 1
    assert back.annotations[0].crowd == crowd
    assert (pixels(back) == mask).all()


@pytest.mark.parametrize(("name", "limit"), [("coco_sample", 1000), ("nuclei", 30)])
def test_real_sets_come_back_pixel_for_pixel(tmp_path: Path, name: str, limit: int) -> None:
    if not (SHARED / name).exists():
        pytest.skip("needs ../shared/data")
    whole = read_any(SHARED / name).splits
    splits = {split: dataset.select(dataset.images[:limit]) for split, dataset in whole.items()}
    labelme.write(splits, tmp_path)
    reading = read(tmp_path)
    assert reading.faults == []
    for split, dataset in splits.items():
        back = reading.splits[split]
        assert back.names == dataset.names
        for image, image_back in zip(dataset.images, back.images, strict=True):
            assert (image.file_name, image.size) == (image_back.file_name, image_back.size)
            drawn = [
                a for a in dataset.of(image) if crop(a.segmentation, image.size) or not isinstance(a.segmentation, str)
            ]
            for ours, theirs in zip(drawn, back.of(image_back), strict=True):
                assert to_rle(ours.segmentation, image.size) == to_rle(theirs.segmentation, image.size)
                assert dataset.labels[ours.category_id] == back.labels[theirs.category_id]
                assert ours.crowd == theirs.crowd
