"""CVAT for images 1.1: what CVAT writes is read, what we write comes back, and junk gives one line."""

from __future__ import annotations

import random
import re
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from fixtures import sets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
from maskline.data.faults import KINDS, Reading
from maskline.data.formats.cvat import format as cvat
from maskline.data.reading import load_splits as load_any
from maskline.data.shapes import Segmentation, crop, to_polygons, to_rle
from maskline.data.source import Source
from maskline.errors import DatasetError, DatasetNotFoundError
from maskline.masks import Window, has_holes, place_rle, rle_decode, rle_encode
from maskline.render import PALETTE

SHARED = Path(__file__).parents[4] / "shared" / "data"
HEIGHT, WIDTH = 40, 60
LABELS = "<labels><label><name>cat</name></label><label><name>dog</name></label></labels>"
SQUARE = '<polygon label="cat" points="2.00,3.00;12.00,3.00;12.00,9.00;2.00,9.00"/>'


def read(root: Path) -> Reading:
    """What the format's own reader makes of a folder or file."""
    return cvat.read(Source.of(root))


def detect(root: Path) -> bool:
    return root.exists() and bool(cvat.detect(Source.of(root)))


def save_image(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(".png", np.zeros((*size, 3), np.uint8))
    assert ok
    path.write_bytes(data.tobytes())


def document(images: str, meta: str = f"<task>{LABELS}</task>") -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
        f"  <meta>{meta}</meta>\n{images}\n</annotations>\n"
    )


def image(shapes: str = "", name: str = "a.png", more: str = "", size: str = 'width="60" height="40"') -> str:
    return f'<image id="0" name="{name}" {more} {size}>{shapes}</image>'


