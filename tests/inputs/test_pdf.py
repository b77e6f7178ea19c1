"""PDF pages: rendered one by one, at a scale that fits, with what is drawn into forms."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fixtures.encoded import Array, paths, scene, write
from PIL import Image

from maskline.errors import InputError, MissingDependencyError, ParameterError
from maskline.inputs import MAX_PIXELS, count_images, iter_images
from maskline.inputs import pdf as module

COLOURS = ("1 0 0", "0 1 0", "0 0 1")  # RGB of the pages


def pdf(*sizes: tuple[float, float], form: bool = False, broken: int | None = None) -> bytes:
    """A PDF file with a page of each size (points), its left half in the page's colour.

    ``form``: page 0 has a text field with a filled black background over its right half. ``broken``: this page's
    object is not a page.
    """
    kids = " ".join(f"{10 + 2 * i} 0 R" for i in range(len(sizes)))
    fields = " /AcroForm << /Fields [5 0 R] >>" if form else ""
    objects = {1: f"<< /Type /Catalog /Pages 2 0 R{fields} >>"}
    objects[2] = f"<< /Type /Pages /Kids [{kids}] /Count {len(sizes)} >>"
    if form:
        look = "0 g 0 0 10 10 re f"
        objects[4] = (
            f"<< /Type /XObject /Subtype /Form /BBox [0 0 10 10] /Length {len(look)} >> stream\n{look}\nendstream"
        )
        box = f"{sizes[0][0] / 2} 0 {sizes[0][0]} {sizes[0][1]}"
        objects[5] = (
            f"<< /Type /Annot /Subtype /Widget /FT /Tx /T (a) /F 4 /Rect [{box}] /P 10 0 R /AP << /N 4 0 R >> >>"
        )
    for i, (width, height) in enumerate(sizes):
        draw = f"{COLOURS[i % 3]} rg 0 0 {width / 2} {height} re f"
        annots = " /Annots [5 0 R]" if form and i == 0 else ""
        objects[10 + 2 * i] = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width} {height}] /Contents {11 + 2 * i} 0 R{annots} >>"
            if i != broken
            else "(no page)"
        )
        objects[11 + 2 * i] = f"<< /Length {len(draw)} >> stream\n{draw}\nendstream"
    return assembled(objects)


def assembled(objects: dict[int, str]) -> bytes:
    data, table = b"%PDF-1.7\n", []
    for number, text in objects.items():
        table.append(f"{number} 1\n{len(data):010d} 00000 n \n")
        data += f"{number} 0 obj {text} endobj\n".encode()
    head = f"xref\n0 1\n0000000000 65535 f \n{''.join(table)}trailer << /Root 1 0 R /Size 99 >>\n"
    return data + head.encode() + f"startxref\n{len(data)}\n%%EOF\n".encode()


def colour(pixels: Array, column: float) -> list[int]:
    """BGR in the middle row, at a share of the width."""
    return [int(v) for v in pixels[pixels.shape[0] // 2, int(column * pixels.shape[1])]]


def test_one_image_a_page(tmp_path: Path) -> None:
    """F21, B61: pages in order, numbered from 0, at 144 dpi, BGR; by path, as bytes and among others."""
    file = write(tmp_path / "two.PDF", pdf((60, 40), (30.2, 50)))
    found = list(iter_images(file))
    assert [(image.path, image.page) for image in found] == [(file, 0), (file, 1)]
    assert [image.pixels.shape for image in found] == [(80, 120, 3), (100, 61, 3)]
    assert [colour(image.pixels, 0.25) for image in found] == [[0, 0, 255], [0, 255, 0]]
    assert colour(found[0].pixels, 0.75) == [255, 255, 255]
    assert all(image.pixels.flags.c_contiguous and image.pixels.dtype == np.uint8 for image in found)
    given = list(iter_images([Path(file).read_bytes(), {"img": Path(file)}, scene()]))
    assert [(image.path, image.page) for image in given] == [
        *((None, 0), (None, 1), (file, 0), (file, 1), (None, None)),
    ]
    assert np.array_equal(given[1].pixels, found[1].pixels)
    assert count_images(file) == 2 and count_images([file, scene()]) == 3 and count_images(pdf((9, 9))) is None


def test_folders_hold_pdf_files(tmp_path: Path) -> None:
    """B62: as PaddleX does, whatever its documents say."""
    files = [write(tmp_path / "a.png"), write(tmp_path / "b.pdf", pdf((9, 9), (9, 9))), write(tmp_path / "c" / "d.png")]
    assert paths(tmp_path) == [files[0], files[1], files[1], files[2]]
    assert count_images(tmp_path) == 4


def test_of_pillow(tmp_path: Path) -> None:
    """A file of another maker than the tests."""
    images = [Image.new("RGB", (72, 36), colour) for colour in ("red", "blue")]
    images[0].save(tmp_path / "a.pdf", save_all=True, append_images=images[1:], resolution=72)
    first, second = iter_images(tmp_path / "a.pdf")
    assert first.pixels.shape == (72, 144, 3)
    assert colour(first.pixels, 0.5)[2] > 250 and colour(second.pixels, 0.5)[0] > 250


def test_form_fields_are_drawn() -> None:
    (image,) = iter_images(pdf((40, 40), form=True))
    assert colour(image.pixels, 0.75) == [0, 0, 0] and colour(image.pixels, 0.25) == [0, 0, 255]


@pytest.mark.parametrize("own", [True, False])
def test_scale(monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    monkeypatch.setenv("PADDLE_PDX_PDF_RENDER_SCALE", "0.5")
    if own:
        monkeypatch.setenv("MASKLINE_PDF_SCALE", "3")
    (image,) = iter_images(pdf((60, 40)))
    assert image.pixels.shape == ((120, 180, 3) if own else (20, 30, 3))


@pytest.mark.parametrize("given", ["0", "-1", "two", "nan", "inf", "1e9"])
@pytest.mark.parametrize("name", ["MASKLINE_PDF_SCALE", "PADDLE_PDX_PDF_MIN_RENDER_SCALE"])
def test_invalid_scales(monkeypatch: pytest.MonkeyPatch, name: str, given: str) -> None:
    monkeypatch.setenv(name, given)
    with pytest.raises(ParameterError, match=f"{name} is '{given}': expected pixels per point"):
        list(iter_images(pdf((60, 40)), on_error="skip"))


def test_large_pages_are_rendered_smaller(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 10_000)
    with caplog.at_level(logging.INFO, "maskline"):
        first, second = iter_images(pdf((60, 40), (100, 101)))
    assert first.pixels.shape == (80, 120, 3) and 9_600 < second.pixels[..., 0].size <= 10_000
    assert len(caplog.messages) == 1 and "page 1 is 100 x 101 points" in caplog.messages[0]
    with pytest.raises(
        InputError, match=r"page 0: 2000 x 2000 points: over 10000 pixels even at the minimum scale, 0\.1"
    ):
        list(iter_images(pdf((2000, 2000))))
    monkeypatch.setenv("MASKLINE_PDF_MIN_SCALE", "0.01")
    assert next(iter_images(pdf((2000, 2000)))).pixels[..., 0].size <= 10_000


@pytest.mark.parametrize("size", [(14_400.0, 14_400.0), (1e7, 3.0), (0.001, 1e7), (6689.3, 6689.4), (9000.0, 5000.1)])
def test_fitting_scale_is_the_largest(size: tuple[float, float]) -> None:
    scale = module._fitting_scale(*size, 2.0, 0.1)
    pixels = [np.ceil(size[0] * s) * np.ceil(size[1] * s) for s in (scale, scale * 1.001)]
    assert pixels[0] <= MAX_PIXELS and (scale == 2.0 or pixels[1] > MAX_PIXELS)


def test_a_bad_page_among_good_ones(caplog: pytest.LogCaptureFixture) -> None:
    """B20: the others are given."""
    data = pdf((60, 40), (50, 50), (40, 60), broken=1)
    assert [image.page for image in iter_images(data, on_error="skip")] == [0, 2]
    assert len(caplog.messages) == 1 and "given as bytes, page 1: damaged" in caplog.messages[0]
    images = iter_images(data)
    assert next(images).page == 0
    with pytest.raises(InputError, match="page 1: damaged"):
        next(images)


def encrypted() -> bytes:
    """Asks for a password: no key fits the sums below."""
    rules = f"<< /Filter /Standard /V 1 /R 2 /O <{'11' * 32}> /U <{'22' * 32}> /P -4 >>"
    return pdf((60, 40)).replace(b"/Root 1 0 R", f"/Root 1 0 R /ID [<00> <00>] /Encrypt {rules}".encode())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encrypted(), "it is encrypted: save a copy without a password and use that"),
        (b"%PDF-1.7\n", "damaged, cut short or has no pages"),
        (b"%PDF-1.7\n" + bytes(range(256)) * 20, "damaged, cut short or has no pages"),
        (pdf((60, 40))[:60], "damaged, cut short or has no pages"),
        (pdf(), "damaged, cut short or has no pages"),
    ],
    ids=["encrypted", "head", "junk", "cut", "no pages"],
)
def test_files_that_can_not_be_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], data: bytes, reason: str
) -> None:
    file = write(tmp_path / "a.pdf", data)
    with pytest.raises(InputError, match=rf"a\.pdf': .*{reason}") as caught:
        list(iter_images(file))
    assert "\n" not in str(caught.value) and capfd.readouterr() == ("", "")
    assert count_images(file) == 1


def test_a_file_cut_short(caplog: pytest.LogCaptureFixture) -> None:
    """PDFium makes the best of it; what it gives may be less than there was."""
    data = pdf((60, 40), (30, 50))
    assert [image.page for image in iter_images(data + b"\n\0\0")] == [0, 1] and not caplog.messages
    assert [image.page for image in iter_images(data.replace(b"%%EOF", b""))] == [0, 1]
    assert "has no end marker (%%EOF): it may be cut short" in caplog.messages[0]


def test_pages_are_rendered_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[int] = []
    render = module._render

    def note(document: object, number: int, *rest: float) -> Array:
        rendered.append(number)
        return render(document, number, *rest)

    monkeypatch.setattr(module, "_render", note)
    images = iter_images(pdf((60, 40), (60, 40), (60, 40)))
    assert rendered == []
    next(images)
    next(images)
    images.close()  # type: ignore[attr-defined]
    assert rendered == [0, 1]


def test_threads_render_in_turn() -> None:
    """PDFium crashes where two threads are in it."""
    data, ready = pdf(*[(60, 40)] * 5), threading.Barrier(4)

    def render(_: int) -> list[Array]:
        ready.wait(5)
        return [image.pixels for image in iter_images([data] * 4)]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(render, range(4)))
    assert all(len(pixels) == 20 for pixels in results)
    assert all(np.array_equal(a, b) for pixels in results for a, b in zip(pixels, results[0], strict=True))


def test_without_pypdfium2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pypdfium2", None)
    with pytest.raises(MissingDependencyError, match="pip install pypdfium2"):
        list(iter_images(pdf((9, 9))))
