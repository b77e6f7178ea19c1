"""One orientation for headers and decoders: every format, every place it may stand, every way to write it."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from fixtures.encoded import Array, scene
from fixtures.oriented import (
    BYTE,
    CARRIERS,
    FIXED,
    LONG,
    SHORT,
    TAG,
    after_a_thumbnail,
    chunk,
    directory,
    exif,
    field,
    jpeg,
    oriented,
    png,
    raw_profile,
    saved,
    segment,
    tiff,
    webp,
    xmp,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskline.data.image_headers import image_size, orientation_of
from maskline.errors import InputError
from maskline.inputs import can_be_set, header_size, iter_images, orientation, read_image, set_upright

IMAGE = Image.fromarray(scene(24, 40))
FOREIGN = {  # what other readers may take for an orientation
    "jpeg xmp": jpeg(IMAGE, b"", segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(6))),
    "jpeg xmp of Pillow": saved(IMAGE, "JPEG", quality=95, xmp=xmp(6)),
    "png xmp": png(IMAGE, b"", text=chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6))),
    "png text": png(IMAGE, b"", text=raw_profile(6)),
    "png text APP1": png(IMAGE, b"", text=raw_profile(6, "APP1")),
    "webp xmp": webp(IMAGE, b"", lossless=True, xmp=xmp(6)),
    "tiff xmp": saved(IMAGE, "TIFF", tiffinfo={700: xmp(6)}),
    "tiff xmp after a thumbnail": after_a_thumbnail(saved(IMAGE, "TIFF", tiffinfo={700: xmp(6)})),
}


def decoded(data: bytes) -> Array:
    (image, *_) = iter_images(data)
    return image.pixels


def agree(path: Path, data: bytes, expected: int, stored: Array) -> None:
    """All readers say that a file is to be turned so, and its pixels are those stored, turned so."""
    path.write_bytes(data)
    assert orientation(io.BytesIO(data)) == orientation_of(path) == expected
    pixels = read_image(path)
    assert image_size(path) == image_size(io.BytesIO(data)) == header_size(io.BytesIO(data)) == pixels.shape[:2]
    np.testing.assert_array_equal(pixels, oriented(stored, expected))
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("value", range(10))
@pytest.mark.parametrize("carrier", CARRIERS)
def test_headers_and_decoders_agree(tmp_path: Path, carrier: str, value: int) -> None:
    make = CARRIERS[carrier]
    stored = decoded(make(IMAGE, b""))
    path = tmp_path / f"a.{carrier.split()[0].replace('mpo', 'jpg')}"
    for order in "<>":
        for kind in (SHORT, LONG, BYTE):
            first = value if kind == SHORT or order == "<" else 0  # EXIF: the first 16 bits
            counts = first if carrier != "tiff" else value  # TIFF: by type
            agree(path, make(IMAGE, exif(value, order, kind)), counts if counts in range(1, 9) else 1, stored)


@pytest.mark.parametrize("value", range(9))
@pytest.mark.parametrize("carrier", FIXED)
def test_of_a_tiff_the_first_image_counts_and_of_avif_the_container(tmp_path: Path, carrier: str, value: int) -> None:
    make = FIXED[carrier]
    stored = decoded(make(IMAGE, b""))
    for order in "<>":
        data = make(IMAGE, exif(value, order))
        agree(tmp_path / f"a.{carrier.split()[0]}", data, value or 1, stored)
        assert not can_be_set(io.BytesIO(data))


@pytest.mark.skipif("avif" not in FIXED, reason="Pillow before 11.3 does not decode it")
def test_exif_and_xmp_do_not_count_in_avif(tmp_path: Path) -> None:
    stored = decoded(FIXED["avif"](IMAGE, b""))
    agree(tmp_path / "a.avif", saved(IMAGE, "AVIF", quality=100, subsampling="4:4:4", xmp=xmp(6)), 1, stored)
    turned = saved(IMAGE, "AVIF", quality=100, subsampling="4:4:4", xmp=xmp(3), exif=exif(6))
    agree(tmp_path / "a.avif", turned, 6, stored)


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("carrier", [name for name in CARRIERS if name.startswith(("jpeg", "png"))])
def test_ordinary_files_are_turned_as_opencv_turns_them(carrier: str, value: int) -> None:
    data = CARRIERS[carrier](IMAGE, exif(value))
    if carrier == "jpeg after xmp":  # which OpenCV 4 does not find
        data = jpeg(IMAGE, exif(value))
    np.testing.assert_array_equal(decoded(data), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


@pytest.mark.parametrize("name", FOREIGN)
def test_other_places_do_not_count(tmp_path: Path, name: str) -> None:
    form = name.split()[0]
    agree(tmp_path / f"a.{form}", FOREIGN[name], 1, decoded(CARRIERS[form](IMAGE, b"")))


@pytest.mark.parametrize("suffix", ["bmp", "ppm", "ras"])
def test_formats_without_orientation(tmp_path: Path, suffix: str) -> None:
    stored = scene(24, 40)
    done, data = cv2.imencode(f".{suffix}", stored)
    assert done
    agree(tmp_path / f"a.{suffix}", data.tobytes(), 1, stored)


def test_the_first_that_is_stated_counts(tmp_path: Path) -> None:
    def app1(data: bytes) -> bytes:
        return segment(0xE1, b"Exif\0\0" + data)

    stored = decoded(jpeg(IMAGE, b""))
    silent = directory("<", field("<", 0x0100, LONG, 9))
    for data, expected in (
        (jpeg(IMAGE, exif(3), app1(exif(6))), 6),
        (jpeg(IMAGE, exif(3), app1(silent)), 3),
        (jpeg(IMAGE, exif(3), app1(b"II*\0")), 3),
        (jpeg(IMAGE, exif(3), b"\xff\xff\xff"), 3),  # filling
        (jpeg(IMAGE, directory("<", field("<", TAG, SHORT, 6), field("<", TAG, SHORT, 3))), 6),
        (jpeg(IMAGE, directory("<", struct.pack("<HHII", 0x010F, 2, 99, 10**6), field("<", TAG, SHORT, 6))), 6),
    ):
        agree(tmp_path / "a.jpg", data, expected, stored)


def test_each_page_of_a_tiff_has_its_own() -> None:
    values = (6, 1, 3, 5)
    pages = [Image.fromarray(scene(24, 40, seed)) for seed in range(len(values))]
    data = bytearray(saved(pages[0], "TIFF", save_all=True, append_images=pages[1:], tiffinfo={TAG: 1}))
    entry = field("<", TAG, SHORT, 1)
    assert data.count(entry) == len(values)
    position = 0
    for value in values:
        position = data.index(entry, position) + len(entry)
        data[position - len(entry) : position] = field("<", TAG, SHORT, value)
    found = [image.pixels[..., ::-1] for image in iter_images(bytes(data))]
    for pixels, page, value in zip(found, pages, values, strict=True):
        np.testing.assert_array_equal(pixels, oriented(np.asarray(page), value))
    assert header_size(io.BytesIO(data)) == (40, 24) and not can_be_set(io.BytesIO(data))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_file_is_set_upright_without_touching_a_pixel(tmp_path: Path, carrier: str, order: str) -> None:
    make = CARRIERS[carrier]
    before = make(IMAGE, exif(6, order))
    file = io.BytesIO(before)
    assert can_be_set(file)
    set_upright(file)
    after = file.getvalue()
    agree(tmp_path / f"a.{carrier.split()[0].replace('mpo', 'jpg')}", after, 1, decoded(make(IMAGE, b"")))
    assert len(after) == len(before) and sum(a != b for a, b in zip(after, before, strict=True)) <= 1 + 4  # a checksum
    with Image.open(io.BytesIO(after)) as image:
        assert image.getexif()[TAG] == 1


def test_nothing_is_set_where_nothing_is_stated() -> None:
    for data in (*FOREIGN.values(), jpeg(IMAGE, b""), tiff(IMAGE, b""), saved(IMAGE, "BMP"), b"", b"RIFF"):
        file = io.BytesIO(data)
        assert not can_be_set(file)
        with pytest.raises(ValueError, match="no orientation"):
            set_upright(file)
        assert file.getvalue() == data


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(deadline=None)  # some claim to be large
@given(st.sampled_from(sorted(CARRIERS | FIXED)), st.integers(1, 8), st.data())
def test_damaged_files_have_one_size_or_none(carrier: str, value: int, data: st.DataObject) -> None:
    file = bytearray((CARRIERS | FIXED)[carrier](IMAGE, exif(value)))
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, min(len(file), 300) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(file[: data.draw(st.sampled_from([len(file), len(file) // 2, 20, 30]))])
    stated = orientation(io.BytesIO(damaged))
    assert stated in range(1, 9)
    try:
        pixels = decoded(damaged)
    except InputError:
        return
    assert header_size(io.BytesIO(damaged)) == pixels.shape[:2]


def test_hostile_headers_take_no_time() -> None:
    for data in (b"\xff\xd8\xff" + bytes(1 << 24), b"\xff\xd8" + b"\xff\xe0\0\2" * (1 << 22)):
        with pytest.raises(InputError, match="has no size"):
            header_size(io.BytesIO(data))


def test_only_the_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(IMAGE, exif(6)))
    os.truncate(path, path.stat().st_size - 200)
    assert image_size(path) == (40, 24)
    with pytest.raises(InputError, match="cut short"):
        read_image(path)
