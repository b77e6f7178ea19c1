"""From any format to any other: masks survive, nothing is half done, the source is not touched."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from fixtures import sets
from pycocotools import mask as coco

from maskline._files import new_folder, replace_file
from maskline.data.convert import Converted, convert, convert_in_place, writer_of
from maskline.data.dataset import Dataset, ImageRecord
from maskline.data.formats import FORMATS
from maskline.data.image_files import bring_in
from maskline.data.reading import format_module, load_splits
from maskline.data.reading import read_dataset as read_any
from maskline.data.shapes import to_rle
from maskline.data.source import Source
from maskline.errors import DatasetError, DatasetNotFoundError, OutputError, UnknownNameError

WRITTEN = [name for name in FORMATS if hasattr(format_module(name), "write")]

SHARED = Path(__file__).parents[3] / "shared" / "data"
#: What a format loses by its nature, on the sets used here.
CROWD_KEPT = {"coco", "labelme", "cvat"}


def masks_of(dataset: Dataset) -> list[tuple[str, list[tuple[str, bytes]]]]:
    """By image (recognized by its pixels): classes and masks of what is not a crowd, in no order."""
    found = []
    for image in dataset.images:
        instances = dataset.instances(image, crowd=False)
        rows = [
            (dataset.names[label], np.packbits(instances.full_mask(i)).tobytes())
            for i, label in enumerate(instances.labels.tolist())
        ]
        found.append((dataset.path(image).read_bytes()[-32:].hex(), sorted(rows)))
    return sorted(found)


def without_crowds(root: Path) -> Path:
    """Some formats do not distinguish crowd regions from objects: take them out before."""
    for split in ("train", "val"):
        content = sets.load(root, split)
        content["annotations"] = [a for a in content["annotations"] if not a["iscrowd"]]
        sets.save(root, split, content)
    return root


@pytest.mark.parametrize("second", WRITTEN)
@pytest.mark.parametrize("first", WRITTEN)
def test_masks_survive_any_two_conversions(tmp_path: Path, first: str, second: str) -> None:
    """B31: VOC too."""
    root = without_crowds(sets.make(tmp_path / "set"))
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    convert(root, tmp_path / "a", first)
    assert read_any(tmp_path / "a").format == first
    convert(tmp_path / "a", tmp_path / "b", second)
    convert(tmp_path / "b", tmp_path / "c", "coco", second)
    for split, dataset in load_splits(root).items():
        assert masks_of(load_splits(tmp_path / "c")[split]) == masks_of(dataset)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


LONG = f"{'é' * 125}b"  # 251 bytes


@pytest.mark.parametrize(
    "names", [(f"{LONG}.png", f"{LONG[:-1]}c.png"), (f"{LONG}/{LONG}.png", f"{LONG}/{LONG[1:]}.png")]
)
@pytest.mark.parametrize("format_", WRITTEN)
def test_names_as_long_as_can_be(
    tmp_path: Path, format_: str, names: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """They are cut where the files of the new data set need room, and stay different."""
    root = without_crowds(sets.make(tmp_path / "set"))
    content = sets.load(root, "train")
    for image, name in zip(content["images"], names, strict=False):
        new = root / "images" / name
        new.parent.mkdir(exist_ok=True)
        (root / "images" / image["file_name"]).rename(new)
        image["file_name"] = name
    sets.save(root, "train", content)
    target = tmp_path / ("t" * 250)
    convert(root, target, format_)
    splits = read_any(target).splits
    for split, dataset in load_splits(root).items():
        assert masks_of(splits[split]) == masks_of(dataset)
    assert max(len(os.fsencode(path.name)) for path in target.rglob("*")) <= 255
    if format_ != "yolo":
        assert "too long for a data set's files and truncated; the first: '" in caplog.text


def test_a_path_too_long_to_exist_is_a_missing_image(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "set")
    content = sets.load(root, "train")
    content["images"][0]["file_name"] = "/".join([LONG] * 20) + ".png"
    sets.save(root, "train", content)
    with pytest.raises(DatasetError, match="is missing or can't be read"):
        convert(root, tmp_path / "new", "coco")
    assert not (tmp_path / "new").exists()


def test_what_can_t_be_written_is_named_as_the_user_knows_it(tmp_path: Path) -> None:
    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    message = f"^{tmp_path / 'new' / 'a.json'} can't be written: No space left on device"
    with pytest.raises(OutputError, match=message), new_folder(tmp_path / "new") as folder:
        replace_file(folder / "a.json", full)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("source", ["coco", "labelme"])
def test_coco_files_are_named_as_other_tools_expect(tmp_path: Path, source: str) -> None:
    """Datumaro and CVAT look for files named `instances_*`; PaddleX's `instance_*` are not found."""
    convert(sets.make(tmp_path / "set"), tmp_path / "labelme", "labelme")
    root = tmp_path / ("set" if source == "coco" else "labelme")
    convert(root, tmp_path / "new", "coco")
    names = sorted(path.name for path in (tmp_path / "new" / "annotations").iterdir())
    assert names == ["instances_train.json", "instances_val.json"]
    before, after = load_splits(tmp_path / "set"), load_splits(tmp_path / "new")
    assert {split: masks_of(d) for split, d in after.items()} == {split: masks_of(d) for split, d in before.items()}


