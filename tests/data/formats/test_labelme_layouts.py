"""Where LabelMe's files lie and which image each is of."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from fixtures.labelme import HEIGHT, SQUARE, WIDTH, detect, image, one, read, shape, sheet
from PIL import Image

from maskline.data.dataset import Category

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


def test_json_next_to_images(tmp_path: Path) -> None:
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


def test_the_namesake_next_to_a_json_file_comes_before_what_is_found_elsewhere(tmp_path: Path) -> None:
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


def test_a_missing_image_is_reported_and_its_size_is_that_stated(tmp_path: Path) -> None:
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