def make(root: Path, images: str, photos: tuple[str, ...] = ("images/a.png",), **more: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name in photos:
        save_image(root / name)
    (root / "annotations.xml").write_text(document(images, **more), encoding="utf-8")
    return root


def read_shapes(root: Path, shapes: str) -> Reading:
    return read(make(root, image(shapes)))


def one_mask(root: Path, shapes: str) -> np.ndarray:
    reading = read_shapes(root, shapes)
    assert reading.faults == []
    (annotation,) = reading.splits["all"].annotations
    return rle_decode(to_rle(annotation.segmentation, (HEIGHT, WIDTH)), (HEIGHT, WIDTH))


def codes(reading: Reading) -> list[str]:
    assert all(fault.code in KINDS and "\n" not in fault.what for fault in reading.faults)
    return [fault.code for fault in reading.faults]


def rectangle(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


# ---- shapes


def test_a_polygon_is_read_in_cocos_coordinates(tmp_path: Path) -> None:
    assert (one_mask(tmp_path, SQUARE) == rectangle(3, 9, 2, 12)).all()


def test_a_polygon_that_repeats_its_first_point(tmp_path: Path) -> None:
    shapes = '<polygon label="cat" points="2,3;12,3;12,9;2,9;2,3;"/>'
    (annotation,) = read_shapes(tmp_path, shapes).splits["all"].annotations
    assert not isinstance(annotation.segmentation, str)
    assert annotation.segmentation[0].tolist() == [[2, 3], [12, 3], [12, 9], [2, 9]]


def test_a_box(tmp_path: Path) -> None:
    mask = one_mask(tmp_path, '<box label="cat" xtl="2.00" ytl="3.00" xbr="12.00" ybr="9.00"/>')
    assert (mask == rectangle(3, 9, 2, 12)).all()


def test_a_box_turned_by_90_degrees(tmp_path: Path) -> None:
    mask = one_mask(tmp_path, '<box label="cat" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90.00"/>')
    assert (mask == rectangle(5, 25, 15, 25)).all()


def test_rotation_is_clockwise_as_seen(tmp_path: Path) -> None:
    shapes = '<box label="cat" xtl="10" ytl="18" xbr="50" ybr="22" rotation="30"/>'
    ys, xs = np.nonzero(one_mask(tmp_path, shapes))
    assert ys[xs > 40].mean() > 24 > 16 > ys[xs < 20].mean()  # the right end sinks


def test_an_ellipse_within_a_few_pixels_of_its_equation(tmp_path: Path) -> None:
    mask = one_mask(tmp_path, '<ellipse label="cat" cx="30.00" cy="20.00" rx="20.00" ry="10.00"/>')
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    exact = ((x - 30) / 20) ** 2 + ((y - 20) / 10) ** 2 <= 1
    assert np.count_nonzero(mask != exact) <= 0.02 * exact.sum()


def test_a_turned_ellipse(tmp_path: Path) -> None:
    upright = one_mask(tmp_path / "a", '<ellipse label="cat" cx="30" cy="20" rx="8" ry="16"/>')
    turned = one_mask(tmp_path / "b", '<ellipse label="cat" cx="30" cy="20" rx="16" ry="8" rotation="270"/>')
    assert np.count_nonzero(upright != turned) <= 8


def test_a_mask_goes_row_by_row_through_its_box(tmp_path: Path) -> None:
    shapes = '<mask label="cat" rle="1, 2, 2, 1, 1, 1" left="5" top="7" width="4" height="2" z_order="0"/>'
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[7:9, 5:9] = [[0, 1, 1, 0], [0, 1, 0, 1]]
    assert (one_mask(tmp_path, shapes) == expected).all()


@pytest.mark.parametrize(
    ("rle", "expected"),
    [
        ("0,4", [[1, 1], [1, 1]]),
        ("0,1", [[1, 0], [0, 0]]),  # background at the end left out
        ("1,1,1", [[0, 1], [0, 0]]),
        ("4", [[0, 0], [0, 0]]),
        (" 0 , 3 , 1 ", [[1, 1], [1, 0]]),
    ],
)
def test_run_lengths_of_a_mask(tmp_path: Path, rle: str, expected: list[list[int]]) -> None:
    mask = one_mask(tmp_path, f'<mask label="cat" rle="{rle}" left="0" top="0" width="2" height="2"/>')
    assert mask[:2, :2].tolist() == expected and mask.sum() == np.sum(expected)


def test_a_mask_of_many_runs(tmp_path: Path) -> None:
    runs = ", ".join(["1"] * 400)
    mask = one_mask(tmp_path, f'<mask label="cat" rle="{runs}" left="0" top="0" width="20" height="20"/>')
    assert mask.sum() == 200


@pytest.mark.parametrize("place", [(-3, -2), (WIDTH - 4, HEIGHT - 5), (WIDTH + 5, 0), (0, -30), (-100, -100)])
def test_a_mask_that_leaves_the_image_is_cut(tmp_path: Path, place: tuple[int, int]) -> None:
    left, top = place
    shapes = f'<mask label="cat" rle="0,100" left="{left}" top="{top}" width="10" height="10"/>'
    expected = rectangle(max(0, top), max(0, top + 10), max(0, left), max(0, left + 10))
    assert (one_mask(tmp_path, shapes) == expected).all()


def test_a_mask_that_is_larger_than_the_image(tmp_path: Path) -> None:
    shapes = '<mask label="cat" rle="0,10000" left="-20" top="-20" width="100" height="100"/>'
    assert one_mask(tmp_path, shapes).all()


@pytest.mark.parametrize("shape", ["polyline", "points", "cuboid", "skeleton", "blob"])
def test_shapes_that_are_no_region_are_told(tmp_path: Path, shape: str) -> None:
    inner = '<points label="joint" points="1,1"/>' if shape == "skeleton" else ""
    reading = read_shapes(tmp_path, f'<{shape} label="cat" points="1,2;3,4;9,1">{inner}</{shape}>{SQUARE}')
    assert codes(reading) == ["no-mask"]
    assert f"a {shape} is not a region" in reading.faults[0].what and reading.faults[0].image_id == 1
    assert len(reading.splits["all"].annotations) == 1


def test_tags_of_whole_images_are_no_faults(tmp_path: Path) -> None:
    reading = read_shapes(tmp_path, f'<tag label="blurred" source="manual"/>{SQUARE}')
    assert reading.faults == [] and reading.splits["all"].names == ["cat", "dog"]


# ---- objects


def test_parts_of_one_group_and_label_are_one_object(tmp_path: Path) -> None:
    parts = [
        '<polygon label="cat" group_id="4" points="0,0;5,0;5,5;0,5"/>',
        '<polygon label="dog" group_id="4" points="0,0;5,0;5,5;0,5"/>',
        '<polygon label="cat" group_id="4" points="10,0;15,0;15,5;10,5"/>',
        '<polygon label="cat" group_id="0" points="20,0;25,0;25,5;20,5"/>',
        '<polygon label="cat" points="30,0;35,0;35,5;30,5"/>',
    ]
    dataset = read_shapes(tmp_path, "".join(parts)).splits["all"]
    names = [dataset.names[dataset.labels[a.category_id]] for a in dataset.annotations]
    assert names == ["cat", "dog", "cat", "cat"]
    assert [len(a.segmentation) for a in dataset.annotations] == [2, 1, 1, 1]
    assert [a.id for a in dataset.annotations] == [1, 2, 3, 4]


def test_a_group_of_polygon_and_mask_is_their_union(tmp_path: Path) -> None:
    shapes = (
        '<polygon label="cat" group_id="1" points="0,0;5,0;5,5;0,5"/>'
        '<mask label="cat" group_id="1" rle="0,4" left="10" top="10" width="2" height="2"/>'
    )
    assert (one_mask(tmp_path, shapes) == (rectangle(0, 5, 0, 5) | rectangle(10, 12, 10, 12))).all()


def test_attributes_are_kept_and_iscrowd_is_understood(tmp_path: Path) -> None:
    shapes = (
        SQUARE.replace("/>", '><attribute name="colour">red</attribute><attribute name="IsCrowd">True</attribute>')
        + "</polygon>"
        + SQUARE.replace("/>", '><attribute name="is_crowd">false</attribute></polygon>')
    )
    first, second = read_shapes(tmp_path, shapes).splits["all"].annotations
    assert first.crowd and first.extra == {"attributes": {"colour": "red"}}
    assert not second.crowd and second.extra == {}


@pytest.mark.parametrize("name", ["iscrowd", "crowd"])
@pytest.mark.parametrize(("value", "crowd"), [("true", True), ("1", True), ("false", False), ("dense", False)])
def test_crowd_attributes(tmp_path: Path, name: str, value: str, crowd: bool) -> None:
    shapes = SQUARE.replace("/>", f'><attribute name="{name}">{value}</attribute></polygon>')
    (annotation,) = read_shapes(tmp_path, shapes).splits["all"].annotations
    assert annotation.crowd is crowd
    assert annotation.extra == ({"attributes": {name: value}} if value == "dense" else {})


TRIANGLE = '<polygon label="cat" group_id="7" points="10,10;30,10;10,30"/>'


def box(left: float, top: float, right: float, bottom: float, more: str = 'group_id="7"') -> str:
    return f'<box label="cat" xtl="{left}" ytl="{top}" xbr="{right}" ybr="{bottom}" {more}/>'


def test_a_box_that_only_bounds_its_group_is_left_out(tmp_path: Path) -> None:
    """Datumaro writes the box of each of COCO's annotations so."""
    reading = read_shapes(tmp_path / "both", box(10, 10, 30, 30) + TRIANGLE + box(9.6, 10.2, 30, 30))
    assert [(fault.code, fault.split) for fault in reading.faults] == [("shape-ignored", "all")]
    assert reading.faults[0].what == "boxes left out because they only bound the other shapes of their group: 2"
    (annotation,) = reading.splits["all"].annotations
    found = rle_decode(to_rle(annotation.segmentation, (HEIGHT, WIDTH)), (HEIGHT, WIDTH))
    assert (found == one_mask(tmp_path / "alone", TRIANGLE)).all()


@pytest.mark.parametrize(
    "other",
    [
        box(10, 10, 30, 34),
        box(40, 2, 48, 8),
        box(10, 10, 30, 30, 'group_id="7" rotation="45"'),
        '<polygon label="cat" group_id="7" points="10,10;30,10;30,30;10,30"/>',
    ],
)
def test_other_boxes_of_a_group_stay(tmp_path: Path, other: str) -> None:
    both = one_mask(tmp_path / "both", TRIANGLE + other)
    assert (both == (one_mask(tmp_path / "a", TRIANGLE) | one_mask(tmp_path / "b", other))).all()


def test_a_label_that_is_not_listed_comes_last(tmp_path: Path) -> None:
    reading = read_shapes(tmp_path, SQUARE.replace('"cat"', '"bird"') + SQUARE)
    assert reading.splits["all"].names == ["cat", "dog", "bird"] and reading.faults == []


def test_without_meta_classes_come_as_they_appear(tmp_path: Path) -> None:
    make(tmp_path, image(SQUARE.replace("cat", "zebra") + SQUARE))
    path = tmp_path / "annotations.xml"
    path.write_text(re.sub("<meta>.*</meta>", "", path.read_text()))
    assert read(tmp_path).splits["all"].names == ["zebra", "cat"]


@pytest.mark.parametrize("kind", ["task", "project", "job"])
def test_labels_of_tasks_projects_and_jobs_without_what_has_no_region(tmp_path: Path, kind: str) -> None:
    labels = (
        "<label><name>cat</name><color>#fa3253</color><type>any</type><attributes/></label>"
        "<label><name>body</name><type>skeleton</type></label>"
        "<label><name>joint</name><type>points</type><parent>body</parent></label>"
        "<label><name>blurred</name><type>tag</type></label>"
        "<label><name> dog </name><type>mask</type></label><label><name/></label>"
    )
    meta = f"<{kind}><id>1</id><name>x</name><labels>{labels}</labels></{kind}><dumped>2024</dumped>"
    reading = read(make(tmp_path, image(SQUARE), meta=meta))
    assert reading.splits["all"].names == ["cat", "dog"]


# ---- images and splits


def test_a_project_with_subsets(tmp_path: Path) -> None:
    rows = [("Train", "a.png"), ("Validation", "a.png"), ("test", "b.png"), ("default", "c.png"), ("Train", "d/e.png")]
    images = "".join(image(SQUARE, name, f'subset="{subset}" task_id="3"') for subset, name in rows)
    reading = read(make(tmp_path, images, tuple(f"images/{subset}/{name}" for subset, name in rows)))
    assert reading.faults == [] and list(reading.splits) == ["train", "val", "test", "all"]
    train = reading.splits["train"]
    assert [i.file_name for i in train.images] == ["a.png", "d/e.png"] and train.folder.name == "Train"
    assert [a.id for a in train.annotations] == [1, 2] and [i.id for i in train.images] == [1, 2]
    assert all(d.path(i).is_file() for d in reading.splits.values() for i in d.images)
    assert all(d.categories == train.categories for d in reading.splits.values())


@pytest.mark.parametrize("place", ["images/a.png", "a.png", "images/Train/a.png", "Train/a.png"])
def test_where_images_may_lie(tmp_path: Path, place: str) -> None:
    reading = read(make(tmp_path, image(SQUARE, more='subset="Train"'), (place,)))
    dataset = reading.splits["train"]
    assert dataset.path(dataset.images[0]) == tmp_path / place and dataset.images[0].file_name == "a.png"


def test_images_in_several_folders_are_named_from_the_root(tmp_path: Path) -> None:
    reading = read(make(tmp_path, image(name="a.png") + image(name="b.png"), ("images/a.png", "b.png")))
    assert [i.file_name for i in reading.splits["all"].images] == ["images/a.png", "b.png"]


def test_frames_of_a_video_lack_their_suffix(tmp_path: Path) -> None:
    reading = read(make(tmp_path, image(SQUARE, "frame_000000"), ("images/frame_000000.PNG",)))
    assert reading.splits["all"].images[0].file_name == "frame_000000.PNG" and reading.faults == []


def test_names_with_backslashes_and_entities(tmp_path: Path) -> None:
    reading = read(make(tmp_path, image(SQUARE, "b&amp;w\\&#252;.png"), ("images/b&w/ü.png",)))
    assert [i.file_name for i in reading.splits["all"].images] == ["b&w/ü.png"]


def test_the_xml_itself_may_be_named(tmp_path: Path) -> None:
    make(tmp_path, image(SQUARE))
    (tmp_path / "annotations.xml").rename(tmp_path / "My Task.XML")
    for root in (tmp_path, tmp_path / "My Task.XML"):
        assert detect(root) and len(read(root).splits["all"].annotations) == 1


def test_several_exports_in_folders_named_as_splits(tmp_path: Path) -> None:
    for folder in ("train", "valid", "other"):
        make(tmp_path / folder, image(SQUARE))
    reading = read(tmp_path)
    assert list(reading.splits) == ["train", "val", "all"] and reading.faults == []
    assert reading.splits["val"].path(reading.splits["val"].images[0]) == tmp_path / "valid/images/a.png"


def test_missing_images_are_told_and_left_out(tmp_path: Path) -> None:
    reading = read(make(tmp_path, image(SQUARE) + image(SQUARE, "gone.png")))
    assert codes(reading) == ["image-missing"] and "'gone.png'" in reading.faults[0].what
    assert len(reading.splits["all"].images) == len(reading.splits["all"].annotations) == 1


def test_a_file_without_images_gives_a_split_and_faults(tmp_path: Path) -> None:
    reading = read(make(tmp_path, image(SQUARE), ()))
    assert codes(reading) == ["image-missing"] and len(reading.splits["all"].images) == 0


@pytest.mark.parametrize("name", ["../gone.png", "/etc/gone.png", "C:\\gone.png", "", "a/../../b.png"])
def test_names_that_lead_out_are_told(tmp_path: Path, name: str) -> None:
    assert codes(read(make(tmp_path, image(SQUARE, name)))) == ["image-path"]


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "C:\\a.png"])
def test_an_image_is_found_by_the_end_of_its_name(tmp_path: Path, name: str) -> None:
    reading = read(make(tmp_path, image(SQUARE, name)))
    assert codes(reading) == ["image-moved"] * name.startswith("/etc") and len(reading.splits["all"].annotations) == 1


