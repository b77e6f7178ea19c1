"""Kaggle's run lengths, written by hand as the pages of the competitions define them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from fixtures.readings import CASES, SHARED, assert_same_in_coco, codes, masks, one_mask, read, save_image

from maskline.errors import DatasetError

WIDTH, HEIGHT = 60, 40


def down(mask: np.ndarray) -> str:
    """As the 2018 Data Science Bowl has it: numbered from 1, top to bottom, then left to right."""
    return along(mask.T)


def along(mask: np.ndarray) -> str:
    """As Sartorius has it: left to right, then top to bottom."""
    numbers = [place + 1 for place, value in enumerate(mask.ravel().tolist()) if value]
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == sum(runs[-1]):
            runs[-1][1] += 1
        else:
            runs.append([number, 1])
    return " ".join(f"{start} {length}" for start, length in runs)


def blob(seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    mask = ((x - 15 - seed) / 9) ** 2 + ((y - 14) / 6) ** 2 < 1
    mask[12:15, 14:17] = False
    return mask.astype(np.uint8)


def make(root: Path, rows: list[str], file: str = "train.csv", images: tuple[str, ...] = ("train/a.png",)) -> Path:
    for name in images:
        save_image(root / name, WIDTH, HEIGHT)
    (root / file).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return root


def test_pixels_are_numbered_down_the_columns_from_1(tmp_path: Path) -> None:
    mask = one_mask(read(make(tmp_path, ["ImageId,EncodedPixels", f"a,1 3 {HEIGHT} 2 {WIDTH * HEIGHT} 1"])), "train")
    assert np.argwhere(mask).tolist() == [[0, 0], [0, 1], [1, 0], [2, 0], [HEIGHT - 1, 0], [HEIGHT - 1, WIDTH - 1]]


def test_an_object_a_row_with_its_hole(tmp_path: Path) -> None:
    rows = [f"a,{down(blob())}", f"b,{down(blob(5))}", f"a,{down(blob(20))}"]
    reading = read(make(tmp_path, ["ImageId,EncodedPixels", *rows], images=("train/a.png", "train/b.png")))
    assert reading.format == "kaggle"
    found = masks(reading, "train")
    assert [(mask == blob(seed)).all() for (_, mask), seed in zip(found["a.png"], (0, 20), strict=True)] == [True, True]
    assert (found["b.png"][0][1] == blob(5)).all()
    assert reading.splits["train"].names == ["object"]


def test_the_layout_of_the_data_science_bowl(tmp_path: Path) -> None:
    images = "stage1_train/a/images/a.png", "stage1_train/a/masks/x.png", "stage1_train/b/images/b.png"
    rows = ["ImageId,EncodedPixels", f"a,{down(blob())}", f"b,{down(blob())}"]
    dataset = read(make(tmp_path, rows, "stage1_train_labels.csv", images)).splits["train"]
    assert [dataset.path(image).relative_to(tmp_path).as_posix() for image in dataset.images] == [images[0], images[2]]


def test_sartorius_goes_along_the_rows(tmp_path: Path) -> None:
    header = "id,annotation,width,height,cell_type,plate_time,sample_date,sample_id,elapsed_timedelta"
    rows = [f"a,{along(blob(seed))},{WIDTH},{HEIGHT},{kind},x,x,x,x" for seed, kind in ((0, "astro"), (20, "shsy5y"))]
    reading = read(make(tmp_path, [header, *rows]))
    assert [name for name, _ in masks(reading, "train")["a.png"]] == ["astro", "shsy5y"]
    assert [
        (mask == blob(s)).all() for (_, mask), s in zip(masks(reading, "train")["a.png"], (0, 20), strict=True)
    ] == [
        *(True, True),
    ]


@pytest.mark.parametrize("order", [down, along])
@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("ImageId,EncodedPixels", "a,{}"),
        ("id,annotation,width,height,cell_type", f"a,{{}},{WIDTH},{HEIGHT},x"),
        ("id,class,segmentation", "a,large_bowel,{}"),
    ],
)
def test_the_runs_show_the_order(tmp_path: Path, header: str, row: str, order: object) -> None:
    assert callable(order)
    assert (one_mask(read(make(tmp_path, [header, row.format(order(blob()))])), "train") == blob()).all()


@pytest.mark.parametrize(("header", "order"), [("id,annotation,width,height", along), ("id,rle", down)])
def test_for_a_square_image_the_column_shows_the_order(tmp_path: Path, header: str, order: object) -> None:
    assert callable(order)
    save_image(tmp_path / "train" / "s.png", 40, 40)
    mask = blob(size=(40, 40))
    row = f"s,{order(mask)}" + (",40,40" if "width" in header else "")
    assert (one_mask(read(make(tmp_path, [header, row], images=())), "train") == mask).all()


@pytest.mark.parametrize(
    ("header", "row", "name"),
    [
        ("ImageId,ClassId,EncodedPixels", "a.png,3,{}", "class_3"),
        ("ImageId_ClassId,EncodedPixels", "a.png_3,{}", "class_3"),
        ("Image_Label,EncodedPixels", "a.png_Fish,{}", "Fish"),
        ("ImageId,EncodedPixels,Height,Width,CategoryId,Label", "a,{},40,60,x,shirt", "shirt"),
        ("id,rle", "a,{}", "object"),
        ("\ufeffimage_id,rle", "a,{}", "object"),
    ],
)
def test_classes(tmp_path: Path, header: str, row: str, name: str) -> None:
    reading = read(make(tmp_path, [header, row.format(down(blob()))]))
    assert [found for found, _ in masks(reading, "train")["a.png"]] == [name]


@pytest.mark.parametrize("empty", ["", "-1", "nan"])
def test_a_row_without_runs_is_a_background_image(tmp_path: Path, empty: str) -> None:
    rows = ["ImageId,EncodedPixels", f"a,{down(blob())}", f"b,{empty}"]
    reading = read(make(tmp_path, rows, images=("train/a.png", "train/b.png")))
    assert {name: len(found) for name, found in masks(reading, "train").items()} == {"a.png": 1, "b.png": 0}
    assert reading.listed["train"] == (2, 1)


@pytest.mark.parametrize(
    "runs", ["1", "1 x", "0 5", "5 -1", f"{WIDTH * HEIGHT} 2", "1.5 2", "9" * 30 + " 1", f"{2**62} {2**62}"]
)
def test_runs_that_are_broken(tmp_path: Path, runs: str) -> None:
    reading = read(make(tmp_path, ["ImageId,EncodedPixels", f"a,{runs}", f"a,{down(blob())}"]))
    assert [(fault.code, fault.lost) for fault in reading.faults] == [("rle-broken", 1)]
    assert "row 2" in reading.faults[0].what
    assert len(reading.splits["train"].annotations) == 1


def test_runs_out_of_order_that_overlap_or_are_empty(tmp_path: Path) -> None:
    mask = one_mask(read(make(tmp_path, ["ImageId,EncodedPixels", "a,21 5 1 4 3 6 60 0"])), "train")
    assert np.flatnonzero(mask.T).tolist() == [*range(8), *range(20, 25)]
    reading = read(make(tmp_path, ["ImageId,EncodedPixels", "a,21 0"]))
    assert [(fault.code, fault.lost) for fault in reading.faults] == [("mask-empty", 1)]


def test_images_that_are_missing_count_what_is_lost(tmp_path: Path) -> None:
    rows = ["ImageId,EncodedPixels", f"a,{down(blob())}", "gone,1 2", "gone,5 2"]
    reading = read(make(tmp_path, rows))
    assert [(fault.code, fault.lost) for fault in reading.faults] == [("image-missing", 2)]
    assert reading.listed["train"] == (2, 3)


def test_submissions_are_not_annotations(tmp_path: Path) -> None:
    make(tmp_path, ["ImageId,EncodedPixels", "a,1 1"], "sample_submission.csv")
    with pytest.raises(DatasetError):
        read(tmp_path)
    reading = read(make(tmp_path, ["ImageId,EncodedPixels", f"a,{down(blob())}"]))
    assert codes(reading) == ["set-aside"]
    assert len(reading.splits["train"].annotations) == 1


def test_long_runs_and_other_columns(tmp_path: Path) -> None:
    comb = np.zeros((HEIGHT, WIDTH), np.uint8)
    comb[::2] = 1
    rows = ["Usage,ImageId,EncodedPixels", f'"a, b",a,"{down(comb)} {"1 1 " * 60000}"']
    assert (one_mask(read(make(tmp_path, rows)), "train") == comb).all()


def test_mutated_rows_are_read_or_reported(tmp_path: Path) -> None:
    chance = random.Random(0)
    for _ in range(300):
        runs = list(down(blob()))
        for _ in range(chance.randrange(1, 4)):
            runs[chance.randrange(len(runs))] = chance.choice(" 0123456789-.x")
        reading = read(make(tmp_path, ["ImageId,EncodedPixels", f"a,{''.join(runs)}", f"a,{down(blob())}"]))
        assert reading.listed["train"].annotations == 2


def test_to_coco(tmp_path: Path) -> None:
    rows = ["ImageId,ClassId,EncodedPixels", f"a.png,3,{down(blob())}", f"a.png,1,{down(blob(20))}"]
    assert_same_in_coco(make(tmp_path / "set", rows), tmp_path / "coco")


@pytest.mark.skipif(not CASES.exists(), reason="needs ../shared")
def test_nuclei_written_as_run_lengths(tmp_path: Path) -> None:
    dataset = read(SHARED / "data" / "nuclei").splits["val"]
    images = [image for image in dataset.images if dataset.of(image)][:3]
    original = masks(read(SHARED / "data" / "nuclei"), "val")
    rows = [f"{Path(i.file_name).stem},{down(mask)}" for i in images for _, mask in original[i.file_name]]
    make(tmp_path, ["ImageId,EncodedPixels", *rows], "labels.csv", ())
    for image in images:
        (tmp_path / Path(image.file_name).name).write_bytes(dataset.path(image).read_bytes())
    found = masks(read(tmp_path))
    for image in images:
        theirs = original[image.file_name]
        for (_, mask), (_, other) in zip(found[Path(image.file_name).name], theirs, strict=True):
            assert (mask == other).all()


@pytest.mark.skipif(not CASES.exists(), reason="needs ../shared")
def test_the_case() -> None:
    reading = read(CASES / "kaggle_rle")
    assert reading.faults == []
    assert reading.listed["train"] == (4, 4)
    for ((_, mask),) in masks(reading, "train").values():
        assert np.flatnonzero(mask.T).tolist() == [0, 1, 2, *range(9, 14)]
