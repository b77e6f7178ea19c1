"""Pascal VOC: maps of any kind a tool writes are read as instances, what can't be is reported, and masks come back."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.voc import EXPECTED, KINDS, OBJECTS, PALETTE, SIZE, detect, make, masks, read, save
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from maskline.data.formats.voc import format as voc
from maskline.data.formats.voc.maps import LabelMap, colour_numbers, read_map, save_map, separate_instances
from maskline.errors import DatasetError, DatasetNotFoundError, InputError
from maskline.masks import rle_encode

SHARED = Path(__file__).parents[4] / "shared" / "data"


# ---- reading


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("base", [".", "VOC2012", "VOCdevkit/VOC2007"])
def test_maps_of_every_kind(tmp_path: Path, mode: str, base: str) -> None:
    make(tmp_path / base, {"train": "1\n"}, mode=mode)
    assert detect(tmp_path)
    reading = read(tmp_path)
    assert not reading.faults
    found = reading.splits["train"]
    assert masks(found) == EXPECTED
    assert [(c.id, c.name) for c in found.categories] == [(1, "a"), (2, "b")]
    assert [(a.id, a.image_id) for a in found.annotations] == [(1, 1), (2, 1)]
    (image,) = found.images
    assert image.file_name == "1.jpg" and image.size == SIZE and found.path(image).is_file()


def test_16_bits_have_another_void(tmp_path: Path) -> None:
    objects = OBJECTS.astype(np.uint16)
    objects[0, 0], objects[1, 0] = 300, 65535
    root = make(tmp_path)
    Image.fromarray(objects).save(root / "SegmentationObject" / "1.png")
    KINDS_NO_VOID = np.where(KINDS == 255, 1, KINDS).astype(np.uint8)
    save(root / "SegmentationClass" / "1.png", KINDS_NO_VOID)
    found = read(root).splits["all"]
    numbers = [np.argwhere(objects == n).tolist() for n in (1, 3, 255, 300)]
    assert [np.argwhere(mask).tolist() for _, mask in masks(found)] == numbers


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ({}, {"all": ["1.jpg"]}),
        ({"trainval": "1\n"}, {"all": ["1.jpg"]}),
        ({"default": '"1"\r\n\r\n'}, {"all": ["1.jpg"]}),
        ({"val": "1  -1\n", "trainval": "1\n2\n"}, {"val": ["1.jpg"]}),
        ({"valid": "1.jpg\n1\n", "test": "", "train": ""}, {"train": [], "val": ["1.jpg"], "test": []}),
    ],
)
def test_lists(tmp_path: Path, lists: dict[str, str], expected: dict[str, list[str]]) -> None:
    reading = read(make(tmp_path, lists))
    assert {split: [i.file_name for i in d.images] for split, d in reading.splits.items()} == expected
    assert list(reading.splits) == list(expected) and not reading.faults


@pytest.mark.parametrize(
    ("file", "lines", "names"),
    [
        ("labels.txt", "background\na\nb\n", ["a", "b"]),
        ("labels.txt", "\ufeffa\r\nb\r\n\r\n", ["a", "b"]),
        ("class_names.txt", "__ignore__\n_background_\na\nb", ["a", "b"]),
        (
            "labelmap.txt",
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\na:128,0,0:hand,foot:\nb:::\n",
            ["a", "b"],
        ),
        ("labelmap.txt", "background:0,0,0::\na b: 128, 0, 0::\nb:0,128,0::\nignored:224,224,192::\n", ["a b", "b"]),
        ("labelmap.txt", "#label:color\n# a:128,0,0::\nb:0,128,0::\n", ["# a", "b"]),
        ("class_names.txt", "__ignore__\n_background_\n# a\n__ignore__\n", ["# a", "__ignore__"]),
        (None, "", list(voc.CLASSES[1:])),
    ],
)
def test_class_names(tmp_path: Path, file: str | None, lines: str, names: list[str]) -> None:
    root = make(tmp_path, names=None)
    if file:
        (root / file).write_text(lines, encoding="utf-8")
    reading = read(root)
    assert reading.splits["all"].names == names and not reading.faults
    assert masks(reading.splits["all"]) == EXPECTED


def test_colours_of_a_labelmap(tmp_path: Path) -> None:
    """As CVAT exports: RGB files, colours of its own for classes, also for the background."""
    root = make(tmp_path, names=None, mode="RGB")
    (root / "labelmap.txt").write_text("a:1,2,3::\nBackground:9,9,9::\nb:0,0,0::\n")
    colours = np.asarray([(9, 9, 9), (1, 2, 3), (0, 0, 0)], np.uint8)[np.where(KINDS == 255, 0, KINDS)]
    Image.fromarray(colours).save(root / "SegmentationClass" / "1.png")
    reading = read(root)
    assert not reading.faults
    assert [(c.id, c.name) for c in reading.splits["all"].categories] == [(0, "a"), (2, "b")]
    assert [label for label, _ in masks(reading.splits["all"])] == [0, 2]


def test_png_files_of_labelmes_converter(tmp_path: Path) -> None:
    root = make(tmp_path)
    for kind in ("Class", "Object"):
        (root / f"Segmentation{kind}").rename(root / f"Segmentation{kind}PNG")
        (root / f"Segmentation{kind}").mkdir()
    assert detect(root) and masks(read(root).splits["all"]) == EXPECTED


def test_an_image_with_neither_file_is_background(tmp_path: Path) -> None:
    root = make(tmp_path, {"train": "1\n2\n"})
    save(root / "JPEGImages" / "2.PNG", np.zeros(SIZE, np.uint8))
    reading = read(root)
    assert len(reading.splits["train"].images) == 2 and not reading.faults
    assert not reading.splits["train"].of(reading.splits["train"].images[1])


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def _bomb(path: Path) -> None:
    chunks = (
        b"IHDR" + struct.pack(">IIBBBBB", 1 << 17, 1 << 17, 8, 0, 0, 0, 0),
        b"IDAT" + zlib.compress(b"0"),
        b"IEND",
    )
    packed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


@pytest.mark.parametrize(
    ("change", "code", "file", "what"),
    [
        (lambda r: _cut(r / "SegmentationObject/1.png"), "record", "SegmentationObject/1.png", "no readable PNG file"),
        (lambda r: _cut(r / "SegmentationClass/1.png"), "record", "SegmentationClass/1.png", "no readable PNG file"),
        (lambda r: _bomb(r / "SegmentationClass/1.png"), "record", "SegmentationClass/1.png", "decompression bomb"),
        (lambda r: (r / "SegmentationClass/1.png").unlink(), "record", "SegmentationClass/1.png", "missing, though"),
        (
            lambda r: save(r / "SegmentationObject/1.png", np.ones((5, 9), np.uint8)),
            *("record", "SegmentationObject/1.png", "9 x 5 pixels, but the image has 4 x 3"),
        ),
        (
            lambda r: save(r / "SegmentationObject/1.png", OBJECTS.T.copy()),
            *("record", "SegmentationObject/1.png", "(made without its EXIF orientation?)"),
        ),
        (
            lambda r: Image.new("RGB", SIZE[::-1]).save(r / "SegmentationObject/1.png", format="JPEG"),
            *("record", "SegmentationObject/1.png", "no readable PNG file"),
        ),
        (lambda r: _cut(r / "JPEGImages/1.jpg"), "image-unreadable", "JPEGImages/1.jpg", "not a readable image"),
        (lambda r: (r / "JPEGImages/1.jpg").unlink(), "image-missing", "ImageSets/Segmentation", "no image '1'"),
    ],
)
def test_files_that_can_not_be_used_are_reported(tmp_path, change, code, file, what) -> None:  # type: ignore[no-untyped-def]
    root = make(tmp_path, {"train": "1\n2\n"})
    save(root / "JPEGImages" / "2.png", np.zeros(SIZE, np.uint8))
    change(root)
    reading = read(root)
    (fault,) = reading.faults
    assert (fault.code, fault.split, fault.file) == (code, "train", file) and what in fault.what
    assert [image.file_name for image in reading.splits["train"].images] == ["2.png"]


def test_masks_that_no_list_names_and_no_reader_reads_are_reported(tmp_path: Path) -> None:
    root = make(tmp_path)
    save(root / "SegmentationClass" / "2.png", KINDS)
    Image.fromarray(OBJECTS).save(root / "SegmentationObject" / "3.tif")
    make(root / "backup")
    reported = {fault.code: (fault.file, fault.lost) for fault in read(root).faults}
    assert reported == {
        "image-missing": ("ImageSets/Segmentation", 0),  # of 2.png, whose instances are missing too
        "file": ("SegmentationObject/3.tif", 0),
        "file-unread": ("backup/SegmentationObject/1.png", 2),
    }


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (0, "instance 3 is background or void in SegmentationClass"),
        (255, "is background or void"),
        (7, "has the value 7"),
    ],
)
def test_an_instance_without_a_class_is_reported(tmp_path: Path, value: int, what: str) -> None:
    root = make(tmp_path)
    save(root / "SegmentationClass" / "1.png", np.where(OBJECTS == 3, value, KINDS).astype(np.uint8))
    reading = read(root)
    (fault,) = reading.faults
    assert fault.code == "unknown-category" and what in fault.what and fault.image_id == 1
    assert masks(reading.splits["all"]) == EXPECTED[:1]


def test_paths_that_lead_out(tmp_path: Path) -> None:
    root = make(tmp_path / "set", {"train": "1\n../../etc/passwd\n"})
    assert [fault.code for fault in read(root).faults] == ["image-path"]


def test_what_can_not_be_read_at_all(tmp_path: Path) -> None:
    for root in (tmp_path / "none", tmp_path):
        assert not detect(root)
        with pytest.raises(DatasetNotFoundError):
            read(root)
    make(tmp_path / "VOC2007")
    make(tmp_path / "VOC2012")
    with pytest.raises(DatasetError, match=r"several data sets .*VOC2007, .*VOC2012"):
        read(tmp_path)
    for path in (tmp_path / "VOC2007" / "JPEGImages").iterdir():
        path.unlink()
    (tmp_path / "VOC2007" / "JPEGImages").rmdir()
    with pytest.raises(DatasetNotFoundError, match="no JPEGImages"):
        read(tmp_path / "VOC2007")


def test_a_photo_is_not_a_map(tmp_path: Path) -> None:
    values = np.arange(70_000, dtype=np.int32).reshape(7, -1)
    with pytest.raises(InputError, match="is it a photo"):
        list(separate_instances(LabelMap(values, 255, True), LabelMap(values, 255, True), {0}))


@settings(max_examples=60, deadline=None)
@given(
    place=st.integers(0, 200),
    junk=st.binary(max_size=20),
    names=st.binary(max_size=30),
    kind=st.sampled_from(["Object", "Class"]),
)
def test_junk_never_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, place: int, junk: bytes, names: bytes, kind: str
) -> None:
    root = make(tmp_path_factory.mktemp("junk"), {"train": "1\n"})
    path = root / f"Segmentation{kind}" / "1.png"
    data = path.read_bytes()
    path.write_bytes(data[:place] + junk + data[place + len(junk) :])
    for name in ("labelmap.txt", "ImageSets/Segmentation/val.txt"):
        (root / name).write_bytes(names)
    assert detect(root)
    assert all(str(fault) and "\n" not in fault.what for fault in read(root).faults)


# ---- maps


def test_colours_and_numbers_are_one_to_one() -> None:
    assert PALETTE[[0, 1, 2, 15, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
        [224, 224, 192],
    ]
    np.testing.assert_array_equal(colour_numbers(PALETTE), np.arange(256))
    colours = np.random.default_rng(0).integers(0, 256, (20_000, 3))
    assert len(np.unique(colour_numbers(colours))) == len(np.unique(colours, axis=0))


@given(
    values=hnp.arrays(
        np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0, 1, 2, 9, 255])
    ),
    seed=st.integers(0, 9),
)
def test_instances_are_what_a_naive_way_finds(values: np.ndarray, seed: int) -> None:
    kinds = np.random.default_rng(seed).integers(0, 4, values.shape).astype(np.int32)
    expected = []
    for number in sorted({*values.ravel().tolist()} - {0, 255}):
        counts = np.bincount(kinds[values == number], minlength=4)[1:]
        expected.append((number, rle_encode(values == number), int(counts.argmax()) + 1 if counts.any() else None))
    assert (
        list(separate_instances(LabelMap(values.astype(np.int32), 255, False), LabelMap(kinds, 255, False), {0, 255}))
        == expected
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_maps_come_back(tmp_path: Path, dtype: type[np.unsignedinteger[Any]]) -> None:
    values: np.ndarray = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (30, 20)).astype(dtype)
    save_map(values, tmp_path / "a.png")
    found = read_map(tmp_path / "a.png")
    np.testing.assert_array_equal(found.values, values)
    assert found.void == np.iinfo(dtype).max
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == ("P" if dtype is np.uint8 else "I;16")