def test_images_that_are_all_in_a_folder_of_another_name_are_not_moved(tmp_path: Path) -> None:
    """As in FiftyOne's exports."""
    images = image(SQUARE, "a.png") + image(SQUARE, "b.png")
    reading = read(make(tmp_path, images, ("data/a.png", "data/b.png")))
    assert codes(reading) == [] and len(reading.splits["all"].annotations) == 2


@pytest.mark.parametrize("name", ["x" * 5000 + ".png", "\ufffe".join("ab").replace("\ufffe", "&#x2028;") + ".png"])
def test_names_no_file_has(tmp_path: Path, name: str) -> None:
    assert codes(read(make(tmp_path, image(SQUARE, name)))) == ["image-missing"]


def test_an_image_listed_twice_gets_the_annotations_of_both(tmp_path: Path) -> None:
    reading = read(make(tmp_path, image(SQUARE) + image(SQUARE)))
    assert codes(reading) == ["image-listed-twice"]
    assert [a.image_id for a in reading.splits["all"].annotations] == [1, 1]


@pytest.mark.parametrize(
    "size", ["", 'width="0" height="4"', 'width="x" height="4"', 'width="99999999" height="99999999"']
)
def test_a_size_not_stated_is_the_files(tmp_path: Path, size: str) -> None:
    reading = read(make(tmp_path, image(SQUARE, size=size)))
    assert reading.splits["all"].images[0].size == (HEIGHT, WIDTH) and reading.faults == []
    (tmp_path / "images/a.png").write_bytes(b"no image")
    assert codes(read(tmp_path)) == ["image-unreadable"]


