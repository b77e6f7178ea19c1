"""CVAT for images 1.1: what CVAT writes is read, what we write comes back, and junk gives one line."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from fixtures.cvat import (
    HEIGHT,
    SQUARE,
    WIDTH,
    codes,
    detect,
    document,
    image,
    make,
    one_mask,
    read,
    read_shapes,
    rectangle,
)

from maskline.data.shapes import crop, to_rle
from maskline.errors import DatasetError, DatasetNotFoundError
from maskline.masks import rle_decode

SHARED = Path(__file__).parents[4] / "shared" / "data"


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
def test_shapes_that_are_not_regions_are_reported(tmp_path: Path, shape: str) -> None:
    inner = '<points label="joint" points="1,1"/>' if shape == "skeleton" else ""
    reading = read_shapes(tmp_path, f'<{shape} label="cat" points="1,2;3,4;9,1">{inner}</{shape}>{SQUARE}')
    assert codes(reading) == ["no-mask"]
    assert f"a {shape} is not a region" in reading.faults[0].what and reading.faults[0].image_id == 1
    assert len(reading.splits["all"].annotations) == 1


def test_tags_of_whole_images_are_not_faults(tmp_path: Path) -> None:
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
def test_broken_shapes_are_reported_and_the_rest_is_read(tmp_path: Path, code: str, shape: str) -> None:
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
