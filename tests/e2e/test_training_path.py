"""From images with LabelMe's annotations to a model that predicts, by the commands of docs/tutorial.md."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures import service, sets
from fixtures.narrow import imread

import maskline
from maskline.data.convert import convert

ROOT = Path(__file__).parents[2]
PHOTO = Path(maskline.__file__).with_name("assets") / "fruit.jpg"
QUICK = " --epochs 1 --batch-size 2 --workers 0"  # in place of a run worth its name


def shown(language: str) -> list[str]:
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def commands() -> list[str]:
    """Those of the tutorial, without remarks."""
    lines = [line.split("#")[0].strip() for block in shown("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith(("maskline ", "curl "))]


@pytest.mark.slow
def test_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F67, F69, F70, F82: the tutorial, from LabelMe's files to images, to LabelMe again, and to a service."""
    monkeypatch.chdir(tmp_path)
    sets.make(tmp_path / "source", train=6, val=2)
    convert(tmp_path / "source", tmp_path / "my_labelme", "labelme")
    (tmp_path / "source" / "images").rename("new_photos")
    shutil.copy(PHOTO, "photo.jpg")
    *lines, serve, ask = commands()
    assert [line.split()[1] for line in lines] == [
        "check", "convert", "split", "train", "evaluate", "predict", "config", "predict", "export",
    ]  # fmt: skip
    for line in lines:
        line += QUICK if line.startswith("maskline train") else ""
        done = subprocess.run(
            [sys.executable, "-m", "maskline", *shlex.split(line)[1:]], capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert "Traceback" not in done.stderr and "Warning" not in done.stderr, done.stderr
    results = json.loads(Path("output/train_results.json").read_text())
    evaluated = json.loads(Path("output/evaluate_result.json").read_text())
    assert results["done_flag"] and evaluated["done_flag"] and results["labels"] == ["cat", "dog"]
    assert evaluated["metrics"]["AP"] == pytest.approx(results["models"]["best"]["score"], abs=0.02)
    assert Path("output/evaluate/report.html").is_file() and Path("found/photo_res.json").is_file()
    assert Path("last_epoch/inference.onnx").is_file() and len(list(Path("found/labelme").glob("*.json"))) == 8
    program, client = shown("python")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("["), done.stderr
    with service.running(*shlex.split(serve)[1:]) as running:
        for command in (["bash", "-c", ask], [sys.executable, "-c", client]):
            command[-1] = command[-1].replace("http://127.0.0.1:8080", running.url)
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    assert json.loads(Path("answer.json").read_text())["errorCode"] == 0 and done.stdout.startswith("[")
    assert imread("found.jpg").shape == imread("photo.jpg").shape
    text = Path("my_pipeline.yaml").read_text().replace("Mask-RT-DETR-S", "PP-YOLOE_seg-N")
    Path("my_pipeline.yaml").write_text(text.replace("model_dir: null", "model_dir: output/best_model/inference"))
    line = "--pipeline my_pipeline.yaml --input photo.jpg --save_path as_pipeline"
    subprocess.run([sys.executable, "-m", "maskline", *line.split()], capture_output=True, check=True)
    assert Path("as_pipeline/photo_res.json").is_file()