# ---- what is wrong


@pytest.mark.parametrize(
    ("code", "shape"),
    [
        ("record", '<polygon points="0,0;5,0;5,5"/>'),
        ("record", '<box label="  " xtl="1" ytl="1" xbr="5" ybr="5"/>'),
        ("polygon-broken", '<polygon label="cat"/>'),
        ("polygon-broken", '<polygon label="cat" points="0,0;5,0"/>'),
        ("polygon-broken", '<polygon label="cat" points="0,0;5,0;9,0"/>'),
        ("polygon-broken", '<polygon label="cat" points="0,0;5,0;5"/>'),
        ("polygon-broken", '<polygon label="cat" points="0,0;5,0;5,5,5"/>'),
        ("polygon-broken", '<polygon label="cat" points="0,0;5,nan;5,5"/>'),
        ("polygon-broken", '<polygon label="cat" points="0,0;5,1e300;5,5"/>'),
        ("polygon-broken", '<polygon label="cat" points="a,b;c,d;e,f"/>'),
        ("polygon-broken", '<box label="cat" xtl="1" ytl="1" xbr="1" ybr="5"/>'),
        ("polygon-broken", '<box label="cat" xtl="1" ytl="1" xbr="4"/>'),
        ("polygon-broken", '<box label="cat" xtl="1" ytl="1" xbr="4" ybr="5" rotation="inf"/>'),
        ("polygon-broken", '<ellipse label="cat" cx="1" cy="1" rx="0" ry="0"/>'),
        ("polygon-broken", '<ellipse label="cat" cx="1" cy="1" rx="5" ry="0"/>'),
        ("polygon-broken", '<ellipse label="cat" cx="1" cy="1" rx="999999999" ry="5"/>'),
        ("rle-broken", '<mask label="cat" left="0" top="0" width="2" height="2"/>'),
        ("rle-broken", '<mask label="cat" rle="1,x" left="0" top="0" width="2" height="2"/>'),
        ("rle-broken", '<mask label="cat" rle="1,-1" left="0" top="0" width="2" height="2"/>'),
        ("rle-broken", '<mask label="cat" rle="1,4" left="0" top="0" width="2" height="2"/>'),
        ("rle-broken", '<mask label="cat" rle="1" left="0" top="0" width="0" height="2"/>'),
        ("rle-broken", '<mask label="cat" rle="1" left="0" top="0" width="99999" height="99999"/>'),
        ("rle-broken", '<mask label="cat" rle="0,4" left="" top="0" width="2" height="2"/>'),
        ("rle-broken", f'<mask label="cat" rle="0,{"9" * 6000}" left="0" top="0" width="2" height="2"/>'),
    ],
)
def test_broken_shapes_are_told_and_the_rest_is_read(tmp_path: Path, code: str, shape: str) -> None:
    reading = read_shapes(tmp_path, shape + SQUARE)
    assert codes(reading) == [code] and "a.png: shape 0" in reading.faults[0].what
    assert len(reading.splits["all"].annotations) == 1


