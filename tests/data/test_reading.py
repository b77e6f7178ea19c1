"""One recognition for every command, and no annotation lost without a fault that counts it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner
from fixtures import sets
from fixtures.closed import close
from fixtures.readings import distinct_masks

from maskline.cli import cli
from maskline.data.convert import convert
from maskline.data.formats import FORMATS
from maskline.data.reading import format_module, read_dataset
from maskline.errors import DatasetError, DatasetNotFoundError
from maskline.evaluate import load_split

WRITTEN = [name for name in FORMATS if hasattr(format_module(name), "write")]
LINE = "0 0.2 0.2 0.5 0.2 0.5 0.6 0.2 0.6\n"


def image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), sets.image(seed))


def coco(path: Path, *names: str, annotated: int | None = None) -> None:
    content = sets.content(list(names))
    path.parent.mkdir(parents=True, exist_ok=True)
    content["annotations"] = content["annotations"][:annotated]
    path.write_text(json.dumps(content))


# ---- recognition


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("side", ["classes.txt", "obj.names", "notes.json", "data.txt"])
def test_a_side_file_makes_no_format(tmp_path: Path, name: str, side: str) -> None:
    convert(sets.make(tmp_path / "set"), tmp_path / "new", name)
    before = read_dataset(tmp_path / "new")
    notes = {"categories": [{"id": 0, "name": "cat"}], "info": {"year": 2026}}
    (tmp_path / "new" / side).write_text(json.dumps(notes) if side.endswith("json") else "cat\ndog\n")
    after = read_dataset(tmp_path / "new")
    assert after.format == before.format == name
    assert distinct_masks(after) == distinct_masks(before) and len(distinct_masks(after)) == 25 - 5 * (name == "voc")
    assert after.faults == before.faults


def test_of_two_formats_the_one_with_more_instances_is_read_and_the_other_named(tmp_path: Path) -> None:
    """As X-AnyLabeling leaves them: LabelMe's JSON and YOLO's text files for the same images."""
    convert(sets.make(tmp_path / "set"), tmp_path / "yolo", "yolo")
    root = tmp_path / "yolo"
    coco(root / "few.json", "train0.png", annotated=2)
    reading = read_dataset(root)
    assert reading.format == "yolo"
    (fault,) = [fault for fault in reading.faults if fault.code.startswith("file")]
    assert (fault.code, fault.file, fault.lost) == ("file-repeated", "few.json", 0)
    assert fault.what == "2 instances in 1 image, in COCO format"
    reading = read_dataset(root, "coco")
    assert reading.format == "coco" and len(distinct_masks(reading)) == 2
    image(root / "extra" / "other.png", seed=77)
    coco(root / "few.json", "other.png", annotated=2)
    (fault,) = read_dataset(root).errors
    assert (fault.code, fault.lost) == ("file-unread", 2)


def test_what_paddlex_made_of_labelme_files_is_what_counts(tmp_path: Path) -> None:
    convert(sets.make(tmp_path / "set"), tmp_path / "new", "labelme")
    root = tmp_path / "new"
    coco(root / "annotations" / "instance_train.json", "train0.png", annotated=2)
    reading = read_dataset(root)
    assert reading.format == "coco" and len(distinct_masks(reading)) == 2
    (fault,) = (fault for fault in reading.faults if fault.code.startswith("file"))
    assert (fault.code, fault.lost) == ("file-unread", 25)  # of images that its file does not have
    for path in sorted(root.rglob("*.json")):
        if path.stem not in ("train0", "instance_train"):
            path.unlink()
    (fault,) = (fault for fault in read_dataset(root).faults if fault.code.startswith("file"))
    assert (fault.code, fault.what, fault.lost) == ("file-repeated", "1 file in LabelMe format", 0)


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize(
    ("side", "code"),
    [("annotations/more.json", "file"), ("extra/train0.json", "file"), ("results.csv", "file-unlisted")],
)
def test_a_damaged_file_is_an_error_where_annotations_are_expected(
    tmp_path: Path, name: str, side: str, code: str
) -> None:
    convert(sets.make(tmp_path / "set"), tmp_path / "new", name)
    path = tmp_path / "new" / side
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert [fault.code for fault in read_dataset(tmp_path / "new").faults if fault.file == side] == [code]
    path.write_text("{}" if side.endswith("json") else "a,b\n1,2\n")  # something else
    assert read_dataset(tmp_path / "new").faults == []


def test_a_file_of_another_format_that_is_broken_is_an_error(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "set")
    (root / "a.json").write_text('{"shapes": [], "imagePath": "a.png", "imageData": ')
    (root / "project.json").write_text('{"_via_img_metadata": ')
    assert {(fault.code, fault.file) for fault in read_dataset(root).errors} == {
        ("record", "a.json"),
        ("file", "project.json"),
    }


def test_a_second_coco_file_that_is_broken_is_an_error(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "set")
    (root / "annotations" / "instances_train2.json").write_text('{"images": [')
    assert [(fault.code, fault.file) for fault in read_dataset(root).errors] == [
        ("file", "annotations/instances_train2.json")
    ]


def test_what_can_t_be_opened_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = sets.make(tmp_path / "set")
    (root / "annotations" / "a.json").write_text("{}")
    (root / "locked").mkdir()
    close(monkeypatch, "locked", "a.json")
    errors = read_dataset(root).errors
    assert {(fault.code, Path(fault.file).name) for fault in errors} == {("file", "a.json"), ("file", "locked")}
    assert all("Permission denied" in fault.what for fault in errors)


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("annotations/x.json", "annotations"),
        ("annotations/x.json", "annotations/x.json"),
        ("annotations/v1/x.json", "annotations/v1"),
        ("annotations/v1/x.json", "annotations/v1/x.json"),
        ("Labels/x.json", "Labels"),
    ],
)
def test_images_are_next_to_the_named_folder_of_annotations(tmp_path: Path, file: str, named: str) -> None:
    image(tmp_path / "set" / "images" / "a.png")
    coco(tmp_path / "set" / file, "a.png")
    coco(tmp_path / "set" / "other" / "y.json", "a.png")  # not named
    reading = read_dataset(tmp_path / "set" / named)
    assert reading.faults == [] and reading.files == (file,) and len(distinct_masks(reading)) == 5


def test_a_data_set_in_a_folder_called_labels_is_all_in_it(tmp_path: Path) -> None:
    image(tmp_path / "labels" / "images" / "a.png")
    image(tmp_path / "other" / "a.png", seed=3)
    coco(tmp_path / "labels" / "x.json", "a.png")
    (dataset,) = read_dataset(tmp_path / "labels").splits.values()
    assert dataset.path(dataset.images[0]) == tmp_path / "labels" / "images" / "a.png"


def test_links_to_one_folder_are_read_under_every_name_and_circles_once(tmp_path: Path) -> None:
    image(tmp_path / "pool" / "a.png")
    coco(tmp_path / "set" / "annotations" / "instances_train.json", "train/a.png")
    (tmp_path / "set" / "images").mkdir()
    for name in ("other", "train"):
        (tmp_path / "set" / "images" / name).symlink_to(tmp_path / "pool")
    (tmp_path / "pool" / "loop").symlink_to(tmp_path / "set" / "images")
    reading = read_dataset(tmp_path / "set")
    assert [fault.code for fault in reading.faults if fault.code != "image-unlisted"] == []
    (dataset,) = reading.splits.values()
    assert [dataset.path(i).resolve() for i in dataset.images] == [tmp_path / "pool" / "a.png"]


def test_files_that_links_show_twice_count_once(tmp_path: Path) -> None:
    for name in ("coco", "yolo", "labelme"):
        convert(sets.make(tmp_path / f"{name}_set"), tmp_path / name / "v1", name)
        before = read_dataset(tmp_path / name)
        (tmp_path / name / "latest").symlink_to(tmp_path / name / "v1")
        after = read_dataset(tmp_path / name)
        assert distinct_masks(after) == distinct_masks(before) and len(after.faults) == len(before.faults) == 0


def _both_folders(root: Path, *, missing: str = "") -> Path:
    for number, folder in enumerate(("images", "depth")):
        for name in "012":
            if f"{folder}/{name}" != missing:
                image(root / folder / f"{name}.png", seed=10 * number + int(name))
    return root


def test_another_folder_never_takes_the_place_of_images_unnoticed(tmp_path: Path) -> None:
    root = _both_folders(tmp_path, missing="images/2")
    coco(root / "annotations" / "instances_train.json", "0.png", "1.png", "2.png")
    reading = read_dataset(root)
    (dataset,) = reading.splits.values()
    assert [i.file_name for i in dataset.images] == ["images/0.png", "images/1.png", "depth/2.png"]
    assert [f.code for f in reading.faults if f.code != "image-unlisted"] == ["image-moved"]
    assert "2.png" in reading.faults[0].what


@pytest.mark.parametrize("name", ["cvat", "labelme", "via"])
def test_an_image_that_lies_elsewhere_is_reported(tmp_path: Path, name: str) -> None:
    image(tmp_path / "images" / "1.png", seed=1)
    image(tmp_path / "extra" / "0.png", seed=2)
    shape = {"label": "a", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}
    if name == "cvat":
        polygon = '<polygon label="a" points="1,1;9,1;9,9"/>'
        records = (f'<image name="{n}.png" width="40" height="30">{polygon}</image>' for n in "01")
        (tmp_path / "annotations.xml").write_text(f"<annotations>{''.join(records)}</annotations>")
    elif name == "labelme":
        (tmp_path / "0.json").write_text(json.dumps({"shapes": [shape], "imagePath": "0.png", "imageData": None}))
    else:
        region = {"shape_attributes": {"name": "polygon", "all_points_x": [1, 9, 9], "all_points_y": [1, 1, 9]}}
        files = {n: {"filename": f"{n}.png", "size": 1, "regions": [region], "file_attributes": {}} for n in "01"}
        (tmp_path / "via.json").write_text(json.dumps(files))
    assert "image-moved" in [fault.code for fault in read_dataset(tmp_path).faults]


@pytest.mark.parametrize("name", WRITTEN)
def test_every_command_reads_the_same_format(tmp_path: Path, name: str) -> None:
    convert(sets.make(tmp_path / "set"), tmp_path / "new", name)
    (tmp_path / "new" / "classes.txt").write_text("cat\ndog\n")
    root = str(tmp_path / "new")
    run = CliRunner().invoke
    checked = run(cli, ["check", root, "--output", str(tmp_path / "report")])
    assert checked.exit_code == 0 and "train: 4 images" in checked.output, checked.output
    converted = run(cli, ["convert", root, str(tmp_path / "back"), "--to", "coco"])
    assert converted.exit_code == 0 and f"from {name} to coco" in converted.output
    divided = run(cli, ["split", root, "--output", str(tmp_path / "divided")])
    assert divided.exit_code == 0, divided.output
    assert (
        distinct_masks(read_dataset(tmp_path / "back"))
        == distinct_masks(read_dataset(tmp_path / "divided"))
        == distinct_masks(read_dataset(tmp_path / "new"))
    )
    assert len(load_split(tmp_path / "new").images) == 3


@pytest.mark.parametrize(("name", "file"), [("yolo", "data.yaml"), ("cvat", "annotations.xml")])
def test_a_file_is_taken_wherever_a_folder_is(tmp_path: Path, name: str, file: str) -> None:
    convert(sets.make(tmp_path / "set"), tmp_path / "new", name)
    reading = read_dataset(tmp_path / "new" / file)
    assert reading.format == name and distinct_masks(reading) == distinct_masks(read_dataset(tmp_path / "new"))
    checked = CliRunner().invoke(cli, ["check", str(tmp_path / "new" / file), "--output", str(tmp_path / "report")])
    assert checked.exit_code == 0 and "train: 4 images" in checked.output


def test_the_folder_with_the_images_can_be_named(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "set")
    (root / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="missing"):
        convert(root, tmp_path / "no", "yolo")
    done = convert(root, tmp_path / "new", "yolo", images=tmp_path / "elsewhere")
    assert [len(dataset.images) for dataset in done.splits.values()] == [4, 3]
    with pytest.raises(DatasetNotFoundError, match="not a folder"):
        read_dataset(root, images=tmp_path / "none")


@pytest.mark.parametrize("place", ["images/default", "data", "img", "a/b/c", "images", "photos of me", "."])
def test_the_folder_of_the_images_may_have_any_name(tmp_path: Path, place: str) -> None:
    image(tmp_path / place / "a.png", 1)
    image(tmp_path / place / "b.png", 2)
    coco(tmp_path / "annotations" / "instances_default.json", "a.png", "b.png")
    reading = read_dataset(tmp_path)
    assert not reading.faults and len(reading.splits["all"].annotations) == 5
    assert all(dataset.path(i).is_file() for dataset in reading.splits.values() for i in dataset.images)


def test_subsets_of_cvat_with_capital_letters(tmp_path: Path) -> None:
    for subset, seed in (("Train", 1), ("Validation", 2)):
        image(tmp_path / "images" / subset / "1.png", seed)
        coco(tmp_path / "annotations" / f"instances_{subset}.json", "1.png")
    reading = read_dataset(tmp_path)
    assert not reading.faults
    assert {split: d.folder.name for split, d in reading.splits.items()} == {"train": "Train", "val": "Validation"}


def test_lvis_names_images_by_url_only(tmp_path: Path) -> None:
    image(tmp_path / "val2017" / "000000000001.jpg")
    content = sets.content(["x"])
    del content["images"][0]["file_name"]
    content["images"][0]["coco_url"] = "http://images.cocodataset.org/val2017/000000000001.jpg"
    (tmp_path / "lvis_v1_val.json").write_text(json.dumps(content))
    reading = read_dataset(tmp_path)
    assert not reading.faults and len(reading.splits["val"].annotations) == 5


def test_a_file_for_another_task_is_read_only_alone(tmp_path: Path) -> None:
    image(tmp_path / "val2017" / "a.png")
    for name in ("instances", "person_keypoints", "captions"):
        coco(tmp_path / "annotations" / f"{name}_val2017.json", "a.png")
    assert read_dataset(tmp_path).files == ("annotations/instances_val2017.json",) and not read_dataset(tmp_path).faults
    (tmp_path / "annotations" / "instances_val2017.json").unlink()
    (tmp_path / "annotations" / "captions_val2017.json").unlink()
    assert read_dataset(tmp_path).files == ("annotations/person_keypoints_val2017.json",)


# ---- pairing


def test_yolo_labels_are_paired_across_spellings(tmp_path: Path) -> None:
    pairs = [("Images/café.jpg", "Labels/cafe\u0301"), ("Images/IMG_1.JPG", "Labels/img_1")]
    pairs += [("Images/décran.jpg", "Labels/d%C3%A9cran"), ("Images/ok.jpg", "Labels/ok")]
    for seed, (name, label) in enumerate(pairs):
        image(tmp_path / name, seed)
        (tmp_path / "Labels").mkdir(exist_ok=True)
        (tmp_path / f"{label}.txt").write_text(LINE)
    reading = read_dataset(tmp_path)
    assert reading.format == "yolo" and not reading.faults
    assert len(reading.splits["all"].images) == len(reading.splits["all"].annotations) == 4


@pytest.mark.parametrize("folder", ["imgs", "JPEGImages", "images"])
def test_yolo_images_may_lie_in_any_folder_next_to_the_labels(tmp_path: Path, folder: str) -> None:
    for split, seed in (("train", 1), ("val", 2)):
        image(tmp_path / split / folder / "1.jpg", seed)
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / "1.txt").write_text(LINE)
    (tmp_path / "data.yaml").write_text(f"train: train/{folder}\nval: val/{folder}\nnames: [a]\n")
    reading = read_dataset(tmp_path)
    assert not reading.faults and [len(d.annotations) for d in reading.splits.values()] == [1, 1]


def test_labels_that_belong_to_no_image_are_errors_with_numbers(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.jpg")
    (tmp_path / "images" / "phone.heic").write_bytes(b"0000ftypheic")
    (tmp_path / "labels").mkdir()
    for name in ("a", "b", "phone"):
        (tmp_path / "labels" / f"{name}.txt").write_text(LINE * 2)
    reading = read_dataset(tmp_path)
    assert [(f.code, f.file, f.what, f.lost) for f in reading.errors] == [
        ("label-unmatched", "labels/b.txt", "2 lines; no image has its name", 2),
        (
            "label-unmatched",
            "labels/phone.txt",
            "2 lines; its image images/phone.heic has an unsupported format",
            2,
        ),
    ]
    assert reading.count("all").annotations == 6
    result = CliRunner().invoke(cli, ["convert", str(tmp_path), str(tmp_path.parent / "new"), "--to", "coco"])
    assert result.exit_code == 1


def test_a_yolo_set_without_any_label_file_is_an_error(tmp_path: Path) -> None:
    image(tmp_path / "images" / "train" / "a.jpg")
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [a]\n")
    (fault,) = read_dataset(tmp_path).errors
    assert fault.code == "no-labels" and fault.what == "1 image without label files, such as labels/train/a.txt"


def test_masks_of_voc_that_no_list_names_are_reported(tmp_path: Path) -> None:
    convert(sets.make(tmp_path / "set"), tmp_path / "new", "voc")
    lists = tmp_path / "new" / "ImageSets" / "Segmentation"
    lines = (lists / "train.txt").read_text().splitlines()
    (lists / "train.txt").write_text("\n".join(lines[1:]) + "\n")
    (fault,) = [fault for fault in read_dataset(tmp_path / "new").faults if fault.code == "file-unlisted"]
    assert fault.what == "1 file with 4 instances: train0"


def test_a_conversion_without_any_image_is_refused(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "set")
    shutil.rmtree(root / "images")
    result = CliRunner().invoke(cli, ["convert", str(root), str(tmp_path / "new"), "--to", "yolo", "--skip-errors"])
    assert result.exit_code == 1 and "no image of" in str(result.exception) and not (tmp_path / "new").exists()


def test_annotations_of_a_format_that_is_not_read_are_reported(tmp_path: Path) -> None:
    for name in "abc":
        image(tmp_path / "images" / f"{name}.png", ord(name))
    coco(tmp_path / "annotations" / "instances_train.json", "a.png", "b.png", "c.png", annotated=5)  # of a.png
    isat = json.dumps({"info": {"description": "ISAT"}, "objects": []})
    (tmp_path / "isat").mkdir()
    (tmp_path / "isat" / "a.json").write_text(isat)
    assert read_dataset(tmp_path).errors == []
    (tmp_path / "isat" / "b.json").write_text(isat)
    assert [(fault.code, "ISAT" in fault.what) for fault in read_dataset(tmp_path).errors] == [("file-unread", True)]


def test_a_split_that_only_a_file_of_another_task_has_is_reported(tmp_path: Path) -> None:
    image(tmp_path / "val2017" / "a.png", 1)
    image(tmp_path / "train2017" / "b.png", 2)
    coco(tmp_path / "annotations" / "instances_val2017.json", "a.png")
    coco(tmp_path / "annotations" / "person_keypoints_train2017.json", "b.png")
    assert [(fault.code, fault.lost) for fault in read_dataset(tmp_path).errors] == [("file-unread", 5)]
    coco(tmp_path / "annotations" / "instances_train2017.json", "b.png")
    assert read_dataset(tmp_path).errors == []


def test_a_test_split_without_annotations_is_a_split(tmp_path: Path) -> None:
    image(tmp_path / "train" / "a.png", 1)
    image(tmp_path / "test" / "b.png", 2)
    coco(tmp_path / "train.json", "a.png")
    coco(tmp_path / "lvis_v1_image_info_test_dev.json", "b.png")  # of another task
    content = sets.content(["b.png"])
    del content["annotations"]
    (tmp_path / "test.json").write_text(json.dumps(content))
    reading = read_dataset(tmp_path)
    assert reading.errors == [] and {s: len(d.annotations) for s, d in reading.splits.items()} == {
        "train": 5,
        "test": 0,
    }


def test_statistics_of_instances_are_not_annotations(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    coco(tmp_path / "labels.json", "a.png")
    (tmp_path / "instances_per_class.json").write_text('{"cat": 3}')
    reading = read_dataset(tmp_path)
    assert reading.files == ("labels.json",) and reading.errors == []


@pytest.mark.parametrize("named", ["annotations", "annotations/instances_val2017.json"])
def test_images_are_above_annotations_though_masks_of_another_task_are_inside(tmp_path: Path, named: str) -> None:
    image(tmp_path / "val2017" / "a.png", 1)
    image(tmp_path / "annotations" / "panoptic_val2017" / "a.png", 2)
    coco(tmp_path / "annotations" / "instances_val2017.json", "a.png")
    (tmp_path / "annotations" / "panoptic_val2017.json").write_text('{"annotations": [{"segments_info": []}]}')
    (dataset,) = read_dataset(tmp_path / named, "coco").splits.values()
    assert dataset.path(dataset.images[0]) == tmp_path / "val2017" / "a.png"


def test_a_broken_export_of_cvat_next_to_a_good_one_is_an_error(tmp_path: Path) -> None:
    convert(sets.make(tmp_path / "set"), tmp_path / "new", "cvat")
    (tmp_path / "new" / "second.xml").write_text("<annotations><image>")
    reading = read_dataset(tmp_path / "new")
    assert len(distinct_masks(reading)) == 25 and [(f.code, f.file) for f in reading.errors] == [("file", "second.xml")]
