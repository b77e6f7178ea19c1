"""The installed wheel, in an environment of its own without torch, gives the results that this environment gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import maskline
from maskline import create_model

PHOTO = Path(maskline.__file__).with_name("assets") / "fruit.jpg"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with maskline from its wheel and only what that asks for."""
    folder = tmp_path_factory.mktemp("bare")
    python = folder / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--constraint"]
    done = subprocess.run([*install, ROOT / "constraints.txt", ROOT], capture_output=True, text=True, cwd=folder)
    if done.returncode and ("No matching distribution" in done.stderr or "connection" in done.stderr.lower()):
        pytest.skip(f"no package index within reach: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return python


def run(python: Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run([python, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.mark.slow
def test_same_results_without_torch(bare_python: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    assert run(bare_python, "-c", "import torch", cwd=tmp_path).returncode == 1
    arguments = ["-m", "maskline", "predict", PHOTO, "--model-dir", tiny_model_dir, "--threshold", 0.3]
    done = run(bare_python, *arguments, "--save-path", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    here = next(create_model(model_dir=tiny_model_dir, threshold=0.3).predict(str(PHOTO)))
    there = json.loads((tmp_path / "out" / "fruit_res.json").read_text())
    assert len(there["boxes"]) > 3
    assert there == json.loads(json.dumps(here.json["res"]))
    assert here.save_to_img(tmp_path / "here").read_bytes() == (tmp_path / "out" / "fruit_res.jpg").read_bytes()


@pytest.mark.slow
def test_an_official_model_by_name(
    bare_python: Path, pdparams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its weights in the cache, as after the download."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / pdparams.name).symlink_to(pdparams)
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path))
    arguments = ["-m", "maskline", "predict", PHOTO, "--model", "Mask-RT-DETR-S", "--threshold", 0.3]
    done = run(bare_python, *arguments, "--save-path", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    there = json.loads((tmp_path / "out" / "fruit_res.json").read_text())
    (here,) = create_model("Mask-RT-DETR-S", threshold=0.3).predict(str(PHOTO))
    assert len(there["boxes"]) > 0 and there == json.loads(json.dumps(here.json["res"]))


@pytest.mark.slow
def test_what_needs_torch_says_so(bare_python: Path, pdparams: Path, tmp_path: Path) -> None:
    arguments = ["-m", "maskline", "export", "Mask-RT-DETR-S", "--weights", pdparams, "--batch", "1", "--output", "x"]
    done = run(bare_python, *arguments, cwd=tmp_path)
    assert done.returncode == 1 and "pip install 'maskline[train]'" in done.stderr and done.stderr.count("\n") <= 2
    assert "Traceback" not in done.stderr