def test_an_export_for_video_is_refused_with_advice(tmp_path: Path) -> None:
    track = '<track id="0" label="cat"><box frame="0" xtl="1" ytl="1" xbr="5" ybr="5"/></track>'
    with pytest.raises(DatasetError, match="'CVAT for video': export it as 'CVAT for images 1.1'"):
        read(make(tmp_path, track))


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>\n<annotations>&b;</annotations>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>\n<annotations><image name="&a;"/></annotations>'


@pytest.mark.parametrize(
    "text", [BOMB, OUTSIDE, "<annotations>", "<annotations ><image></annotations>", document(image(SQUARE))[:-40]]
)
def test_damaged_and_hostile_xml_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "annotations.xml").write_text(text)
    assert detect(tmp_path)
    with pytest.raises(DatasetError, match="is not readable XML") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin-1"])
def test_other_encodings(tmp_path: Path, encoding: str) -> None:
    make(tmp_path, image(SQUARE.replace("cat", "Käfer")))
    path = tmp_path / "annotations.xml"
    text = path.read_text(encoding="utf-8").replace('"utf-8"', f'"{encoding.removesuffix("-sig")}"')
    path.write_bytes(text.encode(encoding))
    assert detect(tmp_path) and "Käfer" in read(tmp_path).splits["all"].names


