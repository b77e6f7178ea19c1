"""LabelMe: what people's folders hold, read; what is written, read back pixel for pixel."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.labelme import HEIGHT, SQUARE, WIDTH, detect, filled, image, one, pixels, png, read, shape, sheet
from fixtures.narrow import polygon
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maskline.data.formats.labelme import format as labelme
from maskline.data.shapes import area
from maskline.data.source import Source
from maskline.errors import DatasetError, DatasetNotFoundError

SHARED = Path(__file__).parents[4] / "shared" / "data"


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


def test_a_large_circle_has_many_corners_and_a_huge_one_is_refused(tmp_path: Path) -> None:
    dataset, faults = one(
        tmp_path, shape(kind="circle", points=[[0, 0], [5000, 0]]), shape(kind="circle", points=[[0, 0], [9e8, 0]])
    )
    ring = polygon(dataset.annotations[0])
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
def test_a_bad_shape_is_reported_and_the_rest_stays(tmp_path: Path, bad: Any, code: str, words: str) -> None:
    image(tmp_path / "images/a.jpg")
    sheet(tmp_path / "annotations/a.json", (shape("dog"), bad, shape("cow")))
    reading = read(tmp_path)
    (fault,) = reading.faults
    assert (fault.code, fault.file, fault.image_id) == (code, "annotations/a.json", 1)
    assert "shape 1" in fault.what
    assert words in fault.what
    assert [a.id for a in reading.splits["all"].annotations] == [1, 2]
    assert reading.splits["all"].names == ["dog", "cow"]


def test_a_cut_png_is_reported(tmp_path: Path) -> None:
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
    """Some tools write the box of each object next to its outline."""
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


def test_flags_mark_crowds_and_notes_are_kept(tmp_path: Path) -> None:
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
def test_broken_files_are_reported_and_the_rest_stays(tmp_path: Path, content: bytes) -> None:
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
        for record in dataset.images:
            dataset.instances(record)
    assert all(str(fault) for fault in reading.faults)
