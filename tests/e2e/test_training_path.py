"""From pictures with LabelMe's annotations to a model that predicts, by the commands of docs/train.md."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sets

import maskline
from maskline.data.convert import convert

ROOT = Path(__file__).parents[2]
PHOTO = Path(maskline.__file__).with_name("assets") / "fruit.jpg"
QUICK = " --epochs 1 --batch-size 2 --workers 0"  # in place of a run worth its name


def commands() -> list[str]:
    """The first block of the document, a line each, without remarks."""
    text = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    block = re.findall(r"```bash\n(.*?)```", text, re.S)[0]
    return [line.split("#")[0].strip() for line in block.splitlines()]


@pytest.mark.slow
def test_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sets.make(tmp_path / "source", train=6, val=2)
    convert(tmp_path / "source", tmp_path / "my_labelme", "labelme")
    shutil.rmtree(tmp_path / "source")
    shutil.copy(PHOTO, "photo.jpg")
    lines = commands()
    assert [line.split()[1] for line in lines] == [
        "check", "convert", "split", "train", "evaluate", "predict", "export",
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
    assert Path("last_epoch/inference.onnx").is_file()