def test_an_unknown_encoding_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "annotations.xml").write_text('<?xml version="1.0" encoding="nonsense"?><annotations></annotations>')
    with pytest.raises(DatasetError, match="not readable XML"):
        read(tmp_path)


def test_what_is_not_cvat(tmp_path: Path) -> None:
    (tmp_path / "voc.xml").write_text("<annotation><filename>a.png</filename></annotation>")
    assert not detect(tmp_path / "gone")
    for root in (tmp_path, tmp_path / "voc.xml"):
        assert not detect(root)
        with pytest.raises(DatasetNotFoundError, match="expected an export of CVAT"):
            read(root)


@pytest.mark.parametrize("seed", range(150))
def test_no_junk_gives_a_traceback(tmp_path: Path, seed: int) -> None:
    shapes = (
        f'{SQUARE}<mask label="dog" group_id="2" rle="0,4" left="1" top="1" width="2" height="2"/>'
        '<ellipse label="cat" cx="9" cy="9" rx="4" ry="5" rotation="20"><attribute name="n">1</attribute></ellipse>'
        '<box label="cat" xtl="1" ytl="1" xbr="5" ybr="5" rotation="7"/>'
    )
    make(tmp_path, image(shapes, more='subset="Train"'))
    path, rng = tmp_path / "annotations.xml", random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(data))
        if rng.random() < 0.5:
            data[place] = rng.choice(b"<>&;,.-0919e \"'/\xff\x00ab")
        else:
            values = [match.span(1) for match in re.finditer(rb'="([^"]*)"', data)]
            start, end = rng.choice(values) if values else (place, place)
            junk = [b"", b"-1", b"nan", b"1e999", b"99999999999999999999", b"a", b"0", b",;,", b"1,1;1,1;1,1", b"\xc3"]
            data[start:end] = rng.choice(junk)
    path.write_bytes(bytes(data))
    try:
        reading = read(tmp_path)
    except DatasetError as error:
        assert "\n" not in str(error)
        return
    codes(reading)
    for dataset in reading.splits.values():
        for annotation in dataset.annotations:
            crop(annotation.segmentation, dataset.by_id[annotation.image_id].size)


# ---- writing


def masks(splits: dict[str, Dataset]) -> dict[str, list[tuple[object, ...]]]:
    """Of each split the annotations: image, class, crowd, form, pixels."""
    return {
        split: [_row(dataset, annotation) for annotation in dataset.annotations] for split, dataset in splits.items()
    }


def _row(dataset: Dataset, annotation: Annotation) -> tuple[object, ...]:
    owner, shape = dataset.by_id[annotation.image_id], annotation.segmentation
    name = dataset.names[dataset.labels[annotation.category_id]]
    return owner.file_name, name, annotation.crowd, drawn(shape, owner.size), to_rle(shape, owner.size)


