"""Jobs by PaddleX's commands, on data sets packed as its samples are."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from fixtures import sets

from maskline import cli
from maskline.data.convert import convert

CONFIG = "paddlex/configs/modules/instance_segmentation/Mask-RT-DETR-L.yaml"


def check(*overrides: str) -> dict[str, Any]:
    """The result of check_dataset, by the documents' command."""
    cli.main(["-c", CONFIG, "-o", "Global.mode=check_dataset", *(p for text in overrides for p in ("-o", text))])
    found = json.loads(Path("output/check_dataset_result.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def unpacked(folder: Path) -> None:
    """A folder packed into a tar file and taken out of it again, where the documents unpack theirs."""
    with tarfile.open("sample.tar", "w") as archive:
        archive.add(folder, folder.name)
    shutil.rmtree(folder)
    with tarfile.open("sample.tar") as archive:
        archive.extractall("dataset", filter="data")


def test_a_sample_in_coco_s_form(place: Path) -> None:
    """F56, F57, F83, B27: train_samples counts annotations, as there; images have a key of their own."""
    sets.make(place / "instance_seg_coco_examples", train=4, val=3)
    annotations = len(sets.load(place / "instance_seg_coco_examples", "train")["annotations"])
    unpacked(Path("instance_seg_coco_examples"))
    found = check("Global.dataset_dir=./dataset/instance_seg_coco_examples")
    attributes = found["attributes"]
    assert found["done_flag"] and found["check_pass"] and found["dataset_path"] == "instance_seg_coco_examples"
    assert found["show_type"] == "image" and found["dataset_type"] == "COCOInstSegDataset"
    assert attributes["num_classes"] == 2 and attributes["train_samples"] == annotations > 4
    assert attributes["train_images"] == 4 and attributes["val_images"] == 3
    named = [*attributes["train_sample_paths"], *attributes["val_sample_paths"], found["analysis"]["histogram"]]
    assert len(named) == 4 + 3 + 1 and all(Path("output", name).is_file() for name in named)


def test_a_sample_in_labelme_s_form(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """F58, F59, F83: converted and divided by -o; the earlier annotations stay as .bak."""
    convert(sets.make(place / "source", train=6, val=4), place / "instance_seg_labelme_examples", "labelme")
    unpacked(Path("instance_seg_labelme_examples"))
    where = "Global.dataset_dir=./dataset/instance_seg_labelme_examples"
    labelme = "CheckDataset.convert.src_dataset_type=LabelMe"
    assert check(where, "CheckDataset.convert.enable=True", labelme)["attributes"]["val_images"] == 4
    split = ("CheckDataset.split.train_percent=90", "CheckDataset.split.val_percent=10")
    attributes = check(where, "CheckDataset.split.enable=True", *split)["attributes"]
    assert (attributes["train_images"], attributes["val_images"]) == (9, 1)
    assert list(Path("dataset/instance_seg_labelme_examples/annotations").glob("*.bak"))
    assert "Convert dataset successfully !" in caplog.text and "Split dataset successfully !" in caplog.text
