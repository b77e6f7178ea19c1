"""PaddleX's command line, as its documents write it, with nothing changed but the name of the program."""

from __future__ import annotations

import ast
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from maskline import __version__, cli
from maskline.errors import UnknownNameError
from maskline.paddlex.reference import PIPELINE_YAML

ROOT = Path(__file__).parents[2]
LOW = "--threshold 0.3"  # the tiny network is sure of nothing


def run(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "maskline", *shlex.split(line)]
    environment = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment)


def results(line: str) -> list[dict[str, Any]]:
    """What is printed, a result on each line."""
    done = run(line)
    assert done.returncode == 0, done.stderr
    return [ast.literal_eval(text)["res"] for text in done.stdout.splitlines()]


def count(line: str) -> int:
    (result,) = results(line)
    return len(result["boxes"])


def test_one_result_is_printed(place: Path) -> None:
    """F01, F27, B07, B08: on standard output, in plain numbers."""
    (result,) = results("--pipeline instance_segmentation --input photo.jpg --device cpu " + LOW)
    assert list(result) == ["input_path", "page_index", "boxes", "masks"] and result["masks"] == "..."
    assert result["input_path"] == "photo.jpg" and result["page_index"] is None and result["boxes"]


def test_threshold(place: Path) -> None:
    """F02: fewer above a higher one; none given is the model's own, which is 0.6 for this one."""
    start = "--pipeline instance_segmentation --input photo.jpg "
    assert count(start + "--threshold 0.3") > count(start + "--threshold 0.72") > count(start + "--threshold 0.9")
    assert count(start) == count(start + "--threshold 0.6") == 12


def test_saving(place: Path) -> None:
    """F03: with --save_path and only then."""
    before = set(place.iterdir())
    run("--pipeline instance_segmentation --input photo.jpg")
    assert set(place.iterdir()) == before
    run("--pipeline instance_segmentation --input photo.jpg --save_path ./output")
    assert sorted(path.name for path in (place / "output").iterdir()) == ["photo_res.jpg", "photo_res.json"]


def test_the_pipeline_s_file(place: Path) -> None:
    """F04, F05, F06, B64: written without a question; predicts; an existing one is kept, and that is an error."""
    done = run("--get_pipeline_config instance_segmentation --save_path ./configs")
    path = place / "configs" / "instance_segmentation.yaml"
    assert done.stdout == f"The pipeline config has been saved to: {Path('configs', path.name)}\n"
    assert path.read_text() == PIPELINE_YAML
    assert run("--get_pipeline_config instance_segmentation").returncode == 0
    assert (place / path.name).read_text() == PIPELINE_YAML
    path.write_text("mine")
    again = run("--get_pipeline_config instance_segmentation --save_path configs/instance_segmentation.yaml")
    assert again.returncode == 1 and again.stderr.count("\n") == 1 and "--force" in again.stderr
    assert path.read_text() == "mine"
    run("--get_pipeline_config instance_segmentation --save_path configs --force")
    assert path.read_text() == PIPELINE_YAML
    assert count(f"--pipeline ./{path.name} --input photo.jpg {LOW}") > 0


def test_options_win_over_the_file(place: Path) -> None:
    """F07, F09, B65: also over an old file, whose input is what is predicted by default."""
    Path("old.yaml").write_text(
        "Global:\n  pipeline_name: instance_segmentation\n  input: photo.jpg\n"
        "Pipeline:\n  model: Mask-RT-DETR-S\n  batch_size: 1\n  device: npu\n"
    )
    done = run("--pipeline old.yaml")
    assert done.returncode == 0 and "'npu:0' is not available" in done.stderr and "using the CPU" in done.stderr
    assert "not available" not in run("--pipeline old.yaml --device cpu --quiet").stderr
    assert count(f"--pipeline old.yaml --device cpu {LOW}") > 0
    Path("new.yaml").write_text(PIPELINE_YAML.replace("threshold: 0.5", "threshold: 0.99"))
    assert count("--pipeline new.yaml --input photo.jpg") == 0
    assert count(f"--pipeline new.yaml --input photo.jpg {LOW}") > 0


