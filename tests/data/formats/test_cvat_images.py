"""Which images CVAT's XML is of, and in which splits."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.cvat import HEIGHT, SQUARE, WIDTH, codes, detect, image, make, read

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


def test_missing_images_are_reported_and_left_out(tmp_path: Path) -> None:
    reading = read(make(tmp_path, image(SQUARE) + image(SQUARE, "gone.png")))
    assert codes(reading) == ["image-missing"] and "'gone.png'" in reading.faults[0].what
    assert len(reading.splits["all"].images) == len(reading.splits["all"].annotations) == 1


def test_a_file_without_images_gives_a_split_and_faults(tmp_path: Path) -> None:
    reading = read(make(tmp_path, image(SQUARE), ()))
    assert codes(reading) == ["image-missing"] and len(reading.splits["all"].images) == 0


@pytest.mark.parametrize("name", ["../gone.png", "/etc/gone.png", "C:\\gone.png", "", "a/../../b.png"])
def test_names_that_lead_out_are_reported(tmp_path: Path, name: str) -> None:
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
