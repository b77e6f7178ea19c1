"""CVAT's XML: what its exports hold is read, what is damaged is told, masks come back pixel for pixel."""

from __future__ import annotations

import random
from pathlib import Path

import cv2
import numpy as np
import pytest
import sets
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from maskline.data import layout
from maskline.data.dataset import Annotation, Category, Dataset, ImageRecord
from maskline.data.faults import Reading
from maskline.data.formats import cvat
from maskline.data.shapes import from_mask
from maskline.errors import DatasetError, DatasetNotFoundError

HEAD = (
    '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task><labels>'
    "<label><name>dog</name></label><label><name>cat</name></label></labels></task></meta>\n"
)
#: As CVAT itself wrote it: https://github.com/cvat-ai/cvat/issues/4723
BRUSH = (
    "17, 10, 27, 15, 23, 18, 20, 21, 18, 23, 16, 24, 15, 26, 13, 27, 13, 27, 12, 29, 10, 30, 9, 32, 7, 34, 5, 36, 3, "
    "38, 2, 38, 2, 39, 1, 39, 1, 120, 1, 39, 1, 39, 1, 39, 2, 38, 2, 38, 3, 37, 3, 37, 3, 37, 4, 36, 4, 35, 6, 34, 7, "
    "33, 7, 32, 9, 30, 10, 29, 13, 26, 15, 23, 18, 20, 22, 15, 12"
)


def read(tmp_path: Path, shapes: str, image: str = 'name="a.png" width="64" height="48"') -> Reading:
    (tmp_path / "annotations.xml").write_text(f'{HEAD}<image id="0" {image}>{shapes}</image></annotations>')
    return cvat.read(tmp_path)


def only(reading: Reading) -> tuple[Dataset, np.ndarray]:
    """The data set, and the mask of its only object."""
    assert not reading.faults
    (dataset,) = reading.splits.values()
    instances = dataset.instances(dataset.images[0])
    assert len(instances) == 1
    return dataset, instances.full_mask(0)


def window(mask: np.ndarray) -> tuple[int, ...]:
    """top, bottom, left, right"""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def test_a_polygon_with_attributes(tmp_path: Path) -> None:
    shape = (
        '<polygon label="cat" source="manual" occluded="0" points="4.00,4.00;20.00,4.00;20.00,18.00;4.00,18.00" '
        'z_order="0"><attribute name="colour">grey</attribute></polygon><tag label="good" source="manual"></tag>'
    )
    dataset, mask = only(read(tmp_path, shape))
    assert dataset.split == "all" and dataset.names == ["dog", "cat"] and mask.sum() == 16 * 14
    (annotation,) = dataset.annotations
    assert dataset.labels[annotation.category_id] == 1 and annotation.extra == {"attributes": {"colour": "grey"}}


def test_a_box_also_turned(tmp_path: Path) -> None:
    box = '<box label="cat" xtl="20" ytl="10" xbr="40" ybr="20" {}></box>'
    assert window(only(read(tmp_path, box.format("")))[1]) == (10, 20, 20, 40)
    turned = only(read(tmp_path, box.format('rotation="90.0"')))[1]
    assert window(turned) == (5, 25, 25, 35) and turned.sum() == 200
    slanted = only(read(tmp_path, box.format('rotation="20.0"')))[1]  # clockwise: the right end goes down
    ends = [np.flatnonzero(slanted[:, column]).mean() for column in (23, 37)]
    assert ends[0] < 14 < 16 < ends[1]


def test_an_ellipse(tmp_path: Path) -> None:
    shape = '<ellipse label="cat" cx="32" cy="24" rx="20" ry="10"></ellipse>'
    mask = only(read(tmp_path, shape))[1]
    y, x = np.mgrid[:48, :64] + 0.5
    exact = ((x - 32) / 20) ** 2 + ((y - 24) / 10) ** 2 <= 1
    assert (mask != exact).sum() <= 30 and window(mask) == (14, 34, 12, 52)


def test_a_mask_as_cvat_writes_it(tmp_path: Path) -> None:
    shape = f'<mask label="cat" rle="{BRUSH}" left="79" top="304" width="40" height="40" z_order="0"> </mask>'
    mask = only(read(tmp_path, shape, 'name="a.png" width="640" height="480"'))[1]
    assert window(mask) == (304, 344, 79, 119) and mask.sum() == sum(map(int, BRUSH.split(", ")[1::2]))
    assert np.flatnonzero(mask[304]).tolist() == list(range(79 + 17, 79 + 27))


