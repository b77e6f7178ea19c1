"""What the documents show works: their Python blocks and `maskline predict` lines are run as they stand."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import maskline

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PHOTO = Path(maskline.__file__).with_name("assets") / "fruit.jpg"


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for path in DOCUMENTS:
        for i, block in enumerate(re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.S)):
            found.append((f"{path.name}-{i}", block))
    return found


@pytest.fixture
def workplace(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files and models that the documents speak of, with tiny models in the place of the official ones."""
    for name in ("S", "L"):
        folder = tmp_path / "models" / name
        shutil.copytree(tiny_model_dir, folder)
        model = onnx.load(folder / "inference.onnx")
        record = json.loads(model.metadata_props[0].value) | {"model": f"Mask-RT-DETR-{name}"}
        model.metadata_props[0].value = json.dumps(record)
        onnx.save(model, folder / "inference.onnx")
    shutil.copytree(tmp_path / "models" / "S", tmp_path / "home" / "models" / "Mask-RT-DETR-S")
    (tmp_path / "folder").mkdir()
    for target in ("photo.jpg", "folder/photo.jpg"):
        shutil.copy(PHOTO, tmp_path / target)
    (tmp_path / "my_pipeline.yaml").write_text("pipeline_name: instance_segmentation\n")
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", [b for _, b in blocks("python")], ids=[n for n, _ in blocks("python")])
def test_python_blocks_run(block: str, workplace: Path) -> None:
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, cwd=workplace)
    assert done.returncode == 0, done.stderr


def predict_lines() -> list[str]:
    lines = [line.split("#")[0].strip() for _, block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("maskline predict")]


@pytest.mark.parametrize("line", predict_lines())
def test_predict_lines_run(line: str, workplace: Path) -> None:
    command = [sys.executable, "-m", "maskline.cli", *shlex.split(line)[1:]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert (workplace / "output" / "photo_res.json").exists()


def test_documents_have_such_blocks() -> None:
    assert len(blocks("python")) >= 2 and predict_lines()


def test_links_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            assert link.startswith("http") or (path.parent / link).exists(), f"{path.name}: {link}"


def test_cli_options_are_documented() -> None:
    from maskline.cli import predict

    text = (ROOT / "docs" / "predict.md").read_text(encoding="utf-8")
    assert not [
        o.opts[0]
        for o in predict.params
        if o.opts[0].startswith("--") and f"[{o.opts[0]}" not in text.replace("| ", "[")
    ]
