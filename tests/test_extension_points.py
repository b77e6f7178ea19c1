"""What is meant to grow grows by a file and a line: each test adds a toy in place of that line, and nothing else."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from fixtures import sets

from maskline._options import Option
from maskline.cli.datasets import ConvertOptions
from maskline.cli.options import options, rows, table
from maskline.cli.predicting import Showing
from maskline.cli.running import Running
from maskline.data.convert import convert
from maskline.data.formats import FORMATS, FormatModule, voc
from maskline.data.options import DatasetOptions
from maskline.data.reading import read_dataset
from maskline.errors import ParameterError, UnknownNameError
from maskline.instances import Instances
from maskline.outputs.csv_table import CsvWriter
from maskline.outputs.formats import WRITERS, open_writers
from maskline.outputs.result import Result
from maskline.paddlex.module import ConvertSection, TrainSection
from maskline.paddlex.reference import keys
from maskline.runtime.acceleration import parse_acceleration
from maskline.runtime.backend import BACKENDS, Spec
from maskline.runtime.device import CPU
from maskline.runtime.graph import Graph
from maskline.runtime.onnxruntime_backend import OnnxRuntime
from maskline.training.settings import TrainSettings

NOTHING = Instances(
    np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), (), np.zeros(0, np.float32), (4, 4)
)


def module(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    """The new file."""
    new = ModuleType(name)
    vars(new).update(contents)
    monkeypatch.setitem(sys.modules, name, new)


def help_of(kind: type[Any]) -> str:
    """What a command with the options of a dataclass says of them, on one line."""

    @click.command()
    @options(kind, "given", dict)
    def command(given: dict[str, Any]) -> None: ...

    return " ".join(CliRunner().invoke(command, ["--help"], terminal_width=500).output.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class WithGrain(TrainSettings):
    """The settings of training with one field more; `TrainSection` inherits those that PaddleX's files may set."""

    grain: Annotated[float, Option("Film grain added to images.", least=0, most=1)] = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionWithGrain(TrainSection):
    """What `TrainSection` is once `TrainOptions` has that field."""

    grain: Annotated[float, Option("Film grain added to images.", least=0, most=1)] = 0.25


def test_a_training_option_is_a_line() -> None:
    """It is in the help, parsed, checked, in the tables of the documents and a key of the configuration."""

    @click.command()
    @options(WithGrain, "given", dict)
    def train(given: dict[str, Any]) -> None:
        print(WithGrain(model="SOLOv2", data=Path("x"), **given).grain)

    assert "--grain X Film grain added to images. Range: 0 to 1. Default: 0.25." in help_of(WithGrain)
    assert CliRunner().invoke(train, ["--grain", "0.5"]).output == "0.5\n"
    assert CliRunner().invoke(train, []).output == "0.25\n"
    message = "grain is 2: expected a number from 0 to 1"
    assert str(CliRunner().invoke(train, ["--grain", "2"]).exception) == f"--{message}"
    with pytest.raises(ParameterError, match=f"^{message}"):
        WithGrain(model="SOLOv2", data=Path("x"), grain=2.0)
    assert "| `--grain X` | 0.25 | Film grain added to images. Range: 0 to 1. |" in table(rows(train)).splitlines()
    (key,) = (key for key in keys(SectionWithGrain, "Train.") if key.name == "Train.grain")
    assert (key.default, key.kind.en, key.meaning.en) == (0.25, "number, 0 to 1", "film grain added to images")


def test_a_data_format_is_a_file_and_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is recognized, read, written, and named where formats are listed."""

    def detect(source: Any) -> list[str]:
        return ["toy.txt"] if (source.root / "toy.txt").is_file() else []

    def write(splits: Any, folder: Path) -> list[str]:
        (folder / "toy.txt").write_text("toy")
        return voc.write(splits, folder)

    module(monkeypatch, "maskline.data.formats.toy", TITLE="Toy", detect=detect, read=voc.read, write=write)
    monkeypatch.setitem(FORMATS, "toy", FormatModule("toy", writable=True))
    monkeypatch.delitem(FORMATS, "voc")
    convert(sets.make(tmp_path / "coco"), tmp_path / "toy", "toy")
    assert read_dataset(tmp_path / "toy").format == "toy"
    assert ConvertSection(enable=True, src_dataset_type="Toy").source() == "Toy"
    assert "kaggle, toy." in help_of(DatasetOptions) and "yolo, toy." in help_of(ConvertOptions)


class ToyWriter(CsvWriter):
    """Another name for CSV."""

    FILE_NAME = "toy.csv"


def test_an_output_format_is_a_file_and_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module(monkeypatch, "maskline.outputs.toy", ToyWriter=ToyWriter)
    with pytest.raises(UnknownNameError), open_writers(["toy"], tmp_path):
        pass
    monkeypatch.setitem(WRITERS, "toy", "toy.ToyWriter")
    with open_writers(["toy", "csv"], tmp_path) as writers:
        for writer in writers:
            writer.add(Result(NOTHING, ["cat"], np.zeros((4, 4, 3), np.uint8), "a.jpg"))
    assert (tmp_path / "toy.csv").read_bytes() == (tmp_path / "instances.csv").read_bytes()
    assert "csv, toy." in help_of(Showing)


def test_a_backend_is_a_file_and_a_line(monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path, tmp_path: Path) -> None:
    """It opens its files by default, and others where it is named."""
    opened: list[Path] = []

    def open_file(path: Path, device: Any, options: Any) -> OnnxRuntime:
        opened.append(path)
        return OnnxRuntime(path, device, options)

    module(monkeypatch, "maskline.runtime.toy_backend", open_file=open_file, problem=lambda device: None)
    with pytest.raises(UnknownNameError):
        parse_acceleration(engine="toy")
    monkeypatch.setitem(BACKENDS, "toy", Spec("Toy", "toy_backend", ("cpu",), (".toy", ".onnx"), ("fp32", "fp4")))
    model = Path(shutil.copy(tiny_model_dir / "inference.onnx", tmp_path / "model.toy"))
    assert Graph(model, CPU).backend == "toy" and opened == [model]
    fast = parse_acceleration(engine="toy", engine_config={"precision": "fp4"})
    assert Graph(tiny_model_dir / "inference.onnx", CPU, fast).backend == "toy"
    assert "om, toy." in help_of(Running)
