"""The command line: what it prints and writes, and one clear line for every error."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from fixtures import sets
from fixtures.closed import close
from fixtures.narrow import imread
from fixtures.tiffs import noise, tiff

import maskline
from maskline import catalog
from maskline.cli import main

PHOTO = Path(maskline.__file__).with_name("assets") / "fruit.jpg"


def run(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "maskline", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | environment)


def test_predict_prints_and_saves(tiny_model_dir: Path, tmp_path: Path) -> None:
    """B70: and says at the end how much there was."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(PHOTO, folder / "a.jpg")
    cv2.imwrite(str(folder / "deep" / "b.png"), np.full((80, 120, 3), 99, np.uint8))
    done = run("predict", folder, PHOTO, "--model-dir", tiny_model_dir, "--threshold", 0.55, "--batch-size", 2,
               "--save-path", tmp_path / "out")  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [eval(line, {"__builtins__": {}}) for line in done.stdout.splitlines()]  # plain literals only
    assert [Path(line["res"]["input_path"]).name for line in lines] == ["a.jpg", "b.png", "fruit.jpg"]
    assert all(box["score"] > 0.55 for line in lines for box in line["res"]["boxes"])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a_res.jpg", "a_res.json", "b_res.json", "b_res.png", "fruit_res.jpg", "fruit_res.json",
    ]  # fmt: skip
    saved = json.loads((tmp_path / "out" / "a_res.json").read_text())
    assert saved["boxes"] == lines[0]["res"]["boxes"] and len(saved["masks"]) == len(saved["boxes"])
    assert imread(tmp_path / "out" / "a_res.jpg").shape == (480, 640, 3)
    assert f"images: 3, instances: {sum(len(line['res']['boxes']) for line in lines)}" in done.stderr


def test_holes_are_kept_for_labelme_and_counted_where_polygons_lose_them(tiny_model_dir: Path, tmp_path: Path) -> None:
    run_once = ("predict", PHOTO, "--model-dir", tiny_model_dir, "--quiet", "--save-path")
    exact = run(*run_once, tmp_path / "exact", "--export", "labelme", "--mask-format", "polygon")
    (sheet,) = (tmp_path / "exact" / "labelme").glob("*.json")
    shapes = json.loads(sheet.read_text())["shapes"]
    holes = sum(shape["shape_type"] == "mask" for shape in shapes)
    assert holes == 1 and "\nholes of 1 mask were filled in the JSON; --mask-format rle keeps them\n" in exact.stderr
    simple = run(*run_once, tmp_path / "simple", "--export", "labelme", "--mask-format", "rle", "--simplify", 1)
    fewer = json.loads((tmp_path / "simple" / "labelme" / sheet.name).read_text())["shapes"]
    assert simple.returncode == 0 and "\nholes:" not in simple.stderr
    assert [shape["shape_type"] for shape in fewer] == [shape["shape_type"] for shape in shapes]
    assert sum(len(shape["points"]) for shape in fewer) < sum(len(shape["points"]) for shape in shapes) / 2


