"""Graphs without weights become the ONNX files that `onnx` would have written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from maskline.exporting.template import GraphTemplate, Step
from maskline.runtime.providers import library

WEIGHTS = {
    "wide": np.arange(300 * 2, dtype=np.float32).reshape(300, 2),
    "scalar": np.float32(3).reshape(()),
    "index": np.array([1, 0], np.int64),
    "none": np.zeros((0, 2), np.float32),
}


def template(steps: tuple[Step, ...] = (), weights: tuple[str, ...] = tuple(WEIGHTS)) -> GraphTemplate:
    """Rows of a weight, times a scalar, and an empty weight below them."""
    nodes = [
        helper.make_node("Gather", ["wide", "index"], ["rows"]),
        helper.make_node("Mul", ["rows", "scalar"], ["scaled"]),
        helper.make_node("Concat", ["scaled", "none", "x"], ["y"], axis=0),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2]) for name in "xy")
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    return GraphTemplate(model.SerializeToString(), weights, steps)


def run(path: Path) -> np.ndarray:
    session = library().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.full((1, 2), 7, np.float32)})
    return np.asarray(y)


def test_a_filled_template_is_a_complete_model(tmp_path: Path) -> None:
    template().write(tmp_path / "g.onnx", WEIGHTS, {"key": "välue" * 100, "other": ""})
    model = onnx.load(tmp_path / "g.onnx")
    onnx.checker.check_model(model, full_check=True)
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert list(arrays) == list(WEIGHTS)
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape
    assert {p.key: p.value for p in model.metadata_props} == {"key": "välue" * 100, "other": ""}
    np.testing.assert_array_equal(run(tmp_path / "g.onnx"), [[6, 9], [0, 3], [7, 7]])


def test_steps_change_arrays_in_their_order(tmp_path: Path) -> None:
    steps = (
        Step("split", "packed", ("first", "second"), (2, 300), axis=1),
        Step("transpose", "second", ("wide",), (1, 0)),
        Step("reshape", "one", ("scalar",), ()),
    )
    state = {
        "packed": np.concatenate([np.full((2, 2), -1, np.float32), WEIGHTS["wide"].T], axis=1),
        "one": np.array([3], np.float32),
        "index": WEIGHTS["index"],
        "none": WEIGHTS["none"],
    }
    template(steps).write(tmp_path / "g.onnx", state, {})
    np.testing.assert_array_equal(run(tmp_path / "g.onnx"), [[6, 9], [0, 3], [7, 7]])


def test_a_missing_weight_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="wide"):
        template().write(tmp_path / "g.onnx", {}, {})


def test_a_saved_template_comes_back_equal(tmp_path: Path) -> None:
    made = template((Step("split", "packed", ("first", "second"), (2, 300), axis=1),))
    made.save(tmp_path / "one.zip", {"model": "m", "numbers": [1, 2]})
    assert GraphTemplate.load(tmp_path / "one.zip") == (made, {"model": "m", "numbers": [1, 2]})
    made.save(tmp_path / "two.zip", {"model": "m", "numbers": [1, 2]})
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