def test_groups_are_one_object_if_of_one_class(tmp_path: Path) -> None:
    shape = '<polygon label="{}" points="{},4;{},4;{},18" group_id="{}"></polygon>'
    parts = [("cat", 4, 1), ("cat", 24, 1), ("dog", 44, 1), ("cat", 44, 0), ("cat", 54, 0)]
    reading = read(tmp_path, "".join(shape.format(name, x, x + 8, x + 8, group) for name, x, group in parts))
    (dataset,) = reading.splits.values()
    assert [len(annotation.segmentation) for annotation in dataset.annotations] == [2, 1, 1, 1]


def test_subsets_are_splits_and_pictures_are_found(tmp_path: Path) -> None:
    tmp_path = tmp_path / "parent" / "export"
    for folder in ("images/Train", "images/Validation", "images"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / folder / "a.png"), sets.picture(1))
    images = "".join(
        f'<image id="{n}" name="a.png" subset="{subset}" width="64" height="48"></image>'
        for n, subset in enumerate(("Validation", "Train", "default"))
    )
    (tmp_path / "annotations.xml").write_text(f"{HEAD}{images}</annotations>")
    splits = cvat.read(tmp_path).splits
    assert list(splits) == ["train", "val", "all"]
    assert [dataset.folder.name for dataset in splits.values()] == ["Train", "Validation", "images"]
    assert list(cvat.read(tmp_path / "annotations.xml").splits) == list(splits)
    assert list(cvat.read(tmp_path.parent).splits) == list(splits)  # the only file below
    assert cvat.detect(tmp_path) and cvat.detect(tmp_path / "annotations.xml") and not cvat.detect(tmp_path / "images")


BROKEN = [
    ("no-mask", '<polyline label="cat" points="1,1;9,9"></polyline>', "a polyline is no region"),
    ("no-mask", '<points label="cat" points="1,1"></points>', "a points is no region"),
    ("record", '<polygon points="1,1;9,1;9,9"></polygon>', "has no label"),
    ("polygon-broken", '<polygon label="cat" points="1,1;9,9"></polygon>', "encloses nothing"),
    ("polygon-broken", '<polygon label="cat" points="1,1;9;9,9"></polygon>', "encloses nothing"),
    ("polygon-broken", '<polygon label="cat" points="1,1;9,x;9,9"></polygon>', "wrong numbers"),
    ("polygon-broken", '<polygon label="cat" points="1,1;9,1e300;9,9"></polygon>', "wrong numbers"),
    ("polygon-broken", '<polygon label="cat"></polygon>', "encloses nothing"),
    ("polygon-broken", '<box label="cat" xtl="1" ytl="1" xbr="1" ybr="9"></box>', "encloses nothing"),
    ("polygon-broken", '<box label="cat" xtl="1" ytl="1" xbr="5" ybr="9" rotation="nan"></box>', "wrong numbers"),
    ("polygon-broken", '<ellipse label="cat" cx="1" cy="1" rx="inf" ry="2"></ellipse>', "wrong numbers"),
    ("rle-broken", '<mask label="cat" rle="1, 2" left="0" top="0" width="2" height="2"></mask>', "2 x 2 pixels"),
    ("rle-broken", '<mask label="cat" rle="1, x" left="0" top="0" width="2" height="1"></mask>', "2 x 1 pixels"),
    ("rle-broken", '<mask label="cat" rle="" left="0" top="0" width="9e9" height="9e9"></mask>', "pixels"),
]


@pytest.mark.parametrize(("code", "shape", "what"), BROKEN, ids=[f"{n}-{row[0]}" for n, row in enumerate(BROKEN)])
def test_what_is_broken_is_told_and_the_rest_is_kept(tmp_path: Path, code: str, shape: str, what: str) -> None:
    reading = read(tmp_path, f'{shape}<polygon label="cat" points="1,1;9,1;9,9"></polygon>')
    (fault,) = reading.faults
    assert fault.code == code and what in fault.what and fault.file == "a.png" and fault.image_id == 1
    assert len(reading.splits["all"].annotations) == 1


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ('name="../a.png" width="64" height="48"', "image-path"),
        ('width="64" height="48"', "record"),
        ('name="a.png" width="0" height="48"', "record"),
        ('name="a.png" width="99999" height="99999"', "record"),
        ('name="a.png"', "record"),
    ],
)
def test_images_that_can_not_be_used(tmp_path: Path, image: str, code: str) -> None:
    reading = read(tmp_path, "", image)
    assert [fault.code for fault in reading.faults] == [code] and not reading.splits["all"].images