def test_the_model_may_be_named_in_addition_to_the_pipeline(place: Path) -> None:
    """F09: `--model` and `--model-dir` win over the file's; its own name keeps its folder."""
    Path("large.yaml").write_text(PIPELINE_YAML.replace("Mask-RT-DETR-S", "Mask-RT-DETR-L"))
    offline = run("--pipeline large.yaml --input photo.jpg")
    assert offline.returncode == 1 and "Mask-RT-DETR-L_pretrained.pdparams" in offline.stderr
    assert count(f"--pipeline large.yaml --model Mask-RT-DETR-S --input photo.jpg {LOW}") > 0
    assert count(f"--pipeline large.yaml --model-dir home/models/Mask-RT-DETR-S --input photo.jpg {LOW}") > 0
    other = run("--pipeline instance_segmentation --model Mask-RT-DETR-L --input photo.jpg")
    assert other.returncode == 1 and "Mask-RT-DETR-L_pretrained.pdparams" in other.stderr
    Path("mine.yaml").write_text(PIPELINE_YAML.replace("model_dir: null", "model_dir: nowhere"))
    assert "nowhere" in run("--pipeline mine.yaml --model Mask-RT-DETR-S --input photo.jpg").stderr


def test_without_a_gpu_the_documents_commands_succeed(place: Path) -> None:
    """F01, B52: a warning that says what to install, and the CPU; unless the environment forbids it."""
    line = "--pipeline instance_segmentation --input photo.jpg --device gpu:0 --quiet"
    job = "-c Mask-RT-DETR-S -o Global.mode=predict -o Predict.model_dir=None -o Predict.input=photo.jpg"
    for command in (line, f"{job} -o Global.device=gpu:0,1,2,3"):
        done = run(command)
        messages = [text for text in done.stderr.splitlines() if "not available" in text]
        assert done.returncode == 0 and len(messages) == 1, done.stderr
        assert "'gpu:0' is not available" in messages[0] and "pip install 'maskline[gpu]'" in messages[0]
        assert messages[0].endswith("; using the CPU")
    done = run(line, MASKLINE_DEVICE_FALLBACK="0")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "MASKLINE_DEVICE_FALLBACK=1" in done.stderr


def test_serving_has_one_list_of_options() -> None:
    """F38: all that `maskline serve` has, `maskline --serve` has, with the same help but for other defaults."""
    serve = cli.cli.commands["serve"]

    def helps(command: click.Command) -> dict[tuple[str, ...], str]:
        with click.Context(command) as context:
            records = {tuple(p.opts): p.get_help_record(context) for p in command.params}
        return {opts: record[1].partition(" Default: ")[0] for opts, record in records.items() if record}

    there = helps(cli.cli)
    missing = [opts for opts, text in helps(serve).items() if there.get(opts) != text]
    assert len(serve.params) > 20 and missing == []
    for parameter in serve.params:
        assert isinstance(parameter, click.Option)
        values = {"--api-key-file": __file__, "--cors": "*", "--engine-config": "{}", "--hpi-config": "{}"}
        value = [] if parameter.is_flag else [values.get(parameter.opts[0], "1")]
        with pytest.raises(UnknownNameError, match="unknown pipeline 'OCR'"):  # only that is wrong
            cli.cli.main(["--serve", parameter.opts[0], *value, "--pipeline", "OCR"], standalone_mode=False)


def test_acceleration_is_accepted(place: Path) -> None:
    """F13, F52: with and without, the same is found."""
    start = f"--pipeline instance_segmentation --input photo.jpg {LOW} "
    plain = results(start)
    for options in ("--use_hpip", """--use_hpip --hpi_config '{"backend": "onnxruntime"}'""", "--engine onnxruntime"):
        found = results(start + options)
        assert [box["label"] for box in found[0]["boxes"]] == [box["label"] for box in plain[0]["boxes"]]


