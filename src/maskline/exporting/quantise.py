"""Static int8 quantisation of convolutions: calibrated activation ranges, per-channel weight scales.

The layers after the last maps, up to boxes and scores, stay in float32: they are cheap and sensitive.
Jacob et al., *Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference* (2018).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy.typing as npt

from maskline import __version__
from maskline.errors import InputError
from maskline.exporting.formats import IR_VERSION, fold
from maskline.runtime import providers
from maskline.runtime.backend import INPUT
from maskline.runtime.graph import RECORD_KEY, Record

QUANTISED = ("Conv",)  # node types


def quantise(source: Path, record: Record, batches: Iterable[npt.NDArray[Any]], path: Path) -> None:
    """Quantise the convolutions of an ``.onnx`` file to int8, in QDQ format.

    Args:
        batches: representative inputs (B, H, W, 3) of the graph; some dozens suffice.

    Raises:
        InputError: there are no inputs.
    """
    library = providers.library("onnxruntime.quantization")
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise InputError("none of the images to calibrate with can be read: give a folder with dozens of images")
    with tempfile.TemporaryDirectory(prefix="maskline-") as scratch, _quiet():
        plain = Path(scratch, "plain.onnx")
        fold(source, plain)
        library.quantize_static(
            str(plain),
            str(path),
            _Reader(chain([first], batches)),
            quant_format=library.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            activation_type=library.QuantType.QUInt8,
            weight_type=library.QuantType.QInt8,
        )
    _describe(path, record)


class _Reader:
    """ONNX Runtime's `CalibrationDataReader` over batches."""

    def __init__(self, batches: Iterable[npt.NDArray[Any]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        """Return the next input by name, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def _describe(path: Path, record: Record) -> None:
    """Set the metadata to the record alone."""
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    model.metadata_props.add(key=RECORD_KEY, value=record.to_json())
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "maskline", __version__
    onnx.checker.check_model(model)
    onnx.save(model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's advice, on the root logger, to fold first, which has been done."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