def single(folder: Path, *annotations: Annotation, classes: tuple[str, ...] = ("cat",), name: str = "a.png") -> Dataset:
    save_image(folder / name)
    categories = tuple(Category(number, text) for number, text in enumerate(classes, 1))
    return Dataset("all", folder, (ImageRecord(1, name, WIDTH, HEIGHT),), annotations, categories)


def drawn(shape: Segmentation, size: tuple[int, int]) -> str:
    """How CVAT holds a shape: as polygons, but for masks with holes."""
    return "mask" if isinstance(to_polygons(shape, size), str) else "polygon"


def test_everything_legal_comes_back_equal(tmp_path: Path) -> None:
    splits = load_any(sets.make(tmp_path / "set"))
    (tmp_path / "new").mkdir()
    notes = cvat.write(splits, tmp_path / "new")
    reading = read(tmp_path / "new")
    assert reading.faults == [] and masks(reading.splits) == masks(splits)
    assert [d.images for d in map(_without_ids, reading.splits.values())] == [
        d.images for d in map(_without_ids, splits.values())
    ]
    crowds = sum(a.crowd for d in splits.values() for a in d.annotations)
    assert notes == [
        f"crowd regions written with the attribute iscrowd, which CVAT shows as ordinary objects: {crowds}",
        f"masks with holes written as <mask> shapes, which FiftyOne and CVAT projects skip: {crowds}",
    ]


def _without_ids(dataset: Dataset) -> Dataset:
    images = tuple(ImageRecord(0, i.file_name, i.width, i.height) for i in dataset.images)
    return Dataset(dataset.split, dataset.folder, images, (), dataset.categories)