def test_nothing_is_saved_unless_asked(tiny_model_dir: Path, tmp_path: Path) -> None:
    """F03."""
    done = run("predict", PHOTO, "--model-dir", tiny_model_dir, "--threshold", 0.9999, "--quiet", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == "" and not list(tmp_path.iterdir())


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    folder = tmp_path / "bad"
    (folder / "empty").mkdir(parents=True)
    (folder / "text.png").write_text("not an image")
    (folder / "cut.jpg").write_bytes(PHOTO.read_bytes()[:20_000])
    (folder / "nothing.jpg").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["{bad}/missing.jpg"], "missing.jpg", 1),
        (["{bad}/text.png"], "text.png", 1),
        (["{bad}/cut.jpg"], "cut.jpg", 1),
        (["{bad}/nothing.jpg"], "nothing.jpg", 1),
        (["{bad}/empty"], "empty", 1),
        (["{bad}/" + "x" * 300 + ".jpg"], f"...{'x' * 84}.jpg': no such file or folder", 1),
        (["{photo}", "--threshold", "2"], "--threshold is 2: expected a number from 0 to 1", 2),
        (["{photo}", "--device", "gpu:0"], "device 'gpu:0' is not available", 1),
        (["{photo}", "--device", "tpu"], "unknown device 'tpu'", 2),
        (["{photo}", "--batch-size", "0"], "--batch-size is 0: expected an integer", 2),
        (["{photo}", "--simplify", "1"], "--simplify applies only to --export labelme", 2),
        (
            ["{photo}", "--export", "labelme", "--simplify", "-1"],
            "--simplify is -1: expected a number from 0 to 1000",
            2,
        ),
        (["{photo}", "--export", "labelme", "--simplify", "1e30"], "--simplify is 1e+30: expected a number from 0", 2),
        (
            ["{photo}", "--mask-format", "rl"],
            "unknown --mask-format 'rl': did you mean 'rle'? known: list, rle, pol",
            2,
        ),
        (["{photo}", "--threshold", "abc"], "'abc' is not a valid float; see `python -m maskline predict --help`", 2),
        (["{photo}", "--threads", "0"], "--threads is 0: expected an integer", 2),
        (["{photo}", "--model", "Mask-RT-DETR-Q"], "unknown model 'Mask-RT-DETR-Q': did you mean 'Mask-RT-DETR-", 2),
        (["{photo}", "--model", "SOLOv2", "--model-dir", "{model}"], "holds Mask-RT-DETR-S, not SOLOv2", 1),
        (["{photo}", "--model-dir", "{bad}/nowhere"], "no model directory", 1),
    ],
)
def test_bad_input_gives_one_line(
    arguments: list[str], message: str, code: int, bad: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    filled = [a.format(bad=bad, photo=PHOTO, model=tiny_model_dir) for a in arguments]
    if "--model-dir" not in filled and "--model" not in filled:
        filled += ["--model-dir", str(tiny_model_dir)]
    done = run("predict", *filled, "--save-path", tmp_path / "out")
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("maskline: ") and message in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


def test_a_damaged_model_gives_one_line(tiny_model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    whole = (tmp_path / "model" / "inference.onnx").read_bytes()
    (tmp_path / "model" / "inference.onnx").write_bytes(whole[: len(whole) // 3])
    done = run("predict", PHOTO, "--model-dir", tmp_path / "model", "--save-path", tmp_path / "out")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "inference.onnx can't be opened" in done.stderr
    assert not (tmp_path / "out").exists()


def test_bad_files_can_be_skipped(bad: Path, tiny_model_dir: Path) -> None:
    """B20."""
    names = ("cut.jpg", "nothing.jpg", "missing.jpg", "text.png")
    done = run(
        "predict", PHOTO, *(bad / n for n in (*names, "cut.jpg")), "--model-dir", tiny_model_dir, "--skip-errors"
    )
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1
    assert all(name in done.stderr for name in names)
    message = "5 inputs could not be read: 2 damaged, 1 empty, 1 missing, 1 not supported"
    assert re.search(rf"^images: 1, instances: \d+; {message}$", done.stderr, re.MULTILINE)


def test_files_that_are_not_predicted_are_counted(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(PHOTO, folder / "a.jfif")
    for name in ("._a.jfif", "b.HEIC", "c.heic", "d.gif", "e.mp4", "notes.txt"):
        (folder / name).write_bytes(b"whatever it is")
    done = run("predict", folder, "--model-dir", tiny_model_dir, "--quiet")
    message = "4 files were not predicted: 2 .heic, 1 .gif, 1 .mp4"
    assert done.returncode == 0 and done.stdout == ""
    warning, closing, *_ = done.stderr.splitlines()
    assert warning.startswith(f"maskline: {str(folder)!r}: {message} (")
    assert re.fullmatch(rf"images: 1, instances: \d+; {message}", closing)


def test_pillow_says_nothing(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Neither by its log nor by its warnings."""
    (tmp_path / "bands.tif").write_bytes(tiff((noise(6, 7, 8), {})))
    data = bytearray(tiff((noise(6, 7, 3), {})))
    entry = data.index(struct.pack("<HHI", 256, 4, 1))
    struct.pack_into("<HHI", data, entry, 256, 4, 2)  # two widths
    struct.pack_into("<I", data, entry + 8, len(data))
    (tmp_path / "odd.tif").write_bytes(bytes(data) + struct.pack("<II", 7, 7))
    bands, odd = (run("predict", tmp_path / name, "--model-dir", tiny_model_dir) for name in ("bands.tif", "odd.tif"))
    assert bands.returncode == 1 and bands.stderr.count("\n") == 1
    assert "bands.tif': 8 channels: expected 1, 3 or 4" in bands.stderr
    assert odd.returncode == 0 and odd.stderr.splitlines()[0].startswith("images: 1")


def test_long_names_end_no_run(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for ending in ("ab", "cd"):
        cv2.imwrite(str(folder / f"{'x' * 249}{ending}.jpg"), np.full((80, 120, 3), 99, np.uint8))
    (folder / f"{'图' * 83}.tif").write_bytes(tiff((noise(60, 70, 3), {}), (noise(60, 70, 3), {})))
    done = run("predict", folder, "--model-dir", tiny_model_dir, "--save-path", out, "--quiet",
               "--export", "coco,coco-results,labelme,csv")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(out.glob("*_res.*"))) == 8 and len(list((out / "labelme").iterdir())) == 8
    assert {"coco.json", "coco_results.json", "instances.csv"} < {path.name for path in out.iterdir()}
    names = [record["file_name"] for record in json.loads((out / "coco.json").read_text())["images"]]
    assert len(set(names)) == 4


@pytest.mark.parametrize("skip", [True, False])
def test_a_folder_that_can_t_be_listed_is_reported(
    skip: bool,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("a.jpg", "locked/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PHOTO, tmp_path / name)
    close(monkeypatch, "locked")
    command = ["predict", str(tmp_path), "--model-dir", str(tiny_model_dir), "--quiet"]
    message = f"folder '{tmp_path / 'locked'}' can't be listed: Permission denied"
    if skip:
        main([*command, "--skip-errors"])
        counts = r"^images: 1, instances: \d+; 1 input could not be read: 1 not accessible$"
        assert re.search(counts, capsys.readouterr().err, re.MULTILINE) and f"skipped: {message}" in caplog.messages
    else:
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 1 and capsys.readouterr().err.splitlines()[-1] == f"maskline: {message}"


def test_nothing_readable_is_an_error_even_when_skipping(bad: Path, tiny_model_dir: Path) -> None:
    done = run("predict", bad / "text.png", "--model-dir", tiny_model_dir, "--skip-errors")
    assert done.returncode == 1 and "nothing was predicted: 1 input could not be read: 1 not supported" in done.stderr


@pytest.mark.parametrize("target", ["{photo}", "{photo}/sub", "{out}/image.jpg"])
def test_a_useless_save_path_is_reported_before_anything_runs(
    target: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    where = target.format(photo=PHOTO, out=tmp_path)
    done = run("predict", PHOTO, "--model-dir", tiny_model_dir, "--save-path", where)
    assert done.returncode in (1, 2) and done.stdout == "" and "Traceback" not in done.stderr


def test_a_full_disk_behind_standard_output(tiny_model_dir: Path) -> None:
    command = [sys.executable, "-m", "maskline", "predict", str(PHOTO), "--model-dir", str(tiny_model_dir)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "can't write to standard output" in done.stderr and "Traceback" not in done.stderr


def test_standard_output_is_no_longer_read() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "maskline", "models"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("Matplotlib requires access to a writable cache directory"), None),
        (OSError(errno.ENOSPC, "No space left on device"), "[Errno 28] No space left on device"),
        (OSError(errno.ENOENT, "No such file or directory", "a.jpg"), "'a.jpg': No such file or directory"),
    ],
)
def test_an_error_of_a_library_is_not_one_of_standard_output(
    error: OSError, message: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**options: object) -> str:
        raise error

    monkeypatch.setattr(catalog, "markdown_table", fail)
    with pytest.raises(SystemExit) as ended:
        main(["models"])
    assert ended.value.code == 1 and capsys.readouterr().err == f"maskline: {message or error}\n"


def test_devices_and_pipes_are_not_images(tiny_model_dir: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.jpg"):
        done = run("predict", tmp_path / name, "--model-dir", tiny_model_dir)
        assert done.returncode == 1 and "is a device or pipe" in done.stderr, done.stderr


def test_masks_can_be_saved_as_run_lengths(tiny_model_dir: Path, tmp_path: Path) -> None:
    done = run("predict", PHOTO, "--model-dir", tiny_model_dir, "--save-path", tmp_path, "--mask-format", "rle")
    assert done.returncode == 0
    masks = json.loads((tmp_path / "fruit_res.json").read_text())["masks"]
    assert masks and all(mask["size"] == [480, 640] for mask in masks)


def test_weights_of_another_model(pdparams: Path, tmp_path: Path) -> None:
    done = run("export", "Mask-RT-DETR-L", "--weights", pdparams, "--output", tmp_path / "out")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    first = next(line for line in done.stderr.splitlines() if "does not fit" in line)
    assert "these are the weights of Mask-RT-DETR-S" in first
    kinds = {line.split(":")[0].strip() for line in done.stderr.splitlines() if line.startswith("  ")}
    assert kinds == {"missing", "unexpected", "misshapen"}
    assert not (tmp_path / "out").exists()


def test_offline_the_official_model_says_what_to_do(tmp_path: Path) -> None:
    """F76."""
    done = run("predict", PHOTO, "--model", "Mask-RT-DETR-S", MASKLINE_HOME=str(tmp_path), MASKLINE_OFFLINE="1")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert (
        "https://" in done.stderr
        and "Mask-RT-DETR-S_pretrained.pdparams" in done.stderr
        and str(tmp_path) in done.stderr
    )


def test_models_prints_the_table() -> None:
    """F71: with what the figures are from, and the addresses where they are asked for."""
    plain, linked = run("models"), run("models", "--links")
    for done in (plain, linked):
        assert done.returncode == 0 and "| Mask-RT-DETR-H | Mask-RT-DETR | 50.6 | 180.83 / 180.83 |" in done.stdout
        assert "documents of 3.0.3" in done.stdout and "NVIDIA T4" in done.stdout and "Xeon Gold 6271C" in done.stdout
    assert "https" not in plain.stdout and linked.stdout.count("_pretrained.pdparams") == 15


def test_the_note_on_the_embedded_model_waits_for_the_options() -> None:
    note = "no --model given: using the embedded one"
    wrong, right = run("predict", PHOTO, "--engine", "tensor"), run("predict", PHOTO, "--quiet")
    assert wrong.returncode == 2 and note not in wrong.stderr and right.returncode == 0 and note in right.stderr


def test_usage_errors_and_help() -> None:
    assert run().returncode == 2
    assert run("predict").returncode == 2
    assert run("predikt").returncode == 2
    assert "--threshold" in run("predict", "--help").stdout
    assert maskline.__version__ in run("--version").stdout


def test_weights_that_torch_runs_take_no_options_of_runtimes(tmp_path: Path) -> None:
    data = sets.make(tmp_path / "data", train=1, val=1)
    for option in (("--engine", "openvino"), ("--batch-size", 2), ("--threads", 1)):
        done = run("evaluate", data, "--model", "SOLOv2", "--weights", "x.safetensors", *option, cwd=tmp_path)
        assert done.returncode == 2 and "the only runtime option it accepts is --device" in done.stderr, done.stderr