@pytest.mark.parametrize("name", WRITTEN)
def test_crowds_are_kept_or_spoken_of(tmp_path: Path, name: str) -> None:
    done = convert(sets.make(tmp_path / "set"), tmp_path / "new", name)
    crowds = sum(
        a.crowd for d in format_module(name).read(Source.of(tmp_path / "new")).splits.values() for a in d.annotations
    )
    assert crowds == (5 if name in CROWD_KEPT else 0)
    assert name in CROWD_KEPT or any("crowd" in note for note in done.notes)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_failure_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    root = sets.make(tmp_path / "set")
    (root / "images" / "val2.png").unlink()
    with pytest.raises(DatasetError, match="val2.png is missing"):
        convert(root, tmp_path / "new", name)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


#: The command, which takes a second for each image.
SLOWLY = """
import shutil, sys, time
from maskline.cli import main
copy = shutil.copyfile
shutil.copyfile = lambda *paths: (copy(*paths), time.sleep(1))[0]
sys.exit(main())
"""


def test_killed_in_the_middle_the_original_is_whole_without_half_a_result(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "set", train=100)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert len(sets.load(root, "train")["images"]) == 100
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        command = [sys.executable, "-c", SLOWLY, "convert", str(root), str(tmp_path / "new"), "--to", "coco"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not list(tmp_path.glob(".new.*/new/images/train*")):
            time.sleep(0.005)
        os.kill(process.pid, how)
        _, said = process.communicate(timeout=30)
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(how, -signal.SIGKILL), said
        assert not (tmp_path / "new").exists()
        if how != signal.SIGKILL:
            assert said.strip() == f"maskline: {'interrupted' if how == signal.SIGINT else 'terminated'}" and [
                path.name for path in tmp_path.iterdir()
            ] == ["set"]
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    convert(root, tmp_path / "new", "coco")  # what the killed one left is not in the way


def test_names_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'labelme'"):
        convert(tmp_path / "none", tmp_path / "new", "labelmee")
    with pytest.raises(DatasetNotFoundError, match="does not exist"):
        convert(tmp_path / "none", tmp_path / "new", "coco")
    with pytest.raises(DatasetError, match="no annotations found"):
        convert(tmp_path, tmp_path / "new", "coco")
    with pytest.raises(OutputError, match="already exists"):
        convert(sets.make(tmp_path / "set"), tmp_path / "set", "yolo")


def test_the_source_is_not_a_place_for_the_result(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "set")
    with pytest.raises(OutputError, match="is inside"):
        convert(root, root / "images" / "new", "yolo")
    assert not (root / "images" / "new").exists()


def in_labelme(tmp_path: Path) -> Path:
    root = tmp_path / "labelme"
    convert(sets.make(tmp_path / "set", train=8, val=2), root, "labelme")
    return root


def test_labelme_in_place_as_paddlex_does(tmp_path: Path) -> None:
    """F58."""
    root = in_labelme(tmp_path)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    convert_in_place(root, "LabelMe")
    splits = load_splits(root)
    assert [len(splits[name].images) for name in ("train", "val")] == [8, 2]
    assert splits["train"].categories == splits["val"].categories
    for split, dataset in load_splits(tmp_path / "set").items():
        assert masks_of(splits[split]) == masks_of(dataset)
    assert {path: path.read_bytes() for path in before} == before
    convert_in_place(root, "LabelMe")
    assert (root / "annotations" / "instance_train.json.bak").exists()
    assert not list(root.rglob("instances_*"))


def test_without_a_val_list_it_is_divided(tmp_path: Path) -> None:
    root = in_labelme(tmp_path)
    lists = root / "train_anno_list.txt", root / "val_anno_list.txt"
    lists[0].write_text(lists[0].read_text() + lists[1].read_text())
    lists[1].unlink()
    convert_in_place(root, "LabelMe")
    splits = load_splits(root)
    assert [len(splits[name].images) for name in ("train", "val")] == [8, 2]
    val = [image.file_name for image in splits["val"].images]
    convert_in_place(root, "LabelMe")
    assert [image.file_name for image in load_splits(root)["val"].images] == val


def test_what_is_divided_leaves_test_out(tmp_path: Path) -> None:
    root = without_crowds(sets.make(tmp_path / "set"))
    (root / "annotations" / "instance_val.json").rename(root / "annotations" / "instance_test.json")
    convert(root, tmp_path / "yolo", "yolo")
    convert_in_place(tmp_path / "yolo", "yolo")
    splits = load_splits(tmp_path / "yolo")
    assert {name: len(dataset.images) for name, dataset in splits.items()} == {"train": 3, "val": 1, "test": 3}
    assert masks_of(splits["test"]) == masks_of(load_splits(root)["test"])


def test_images_elsewhere_are_copied_in(tmp_path: Path) -> None:
    convert(without_crowds(sets.make(tmp_path / "set")), tmp_path / "voc", "voc")
    convert_in_place(tmp_path / "voc", "VOC")
    assert (tmp_path / "voc" / "JPEGImages").is_dir()
    for split, dataset in load_splits(tmp_path / "set").items():
        assert masks_of(load_splits(tmp_path / "voc")[split]) == masks_of(dataset)


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def flat_yolo(root: Path) -> Path:
    """A layout that Roboflow writes: a folder for each split, in it images and labels."""
    convert(without_crowds(sets.make(root / "set")), root / "made", "yolo")
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / "yolo" / split).mkdir(parents=True, exist_ok=True)
            (root / "made" / kind / split).rename(root / "yolo" / split / kind)
    (root / "yolo" / "data.yaml").write_text("train: train/images\nval: val/images\nnames: [cat, dog]\n")
    return root / "yolo"


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("name", ["labelme", "yolo", "voc", "cvat", "flat"])
def test_in_place_again_and_again(tmp_path: Path, name: str, relative: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "flat":
        root, name = flat_yolo(tmp_path), "yolo"
    else:
        root = tmp_path / name
        convert(without_crowds(sets.make(tmp_path / "set")), root, name)
    before = contents(root)
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        convert_in_place(Path(root.name) if relative else root, name)
        for split, dataset in load_splits(root).items():
            assert masks_of(dataset) == masks_of(load_splits(tmp_path / "set")[split])
        if number == 0:
            images = sorted((root / "images").rglob("*.*"))
    assert {path: path.read_bytes() for path in before} == before
    assert sorted((root / "images").rglob("*.*")) == images and len(images) == 7
    names = [path.name for path in (root / "annotations").glob("instance_val*")]
    assert sorted(names) == ["instance_val.json", "instance_val.json.bak", "instance_val.json.bak2"]


def test_an_image_of_another_s_name_gets_one_of_its_own(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    convert(without_crowds(sets.make(tmp_path / "set")), root, "voc")
    (root / "images").mkdir()
    cv2.imwrite(str(root / "images" / "train0.png"), sets.image(70))
    before = contents(root)
    for _ in range(2):
        convert_in_place(root, "VOC")
        assert load_splits(root)["train"].images[0].file_name == "train/train0.png"
        assert masks_of(load_splits(root)["train"]) == masks_of(load_splits(tmp_path / "set")["train"])
    assert {path: path.read_bytes() for path in before} == before and len(list((root / "images").rglob("*.png"))) == 8


def test_images_that_can_not_be_brought_in_leave_nothing_behind(tmp_path: Path) -> None:
    splits = load_splits(sets.make(tmp_path / "set"))
    (tmp_path / "set" / "images" / "val2.png").unlink()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "old.txt").write_text("")
    for name in ("new", "there"):
        with pytest.raises(DatasetError, match=r"val2.png is missing"):
            bring_in(splits, tmp_path / name)
    assert not (tmp_path / "new").exists() and len(list((tmp_path / "there").rglob("*"))) == 1


def test_errors_change_nothing_in_place(tmp_path: Path) -> None:
    root = in_labelme(tmp_path)
    next((root / "annotations").glob("train*.json")).write_text("{")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(DatasetError):
        convert_in_place(root, "LabelMe")
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    with pytest.raises(UnknownNameError):
        convert_in_place(root, "ADE20K")


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data sets are not here")
@pytest.mark.parametrize("name", ["labelme", "yolo", "voc", "cvat"])
@pytest.mark.parametrize("source", ["nuclei", "coco_sample"])
def test_round_trip_on_real_masks(tmp_path: Path, source: str, name: str) -> None:
    """IoU of every mask of the val splits, crowds aside."""
    dataset = read_any(SHARED / source).splits["val"]
    kept = [annotation for annotation in dataset.annotations if not annotation.crowd]
    splits = {"val": Dataset("val", dataset.folder, dataset.images, kept, dataset.categories)}
    (tmp_path / "new").mkdir()
    writer_of(name).write(splits, tmp_path / "new")
    again = format_module(name).read(Source.of(tmp_path / "new"))
    assert not again.errors
    ious = np.asarray(_ious(splits["val"], again.splits["val"]))
    # an image of indices holds each pixel once: where objects of COCO overlap, the larger one loses
    least = {("voc", "coco_sample"): 0.94, ("voc", "nuclei"): 1}.get((name, source), 1)
    assert ious.mean() >= least and (name == "voc" or ious.min() == 1)


def _ious(old: Dataset, new: Dataset) -> list[float]:
    """The IoU of each old mask with the most similar new one of its class and image."""
    found: list[float] = []
    images = {old.path(image).read_bytes(): image for image in old.images}
    for image in new.images:
        before, after = rles(old, images[new.path(image).read_bytes()]), rles(new, image)
        for name, masks in before.items():
            overlap = (
                coco.iou(after.get(name, []), masks, [0] * len(masks)) if name in after else np.zeros((1, len(masks)))
            )
            found += overlap.max(axis=0).tolist()
    return found


def rles(dataset: Dataset, image: ImageRecord) -> dict[str, list[dict[str, object]]]:
    """Masks of an image by the names of their classes."""
    found: dict[str, list[dict[str, object]]] = {}
    for annotation in dataset.of(image):
        name = dataset.names[dataset.labels[annotation.category_id]]
        counts = to_rle(annotation.segmentation, image.size)
        found.setdefault(name, []).append({"size": list(image.size), "counts": counts})
    return found


@pytest.mark.parametrize("name", ["coco", "labelme", "cvat"])
def test_missing_images_are_left_out_only_when_asked_to(tmp_path: Path, name: str) -> None:
    convert(sets.make(tmp_path / "set"), tmp_path / "a", name)
    next((tmp_path / "a").rglob("train0.png")).unlink()
    with pytest.raises(DatasetError, match="train0"):
        convert(tmp_path / "a", tmp_path / "b", "coco")
    done = convert(tmp_path / "a", tmp_path / "b", "coco", skip_errors=True)
    assert [fault.code for fault in done.faults] == ["image-missing"]
    assert [len(load_splits(tmp_path / "b")[split].images) for split in ("train", "val")] == [3, 3]


def test_what_was_done_is_reported(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "set")
    content = sets.load(root, "train")
    content["annotations"][0]["segmentation"] = None
    sets.save(root, "train", content)
    done = convert(root, tmp_path / "new", "yolo", skip_errors=True)
    assert isinstance(done, Converted) and done.source_format == "coco"
    assert [fault.code for fault in done.faults] == ["no-mask"] and len(done.splits["train"].annotations) == 14
