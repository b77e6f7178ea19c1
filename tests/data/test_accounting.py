"""No annotation is lost unseen: those of the files are those read and those reported."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from fixtures import sets
from fixtures.readings import distinct_masks

from maskline.cli import cli
from maskline.data.convert import convert
from maskline.data.reading import read_dataset
from maskline.errors import DatasetError

# ---- the account


def _coco_number(root: Path) -> int:
    return sum(
        len(json.loads(path.read_text())["annotations"]) for path in (root / "annotations").glob("instance*_*.json")
    )


def _yolo_number(root: Path) -> int:
    return sum(
        bool(line.strip()) for path in root.rglob("*.txt") for line in path.read_text(errors="replace").splitlines()
    )


def _labelme_number(root: Path) -> int:
    """Shapes; parts of one object share a group."""
    found = 0
    for path in (root / "annotations").rglob("*.json"):
        shapes = json.loads(path.read_text())["shapes"]
        found += len([s for s in shapes if s.get("group_id") is None])
        found += len({(s["label"], s["group_id"]) for s in shapes if s.get("group_id") is not None})
    return found


def _damage_coco(root: Path, chance: random.Random) -> None:
    for path in (root / "annotations").glob("instance*_*.json"):
        content = json.loads(path.read_text())
        for annotation in chance.sample(content["annotations"], 4):
            key = chance.choice(["segmentation", "image_id", "category_id", "iscrowd", "bbox"])
            annotation[key] = chance.choice([None, 99, "x", [], [[1, 2]], {}])
        image_ = chance.choice(content["images"])
        image_[chance.choice(["file_name", "id", "width"])] = chance.choice([None, 5, "../x.png", []])
        path.write_text(json.dumps(content))


def _damage_yolo(root: Path, chance: random.Random) -> None:
    for path in sorted(root.rglob("labels/**/*.txt")):
        lines = path.read_text().splitlines()
        junk = ["0 0.5 0.5 0.2 0.2", "0 .1 x .2 .3 .4", "9 .1 .1 .5 .1 .5 .5", "0 1 1 1 1 1 1", ""]
        lines.insert(chance.randrange(len(lines) + 1), chance.choice(junk))
        path.write_text("\n".join(lines))
    label = chance.choice(sorted(root.rglob("labels/**/*.txt")))
    label.rename(label.with_name("no_one.txt"))


def _damage_labelme(root: Path, chance: random.Random) -> None:
    for path in sorted((root / "annotations").rglob("*.json")):
        content = json.loads(path.read_text())
        for shape in chance.sample(content["shapes"], min(2, len(content["shapes"]))):
            if shape["group_id"] is None:
                shape[chance.choice(["points", "label", "shape_type"])] = chance.choice([None, "point", [[1, 2]], {}])
        path.write_text(json.dumps(content))


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize(
    ("name", "damage", "number"),
    [
        ("coco", _damage_coco, _coco_number),
        ("yolo", _damage_yolo, _yolo_number),
        ("labelme", _damage_labelme, _labelme_number),
    ],
)
def test_annotations_in_are_annotations_out_and_annotations_reported(
    tmp_path: Path, name: str, damage: Callable[[Path, random.Random], None], number: Callable[[Path], int], seed: int
) -> None:
    convert(sets.make(tmp_path / "set"), tmp_path / "new", name)
    root = tmp_path / "new"
    chance = random.Random(seed)
    damage(root, chance)
    for path in chance.sample(sorted((root / "images").rglob("*.png")), 2):
        path.rename(path.with_suffix(chance.choice([".PNG", ".heic", ".gone"])))
    try:
        reading = read_dataset(root, name)
    except DatasetError:
        return
    out = sum(len(dataset.annotations) for dataset in reading.splits.values())
    lost = sum(fault.lost for fault in reading.faults)
    assert out + lost == sum(count.annotations for count in reading.listed.values())
    if name != "labelme":  # parts that are damaged may leave or join a group
        assert out + lost == number(root)
    else:
        assert out + lost >= number(root) - 2
    result = CliRunner().invoke(cli, ["convert", str(root), str(tmp_path / "back"), "--from", name, "--to", "coco"])
    assert result.exit_code == 1 or not any(fault.lost for fault in reading.faults if fault.kind.severity == "error")
    if result.exit_code == 0:
        assert len(distinct_masks(read_dataset(tmp_path / "back"))) <= out
