"""The model that is part of the package: it is there, small, says what it is, and does what its card says."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

from maskline import catalog, create_model, hub
from maskline.evaluate import evaluate_model, load_split
from maskline.exporting.formats import IR_VERSION
from maskline.inputs import read_image
from maskline.weights.load import labels_in_file, load_network

IMAGE = hub.EMBEDDED.parent / "nuclei.png"
NUCLEI = Path(__file__).parents[2] / "shared" / "data" / "nuclei"
CARD = (hub.EMBEDDED / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_it_is_used_where_no_model_is_named() -> None:
    found = [next(create_model(name, device="cpu").predict(IMAGE)) for name in (None, "embedded", "PP-YOLOE_seg-N")]
    assert [len(result.instances) for result in found] == [len(found[0].instances)] * 3
    assert 21 <= len(found[0].instances) <= 27  # 24 by the data set's word
    assert {box["label"] for box in found[0]["boxes"]} == {"nucleus"}
    assert found[0].instances.outside.max() == 0


def test_it_is_small_and_says_what_it_is() -> None:
    graph = hub.EMBEDDED / "inference.onnx"
    assert graph.stat().st_size < 8e6
    row, model = catalog.get("PP-YOLOE_seg-N"), create_model("embedded", device="cpu")
    assert row.ours and model.model_name == row.name and model.labels == ("nucleus",)
    assert row.size_mb == pytest.approx(graph.stat().st_size / 1e6, abs=0.05)
    assert onnx.load(graph, load_external_data=False).ir_version == IR_VERSION
    assert not list(Path(hub.EMBEDDED).glob("*.tmp"))


def test_training_can_start_from_it() -> None:
    path = hub.weights_file(catalog.get("PP-YOLOE_seg-N"))
    assert labels_in_file(path) == ("nucleus",) and load_network("PP-YOLOE_seg-N", path).num_classes == 1


def test_it_takes_images_of_any_shape() -> None:
    model, image = create_model(device="cpu"), read_image(IMAGE)
    found = [len(r.instances) for r in model.predict([image[:, :100], image[:30], image[:64, :64]], batch_size=3)]
    alone = [len(next(model.predict(p)).instances) for p in (image[:, :100], image[:30], image[:64, :64])]
    assert found == alone and found[0] > 0


@pytest.mark.slow
@pytest.mark.skipif(not NUCLEI.exists(), reason="the data set is not here")
@pytest.mark.parametrize("most", [100, 300])
def test_its_figures_are_those_of_its_card(most: int) -> None:
    row = re.search(rf"^\| {most} .*?\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", CARD, re.M)
    assert row is not None
    found = evaluate_model(create_model(device="cpu"), load_split(NUCLEI), max_detections=most).metrics
    assert [found[name] for name in ("AP", "AP50", "AP75")] == pytest.approx([float(v) for v in row.groups()], abs=2e-3)
