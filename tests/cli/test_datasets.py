"""`maskline check`, `convert` and `split` as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from fixtures import sets


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "maskline", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_a_sound_set_passes(tmp_path: Path) -> None:
    sets.make(tmp_path / "set")
    done = run("check", "set", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.endswith("Check dataset passed !\n") and not done.stderr
    counts = "train: 4 images, 12 instances, 3 crowd regions; val: 3 images, 8 instances, 2 crowd regions"
    assert f"{counts}; 0 errors, 0 warnings; report: output/check_dataset/report.html" in done.stdout
    folder = tmp_path / "output" / "check_dataset"
    assert (folder / "report.html").stat().st_size > 10_000 and (folder / "histogram.png").exists()
    assert json.loads((folder / "faults.json").read_text()) == []
    assert (folder / "demo_img" / "train" / "sub" / "train1.png").exists()
    assert (folder / "demo_img" / "val" / "val0.png").exists()


def test_a_misspelt_choice_is_refused(tmp_path: Path) -> None:
    """Masks marked as crowds would count as regions otherwise, and be lost."""
    sets.make(tmp_path / "set")
    for command in (("check", "set"), ("convert", "set", "new", "--to", "coco")):
        done = run(*command, "--crowd", "instance", cwd=tmp_path)
        assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "new").exists()
        assert done.stderr == (
            "maskline: unknown --crowd 'instance': did you mean 'instances'? known: instances, regions\n"
        )


def test_errors_are_reported_and_fail(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "set")
    content = sets.load(root, "train")
    for annotation in content["annotations"][:7]:
        annotation["segmentation"] = [[1, 2]]
    content["annotations"][8]["area"] = 9999
    sets.save(root, "train", content)
    done = run("check", "set", "--fix", "fixed", cwd=tmp_path)
    assert done.returncode == 1 and "passed" not in done.stdout and "Traceback" not in done.stderr
    assert "error: a polygon without area or with invalid numbers (7). Redraw it" in done.stdout
    assert "annotation 1000: polygon 1 of 1 is [1, 2] (image train0.png)" in done.stdout and "and 2 more" in done.stdout
    assert "fixed: train: 4 of 4 images, 8 of 15 annotations" in done.stdout
    assert "fixed: 1 fault fixed, 7 fixed by removing data, 0 not fixed; see fixes.json" in done.stdout
    assert run("check", "fixed", cwd=tmp_path).returncode == 0


def test_warnings_fail_only_when_asked_to(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "set")
    content = sets.load(root, "train")
    content["annotations"][0]["area"] = 9999
    sets.save(root, "train", content)
    assert run("check", "set", cwd=tmp_path).returncode == 0
    done = run("check", "set", "--strict", cwd=tmp_path)
    assert done.returncode == 1 and "passed" not in done.stdout


def test_crowds_that_are_objects(tmp_path: Path) -> None:
    """As CVAT exports what was drawn with its brush."""
    root = sets.make(tmp_path / "set")
    for split in ("train", "val"):
        content = sets.load(root, split)
        for annotation in content["annotations"]:
            annotation["iscrowd"] = int(isinstance(annotation["segmentation"], dict))
        sets.save(root, split, content)
    done = run("check", "set", cwd=tmp_path)
    assert done.returncode == 1 and "9 of 15 annotations with iscrowd 1 (6 'cat', 3 'dog')" in done.stdout
    assert "train: 4 images, 6 instances, 9 crowd regions; val:" in done.stdout
    done = run("convert", "set", "new", "--to", "coco", cwd=tmp_path)
    assert done.returncode == 1 and "--crowd instances" in done.stderr and not (tmp_path / "new").exists()
    done = run("check", "set", "--crowd", "instances", "--fix", "fixed", cwd=tmp_path)
    assert done.returncode == 0 and "note: 9 crowd regions of train read as instances" in done.stderr
    assert sum(a["iscrowd"] for a in sets.load(tmp_path / "fixed", "train")["annotations"]) == 0
    done = run("convert", "set", "new", "--to", "coco", "--crowd", "regions", cwd=tmp_path)
    assert done.returncode == 0
    assert sum(a["iscrowd"] for a in sets.load(tmp_path / "new", "train")["annotations"]) == 9


def test_what_is_left_out_is_printed(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "set")
    for split in ("train", "val"):
        content = sets.load(root, split)
        content["categories"][0]["name"] = "_background_"
        sets.save(root, split, content)
    done = run("convert", "set", "new", "--to", "yolo", cwd=tmp_path)
    assert done.returncode == 0 and "train: 4 images, 6 annotations" in done.stdout
    assert "class '_background_' is background or ignored, by its name: left out with 9 annotations" in done.stdout
    done = run("split", "set", cwd=tmp_path)
    assert done.returncode == 0 and "left out with 9 annotations" in done.stderr


def test_one_line_for_what_can_not_be_checked(tmp_path: Path) -> None:
    (tmp_path / "set" / "annotations").mkdir(parents=True)
    (tmp_path / "set" / "annotations" / "instance_train.json").write_text("{")
    for arguments in (
        ("check", "none"),
        ("check", "set"),
        ("convert", "none", "new", "--to", "yolo"),
        ("convert", "set", "new", "--to", "yollo"),
        ("convert", "set", "new", "--to", "yolo"),
        ("split", "set"),
        ("split", "none", "--val", "200"),
    ):
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode in (1, 2) and done.stderr.startswith("maskline: ") and done.stderr.count("\n") == 1, done
        assert not (tmp_path / "new").exists()


def test_convert_and_back(tmp_path: Path) -> None:
    sets.make(tmp_path / "set")
    done = run("convert", "set", "yolo", "--to", "yolo", cwd=tmp_path)
    assert done.returncode == 0 and "train: 4 images, 15 annotations" in done.stdout
    assert "yolo: from coco to yolo" in done.stdout and "note: " in done.stderr
    done = run("convert", "yolo", "again", "--to", "COCO", cwd=tmp_path)
    assert done.returncode == 0 and "again: from yolo to coco" in done.stdout
    done = run("check", "again", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert run("convert", "set", "yolo", "--to", "yolo", cwd=tmp_path).returncode == 1  # is there already


def test_what_can_not_be_read_is_left_out_only_when_asked_to(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "set")
    content = sets.load(root, "train")
    content["annotations"][0]["segmentation"] = [[1, 2]]
    sets.save(root, "train", content)
    done = run("convert", "set", "new", "--to", "labelme", cwd=tmp_path)
    assert done.returncode == 1 and "--skip-errors" in done.stderr and not (tmp_path / "new").exists()
    done = run("convert", "set", "new", "--to", "labelme", "--skip-errors", cwd=tmp_path)
    assert done.returncode == 0 and "annotation 1000" in done.stdout and (tmp_path / "new").exists()


def test_split(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "set", train=7)
    done = run("split", "set", "--val", "50", "--stratify", cwd=tmp_path)
    assert done.returncode == 0 and "train: 5 images" in done.stdout and "val: 5 images" in done.stdout
    assert (root / "annotations" / "instance_train.json.bak").exists()
    done = run("split", "set", "--group", "folder", "--output", "new", cwd=tmp_path)
    assert done.returncode == 0 and len(list((tmp_path / "new" / "images").rglob("*.png"))) == 10


def test_odd_names_are_printed_as_they_can_be(tmp_path: Path) -> None:
    root = sets.make(tmp_path / "set")
    content = sets.load(root, "train")
    content["images"][0]["file_name"] = "\ud800bad.jpg"
    content["images"][1]["file_name"] = f"{'x' * 5000}.png"
    content["categories"][0]["name"] = "\ud800"
    content["annotations"][5]["bbox"] = "\ud800"
    sets.save(root, "train", content)
    for arguments, message in (
        (("check", "set"), "image-missing"),
        (("convert", "set", "new", "--to", "coco"), "errors in the data set"),
        (("convert", "set", "new", "--to", "labelme", "--skip-errors"), "the class name is escaped"),
        (("split", "set"), "errors in the data set"),
    ):
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == (0 if "--skip-errors" in arguments else 1), done
        assert "Traceback" not in done.stderr and "standard output" not in done.stderr
        files = tmp_path / "output" / "check_dataset" / "faults.json"
        assert message in done.stdout + done.stderr + (files.read_text() if arguments[0] == "check" else "")


def test_without_a_home_nothing_else_is_said(tmp_path: Path) -> None:
    sets.make(tmp_path / "set")
    (tmp_path / "file").write_text("")
    environment = {**os.environ, "HOME": str(tmp_path / "file"), "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": ""}
    environment.pop("MPLCONFIGDIR", None)
    command = [sys.executable, "-m", "maskline", "check", "set"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0 and not done.stderr


def test_without_the_extra_one_line_names_it(tmp_path: Path) -> None:
    script = (
        "import sys, importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name in ('shapely', 'jinja2') else find(name, *rest)\n"
        "sys.argv = ['maskline', 'check', 'set']\n"
        "from maskline.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "maskline: data sets need jinja2, shapely: pip install 'maskline[data]'\n"