@pytest.mark.parametrize(
    ("line", "code", "messages"),
    [
        ("--pipeline instance_segmentation", 2, "--input is missing"),
        ("--input photo.jpg", 2, "--input needs --pipeline"),
        ("--pipeline object_detection --input photo.jpg", 2, "unknown pipeline"),
        ("--pipeline none.yaml --input photo.jpg", 1, "no configuration file none.yaml"),
        ("--pipeline instance_segmentation --input none.jpg", 1, "none.jpg"),
        ("--pipeline instance_segmentation --input photo.jpg --threshold 2", 2, "--threshold is 2: expected"),
        ("--pipeline instance_segmentation --input photo.jpg --workers 2", 2, "--workers goes with --serve"),
        ("predict photo.jpg --model Mask-RT-DETR-S --device gpu:0", 1, "pip install 'maskline[gpu]'"),
        ("--get_pipeline_config OCR", 2, "unknown pipeline 'OCR'"),
        ("--device cpu predict photo.jpg", 2, "give it after predict"),
        ("--pipeline instance_segmentation --input photo.jpg --hpi_config 3", 2, "expected a mapping"),
        ("--pipeline instance_segmentation --inputs photo.jpg", 2, "No such option '--inputs'"),
        ("-c SOLOv2 --device cpu -o Global.mode=predict", 2, "--device does not go with -c"),
        ("--get_pipeline_config instance_segmentation --input photo.jpg", 2, "--input does not go with"),
        ("--pipeline instance_segmentation --input photo.jpg --save_path ''", 2, "save_path is empty"),
    ],
)
def test_errors_are_one_line(line: str, code: int, messages: str, place: Path) -> None:
    """B63: never with exit code 0."""
    done = run(line)
    assert done.returncode == code and messages in done.stderr and done.stdout == "", done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("maskline: ")


def test_wrong_values_are_reported_before_a_model_is_fetched(tmp_path: Path) -> None:
    """B63: the tests are offline, and no model is in the cache."""
    for options in ("--device foo", "--threshold 2", "--batch-size 0", "--engine foo"):
        done = run(f"--pipeline instance_segmentation --input photo.jpg {options}")
        assert done.returncode == 2 and "download" not in done.stderr, done.stderr


def test_help_and_version() -> None:
    """B63: --help lists --threshold; there is --version; nothing at all is help, and an error."""
    text = run("--pipeline instance_segmentation --help").stdout
    assert "--threshold" in text and "--hpi-config" in text
    assert f"version {__version__}" in run("--version").stdout
    assert run("").returncode == 2 and "Usage" in run("").stderr  # all of it


def test_what_is_without_effect_here_is_reported() -> None:
    """F52: the documents' installation goes through."""
    done = run("--install hpi-cpu")
    assert done.returncode == 0 and "maskline[openvino]" in done.stderr


def test_every_spelling(place: Path) -> None:
    """F01: underscores or hyphens, before and after a command."""
    assert run(f"--pipeline instance_segmentation --input photo.jpg {LOW} --quiet --grow-boxes").stdout == ""
    a = results(f"--pipeline instance_segmentation --input photo.jpg --batch_size 1 {LOW}")
    assert a == results(f"--pipeline instance_segmentation --input photo.jpg --batch-size 1 {LOW}")
    assert a == results(f"predict photo.jpg --model_dir home/models/Mask-RT-DETR-S --save_path out {LOW}")


def test_jobs_without_main_py(place: Path) -> None:
    """F55, F77: maskline -c is main.py -c."""
    done = run(
        "-c paddlex/configs/instance_segmentation/SOLOv2.yaml -o Global.mode=check_dataset -o Global.dataset_dir=x"
    )
    assert done.returncode == 1 and "x" in done.stderr and "Traceback" not in done.stderr
    assert json.loads((place / "output" / "check_dataset_result.json").read_text())["done_flag"] is False
    main = [sys.executable, str(ROOT / "main.py"), "-c", "SOLOv2", "-o", "Global.mode=check_dataset"]
    assert subprocess.run(main, capture_output=True).returncode == 1


def test_configurations_to_start_from(place: Path) -> None:
    """F26, F74: of each model, as YAML that runs."""
    text = run("config solov2").stdout
    assert "model: SOLOv2" in text
    assert run("config SOLOv2 --save-path mine.yaml").returncode == 0 and Path("mine.yaml").read_text() == text
    assert run("config SOLOv2 --save-path mine.yaml").returncode == 1
    assert run("config instance_segmentation").stdout == PIPELINE_YAML
    assert "did you mean 'SOLOv2'" in run("config SOLO2").stderr
