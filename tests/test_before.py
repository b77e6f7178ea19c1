"""Files that earlier versions wrote still open; graphs and checkpoints have tests of their own (`fixtures.before`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fixtures import before, made

from maskline.evaluate.compare import compare
from maskline.paddlex import module
from maskline.paddlex.pipeline import PipelineConfig, load_pipeline


def test_detections_of_an_evaluation(tmp_path: Path) -> None:
    data = made.dataset(tmp_path, 5, images=4, most=4)
    done = compare(before.FOLDER / "detections" / "a.json", before.FOLDER / "detections" / "b.json", data, resamples=20)
    expected = json.loads((before.FOLDER / "detections" / "expected.json").read_text())
    assert {d.name: [d.a, d.b] for d in done.differences} == {k: pytest.approx(v) for k, v in expected.items()}


def test_a_pipeline_file() -> None:
    assert load_pipeline(before.FOLDER / "config" / "pipeline.yaml") == PipelineConfig(threshold=0.5)


def test_a_module_file() -> None:
    assert module.load(str(before.FOLDER / "config" / "module.yaml")) == module.load("PP-YOLOE_seg-N")