def test_what_is_written_is_cvats_form(tmp_path: Path) -> None:
    splits = load_any(sets.make(tmp_path / "set"))
    (tmp_path / "new").mkdir()
    cvat.write(splits, tmp_path / "new")
    root = ElementTree.parse(tmp_path / "new" / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    labels = root.findall("meta/project/labels/label")
    assert [label.findtext("name") for label in labels] == splits["train"].names
    assert labels[0].findtext("color") == "#{:02x}{:02x}{:02x}".format(*PALETTE[0])
    assert labels[0].findtext("attributes/attribute/name") == "iscrowd"
    assert root.findtext("meta/project/subsets") == "train\nval"  # CVAT's project import goes by these
    tasks = [(task.findtext("id"), task.findtext("subset")) for task in root.findall("meta/project/tasks/task")]
    assert tasks == [("1", "train"), ("2", "val")]  # Datumaro's import by these, the labels of CVAT's fork too
    for task in root.findall("meta/project/tasks/task"):
        assert [label.findtext("name") for label in task.findall("labels/label")] == splits["train"].names
    assert [i.get("id") for i in root.iter("image")] == [str(n) for n in range(len(list(root.iter("image"))))]
    for element in root.iter("image"):
        assert (tmp_path / "new" / "images" / element.get("subset", "?") / element.get("name", "?")).is_file()
    groups = [p.get("group_id") for p in root.iter("polygon") if p.get("group_id")]
    assert groups and all(groups.count(group) == 2 for group in groups)
    with_holes = sum(drawn(a.segmentation, sets.SIZE) == "mask" for d in splits.values() for a in d.annotations)
    assert len(list(root.iter("mask"))) == with_holes == 5
    for shape in root.iter("mask"):
        runs = [int(run) for run in shape.get("rle", "").split(",")]
        assert sum(runs) == int(shape.get("width", "")) * int(shape.get("height", "")) and 0 not in runs[1:]


def test_a_set_not_divided_is_a_task_without_subsets(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    dataset = single(tmp_path / "old", name="train/a.png")
    assert cvat.write({"all": dataset}, tmp_path / "new") == []
    root = ElementTree.parse(tmp_path / "new" / "annotations.xml").getroot()
    assert root.find("meta/task/labels") is not None and root.find("image").get("subset") is None
    assert root.find("meta/project") is None and list(root.iter("subset")) == list(root.iter("subsets")) == []
    reading = read(tmp_path / "new")
    assert list(reading.splits) == ["all"] and reading.splits["all"].images == dataset.images


def test_names_are_escaped_and_those_xml_cannot_hold_are_renamed(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    classes = ("<b>&amp;\"'", " two\n words ", "two words", "bell\x07", "猫", "1e5")
    dataset = single(tmp_path / "old", classes=classes, name="a<&>\"'\x01 b.png")
    (note,) = cvat.write({"all": dataset}, tmp_path / "new")
    assert note.startswith("classes renamed to fit XML: ' two\\n words ' as 'two words 2', 'bell")
    reading = read(tmp_path / "new")
    assert reading.splits["all"].names == ["<b>&amp;\"'", "two words 2", "two words", "bell\ufffd", "猫", "1e5"]
    assert reading.splits["all"].images[0].file_name == "a<&>\"'%01 b.png" and reading.faults == []


def test_losses_are_counted(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    empty = place_rle(np.zeros((0, 0), np.uint8), Window(0, 0, 0, 0), (HEIGHT, WIDTH))
    ring = np.asarray([[1.0, 1.0], [9.0, 1.0], [5.0, 8.0]])
    dataset = single(
        tmp_path / "old", Annotation(1, 1, 1, empty), Annotation(2, 1, 1, (ring,), extra={"attributes": {"a": "b"}})
    )
    notes = cvat.write({"all": dataset}, tmp_path / "new")
    assert notes == ["annotations that lose their attributes: 1", "annotations without pixels left out: 1"]


def test_polygons_keep_all_digits(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    ring = np.asarray([[1 / 3, 2.0], [55.123456789012345, 1e-7], [30.5, 39.0]])
    cvat.write({"all": single(tmp_path / "old", Annotation(1, 1, 1, (ring,)))}, tmp_path / "new")
    (annotation,) = read(tmp_path / "new").splits["all"].annotations
    assert (annotation.segmentation[0] == ring).all()


def test_a_missing_image_is_an_error(tmp_path: Path) -> None:
    dataset = single(tmp_path / "old")
    (tmp_path / "old" / "a.png").unlink()
    with pytest.raises(DatasetError, match="a.png is missing"):
        cvat.write({"all": dataset}, tmp_path / "new")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mask=arrays.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))),
    top=st.integers(0, HEIGHT - 9),
    left=st.integers(0, WIDTH - 9),
)
def test_any_mask_comes_back(tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray, top: int, left: int) -> None:
    folder = tmp_path_factory.mktemp("cvat")
    rle = place_rle(mask, Window(top, top + mask.shape[0], left, left + mask.shape[1]), (HEIGHT, WIDTH))
    (folder / "new").mkdir()
    notes = cvat.write({"all": single(folder / "old", Annotation(1, 1, 1, rle))}, folder / "new")
    back = [to_rle(a.segmentation, (HEIGHT, WIDTH)) for a in read(folder / "new").splits["all"].annotations]
    assert back == ([rle] if mask.any() else [])
    tags = {element.tag for element in ElementTree.parse(folder / "new" / "annotations.xml").iter()}
    holes = has_holes(mask)
    assert ("mask" in tags, "polygon" in tags) == (holes, mask.any() and not holes)
    assert len(notes) == (holes or not mask.any())


def test_run_lengths_of_several_parts_are_polygons_of_one_group(tmp_path: Path) -> None:
    """CVAT's import into projects and FiftyOne read no shapes of type mask."""
    mask = rectangle(2, 9, 2, 9) | rectangle(20, 30, 30, 40)
    (tmp_path / "new").mkdir()
    notes = cvat.write({"all": single(tmp_path / "old", Annotation(1, 1, 1, rle_encode(mask)))}, tmp_path / "new")
    shapes = ElementTree.parse(tmp_path / "new" / "annotations.xml").getroot().find("image")
    assert [(shape.tag, shape.get("group_id")) for shape in shapes] == [("polygon", "1"), ("polygon", "1")]
    (back,) = read(tmp_path / "new").splits["all"].annotations
    assert notes == [] and to_rle(back.segmentation, (HEIGHT, WIDTH)) == rle_encode(mask)


@pytest.mark.skipif(not SHARED.exists(), reason="needs the real data sets")
@pytest.mark.parametrize("name", ["nuclei", "coco_sample"])
def test_all_masks_of_the_real_sets_come_back_equal(tmp_path: Path, name: str) -> None:
    splits = load_any(SHARED / name)
    cvat.write(splits, tmp_path)
    reading = read(tmp_path)
    assert reading.faults == []
    back = reading.splits
    assert [d.names for d in back.values()] == [d.names for d in splits.values()]
    for split, dataset in splits.items():
        rows = sorted(masks({split: dataset})[split], key=lambda row: row[0])
        assert sorted(masks({split: back[split]})[split], key=lambda row: row[0]) == rows
