"""The program of `examples/cpp`: built here, it finds what Python finds."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from fixtures import tiny
from fixtures.embedded import twice
from fixtures.narrow import imread

from maskline import create_model, hub
from maskline.exporting import ExportOptions, export_network

EXAMPLE = Path(__file__).parents[2] / "examples" / "cpp"
ASSETS = hub.EMBEDDED.parent
OPENVINO = find_spec("openvino")
pytestmark = [
    pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("c++")), reason="needs cmake and a C++ compiler"),
    pytest.mark.skipif(OPENVINO is None, reason="needs OpenVINO, whose wheel has the headers: pip install openvino"),
]


class Line(NamedTuple):
    score: float
    box: list[float]
    pixels: int
    label: str


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert OPENVINO is not None and OPENVINO.origin is not None
    build = tmp_path_factory.mktemp("cpp")
    openvino = Path(OPENVINO.origin).parent / "cmake"
    run("cmake", "-S", EXAMPLE, "-B", build, f"-DOpenVINO_DIR={openvino}", "-DCMAKE_CXX_FLAGS=-Werror")
    run("cmake", "--build", build, "--config", "Release")
    return build / "maskline_edge"


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_ppm(ASSETS / "nuclei.png", tmp_path_factory.mktemp("ppm"))


def run(*command: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def as_ppm(image: Path, folder: Path) -> Path:
    assert cv2.imwrite(str(folder / f"{image.stem}.ppm"), imread(image))
    return folder / f"{image.stem}.ppm"


def lines(done: subprocess.CompletedProcess[str]) -> list[Line]:
    rows = [row.split("\t") for row in done.stdout.splitlines()]
    return [Line(float(r[0]), [float(v) for v in r[1:5]], int(r[5]), r[6]) for r in rows]


def check(found: list[Line], model_dir: Path, image: Path, area: float = 0.01) -> None:
    """The same instances as Python's: scores to 0.002, boxes to half a pixel, masks' areas to a share or 3 pixels.

    Neighbours of nearly equal score may change places.
    """
    result = next(iter(create_model(model_dir=model_dir, device="cpu").predict(image)))
    assert len(found) == len(result.instances) > 0
    free = list(zip(result["boxes"], result["masks"], strict=True))
    for one in found:
        apart = [np.abs(np.subtract(one.box, b["coordinate"])).max() + abs(one.score - b["score"]) for b, _ in free]
        box, mask = free.pop(int(np.argmin(apart)))
        assert min(apart) < 0.5 and one.label == box["label"]
        assert one.score == pytest.approx(box["score"], abs=2e-3)
        assert abs(one.pixels - int(mask.sum())) <= max(3, area * mask.sum())


def test_it_runs_the_embedded_model(program: Path, cells: Path, tmp_path: Path) -> None:
    """F54, B54: on the device itself, without Python; an image comes out, changed where there are masks."""
    found = lines(run(program, hub.EMBEDDED / "inference.onnx", cells, tmp_path / "out.ppm"))
    check(found, hub.EMBEDDED, ASSETS / "nuclei.png")
    before, after = imread(cells), imread(tmp_path / "out.ppm")
    assert (before != after).any(axis=2).sum() == pytest.approx(sum(one.pixels for one in found), rel=0.02)


def test_it_enlarges_masks_twice(program: Path, cells: Path, tmp_path: Path) -> None:
    """As PP-YOLOE_seg-S wants it. Enlarged once, masks here differ by up to 12 pixels."""
    check(lines(run(program, twice(tmp_path), cells)), tmp_path, ASSETS / "nuclei.png", area=0)


def test_it_runs_openvinos_form_of_a_model_that_stretches(program: Path, tmp_path: Path) -> None:
    """Mask-RT-DETR: cubic interpolation, the ratio not kept, masks that go on beyond boxes, several classes."""
    labels = ('a "b"', "c, d]", "ψ")
    network, target = tiny.network(), ExportOptions("openvino", batch="1", threshold=0.333)
    model_dir = export_network(network, tiny.SPEC, tmp_path, labels=labels, options=target)
    found = lines(run(program, model_dir / "inference.xml", as_ppm(ASSETS / "fruit.jpg", tmp_path)))
    check(found, model_dir, ASSETS / "fruit.jpg", area=0.05)  # untrained, it notices a single level
    assert {one.label for one in found} <= set(labels)


def test_faults_are_reported(program: Path, cells: Path) -> None:
    model = hub.EMBEDDED / "inference.onnx"
    assert "usage: " in run(program, code=2).stderr
    assert message_of(program, model, ASSETS / "nuclei.png").startswith(
        f"error: {ASSETS / 'nuclei.png'} is not an 8-bit PPM file"
    )
    assert message_of(program, model, cells.with_name("nothing.ppm")).endswith("nothing.ppm can't be opened\n")
    assert message_of(program, cells.with_name("nothing.onnx"), cells).endswith("nothing.onnx can't be opened\n")


def message_of(*command: object) -> str:
    """The one line that reports a fault."""
    text = run(*command, code=1).stderr
    assert text.startswith("error: ") and text.count("\n") == 1, text
    return text


@pytest.mark.parametrize("head", ["P6\n4 4\n255\n", "P6\n2000000000 2000000000\n255\n"])
def test_an_image_cut_short_is_reported(program: Path, tmp_path: Path, head: str) -> None:
    """Before room is made for it."""
    (tmp_path / "short.ppm").write_text(head + "abc")
    assert "short.ppm is cut short" in message_of(program, hub.EMBEDDED / "inference.onnx", tmp_path / "short.ppm")


def test_comments_in_an_image_are_skipped(program: Path, cells: Path, tmp_path: Path) -> None:
    pixels = cells.read_bytes().removeprefix(b"P6\n696 520\n255\n")
    assert len(pixels) == 696 * 520 * 3
    (tmp_path / "noted.ppm").write_bytes(b"P6\n# by hand\n#\n696 520 # wide\n255\n" + pixels)
    model = hub.EMBEDDED / "inference.onnx"
    assert run(program, model, tmp_path / "noted.ppm").stdout == run(program, model, cells).stdout


@pytest.mark.parametrize(
    "name, content, fault",
    [
        ("model.ort", b"\x08\x00\x00\x00ORTM", "is not a model"),
        ("text.onnx", b"hello\n", "is not a model"),
        ("other.xml", b"<html></html>", "is not a model"),
        ("cut.onnx", (hub.EMBEDDED / "inference.onnx").read_bytes()[:100_000], "can't be read"),
        ("cut.xml", b'<?xml version="1.0"?>\n<net name="n" version="11">\n', "can't be read"),
    ],
)
def test_a_file_that_is_not_a_model_is_reported(
    program: Path, cells: Path, tmp_path: Path, name: str, content: bytes, fault: str
) -> None:
    """In our line alone, though OpenVINO would try all its formats."""
    (tmp_path / name).write_bytes(content)
    assert f"{name} {fault}" in message_of(program, tmp_path / name, cells)