def test_masks_are_cut_at_the_image(tmp_path: Path) -> None:
    shape = '<mask label="cat" rle="0, 100" left="-4" top="44" width="10" height="10"></mask>'
    assert window(only(read(tmp_path, shape))[1]) == (44, 48, 0, 6)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<annotations>",
        "<annotation/>",
        "<annotations></annotations>",
        f"{HEAD}<track id='0' label='cat'></track></annotations>",
        '<!DOCTYPE a [<!ENTITY b "cccccccccc"><!ENTITY d "&b;&b;&b;&b;">]><annotations>&d;</annotations>',
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotations>&b;</annotations>',
        '<?xml version="1.0" encoding="nonsense"?><annotations/>',
    ],
)
def test_what_is_no_export_is_one_clear_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "annotations.xml").write_text(text)
    with pytest.raises(DatasetError) as raised:
        cvat.read(tmp_path)
    assert "annotations.xml" in str(raised.value) and "\n" not in str(raised.value)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"annotations\.xml"):
        cvat.read(tmp_path)
    assert not cvat.detect(tmp_path / "none")


def test_fuzzed_files_never_give_a_traceback(tmp_path: Path) -> None:
    layout_splits = layout.load(sets.make(tmp_path / "set"))
    (tmp_path / "new").mkdir()
    cvat.write(layout_splits, tmp_path / "new")
    good = (tmp_path / "new" / "annotations.xml").read_bytes()
    chance = random.Random(3)
    for _ in range(300):
        data = bytearray(good)
        for _ in range(chance.randint(1, 6)):
            place = chance.randrange(len(data))
            data[place : place + chance.randint(0, 3)] = bytes(
                chance.choices(b'09-,;. "<>&xe\xff', k=chance.randint(0, 3))
            )
        (tmp_path / "new" / "annotations.xml").write_bytes(data)
        try:
            reading = cvat.read(tmp_path / "new")
        except DatasetError:
            continue
        for dataset in reading.splits.values():
            for image in dataset.images:
                dataset.instances(image)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1)))
def test_masks_come_back(tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray) -> None:
    if not mask.any():
        return
    folder = tmp_path_factory.mktemp("set")
    cv2.imwrite(str(folder / "a.png"), np.zeros((*mask.shape, 3), np.uint8))
    image = ImageRecord(1, "a.png", mask.shape[1], mask.shape[0])
    shape = from_mask(mask, (0, mask.shape[0], 0, mask.shape[1]), mask.shape)
    dataset = Dataset("all", folder, [image], [Annotation(1, 1, 1, shape)], [Category(1, "a")])
    (folder / "new").mkdir()
    assert cvat.write({"all": dataset}, folder / "new") == []
    np.testing.assert_array_equal(only(cvat.read(folder / "new"))[1], mask)


def test_names_that_xml_must_escape(tmp_path: Path) -> None:
    name = "a <b> & \"c\" 'd' \x01 ü"
    folder = tmp_path / "set"
    folder.mkdir()
    cv2.imwrite(str(folder / "a & b.png"), sets.picture(1))
    image = ImageRecord(1, "a & b.png", 64, 48)
    shape = (np.asarray([[1.0, 1], [9, 1], [9.123456789, 9]]),)
    annotations = [Annotation(1, 1, 1, shape), Annotation(2, 1, 1, shape, crowd=True)]
    dataset = Dataset("val", folder, [image], annotations, [Category(1, name)])
    (tmp_path / "new").mkdir()
    (note,) = cvat.write({"val": dataset}, tmp_path / "new")
    assert note.startswith("1 crowd regions")
    back = cvat.read(tmp_path / "new").splits["val"]
    assert back.names == [name.replace("\x01", "\ufffd")] and back.path(back.images[0]).is_file()
    assert [a.crowd for a in back.annotations] == [False, True]
    np.testing.assert_array_equal(back.annotations[0].segmentation[0], shape[0])  # to the last digit
