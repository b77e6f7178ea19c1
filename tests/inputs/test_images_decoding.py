"""Reading image files: every format, every kind of damage."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from fixtures.encoded import GREY_ONLY, LOSSLESS, READABLE, by_pillow, encoded, pages, paths, scene, write
from PIL import Image

from maskline.errors import InputError, InputNotFoundError
from maskline.inputs import MAX_PIXELS, iter_images, read_image

# ---- reading files


@pytest.mark.parametrize("suffix", READABLE)
def test_all_suffixes(tmp_path: Path, suffix: str) -> None:
    pixels = read_image(write(tmp_path / f"a.{suffix}"))
    assert pixels.shape == (40, 50, 3) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    if suffix == "avif":  # not decoded by OpenCV, whose lowest version can't
        assert np.abs(pixels.astype(int) - scene()).mean() < 2
        return
    reference = cv2.imdecode(np.frombuffer(encoded(suffix), np.uint8), cv2.IMREAD_COLOR)
    assert reference is not None and np.array_equal(pixels, reference)
    if suffix in LOSSLESS and suffix not in GREY_ONLY:
        assert np.array_equal(pixels, scene())


def test_suffixes_in_any_case_and_paths_as_objects(tmp_path: Path) -> None:
    file = Path(write(tmp_path / "A.b.PnG"))
    assert read_image(file).shape == (40, 50, 3)
    assert paths(file) == [str(file)]


def test_names_beyond_ascii(tmp_path: Path) -> None:
    file = write(tmp_path / "图片 été ☃" / "猫.jpg")
    assert paths(file) == [file]
    assert paths(str(tmp_path)) == [file]
    with pytest.raises(InputNotFoundError, match="狗"):
        read_image(tmp_path / "狗.png")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_become_the_upper_eight(tmp_path: Path, suffix: str) -> None:
    deep = (scene().astype(np.uint16) << 8) + 200
    file = tmp_path / f"a.{suffix}"
    assert np.array_equal(read_image(write(file, encoded(suffix, deep))), scene())
    grey = read_image(write(file, encoded(suffix, deep[..., 0])))
    assert np.array_equal(grey, np.repeat(scene()[..., :1], 3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_alpha_is_dropped(tmp_path: Path, suffix: str) -> None:
    alpha = np.full((40, 50, 1), 128, np.uint8)
    file = write(tmp_path / f"a.{suffix}", encoded(suffix, np.concatenate([scene(), alpha], axis=2)))
    assert np.abs(read_image(file).astype(int) - scene()).max() <= (60 if suffix == "webp" else 0)


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "bmp"])
def test_grey_becomes_three_channels(tmp_path: Path, suffix: str) -> None:
    pixels = read_image(write(tmp_path / f"a.{suffix}", encoded(suffix, scene()[..., 0])))
    assert pixels.shape == (40, 50, 3) and np.ptp(pixels, axis=2).max() == 0


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "LA", "I;16", "I;16B"])
def test_tiff_modes(mode: str) -> None:
    grey = Image.fromarray(scene()[..., 0])
    if mode.startswith("I;16"):
        deep = (scene()[..., 0].astype(np.uint16) << 8).astype(">u2" if mode.endswith("B") else "<u2")
        image = Image.frombytes(mode, grey.size, deep.tobytes())
    else:
        image = Image.fromarray(scene()[..., ::-1]).convert(mode)
    (photo,) = iter_images(by_pillow("TIFF", image))
    shown = grey if mode.startswith("I;16") else image
    assert np.array_equal(photo.pixels, np.asarray(shown.convert("RGB"))[..., ::-1])


def test_tiff_of_floats_is_refused() -> None:
    with pytest.raises(InputError, match="float32 pixels: expected uint8 or uint16"):
        list(iter_images(by_pillow("TIFF", Image.fromarray(np.zeros((4, 4), np.float32)))))


def test_bigtiff() -> None:
    pytest.importorskip("PIL", "11.1", reason="older Pillow can't write it")
    (image,) = iter_images(by_pillow("TIFF", big_tiff=True))
    assert np.array_equal(image.pixels, scene())


def test_content_counts_not_the_suffix(tmp_path: Path) -> None:
    file = write(tmp_path / "really_png.jpg", encoded("png"))
    assert np.array_equal(read_image(file), scene())
    (image,) = iter_images(write(tmp_path / "really_png.tif", encoded("png")))
    assert image.page is None


# ---- pages


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate"])
def test_tiff_pages(tmp_path: Path, compression: str | None) -> None:
    """F22: one image a page, numbered from 0."""
    file = write(tmp_path / "a.tiff", pages(compression=compression))
    found = list(iter_images(file))
    assert [(image.page, image.path) for image in found] == [(0, file), (1, file), (2, file)]
    for i, image in enumerate(found):
        assert np.array_equal(image.pixels, scene(20 + 2 * i, 30, seed=i))
    assert np.array_equal(read_image(file), found[0].pixels)


def test_a_single_tiff_page_is_page_0(tmp_path: Path) -> None:
    """B61: as in PaddleX."""
    assert [image.page for image in iter_images(write(tmp_path / "a.tif"))] == [0]
    assert [image.page for image in iter_images(write(tmp_path / "a.png"))] == [None]


# ---- damage


def files_to_cut() -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112] = 1
    return {
        **{suffix: encoded(suffix) for suffix in ("bmp", "jpg", "png", "webp", "pgm", "pbm", "ppm", "sr", "tif")},
        "jpeg": by_pillow("JPEG", progressive=True, exif=exif),
        "dib": by_pillow("BMP", Image.fromarray(scene()[..., 0])),
        "tiff": by_pillow("TIFF", compression="tiff_lzw"),
    }


@pytest.mark.parametrize("suffix", list(files_to_cut()))
@pytest.mark.parametrize("left", [1, 2, 3, 9, 25, 0.25, 0.5, 0.75, 0.9, 0.99, -20, -13, -5, -1])
def test_cut_files(tmp_path: Path, capfd: pytest.CaptureFixture[str], suffix: str, left: float) -> None:
    """``left``: bytes, a share of the file, or (below zero) bytes missing at its end."""
    data = files_to_cut()[suffix]
    size = int(left * len(data)) if isinstance(left, float) else left
    file = write(tmp_path / f"cut.{suffix}", data[:size])
    with pytest.raises(InputError, match=rf"cut\.{suffix}'"):
        list(iter_images(file))
    assert capfd.readouterr() == ("", "")


def with_thumbnail() -> tuple[bytes, int]:
    """A JPEG whose EXIF segment holds a whole small JPEG, and where that one ends."""
    data, small = encoded("jpg"), encoded("jpg", scene(12, 16))
    segment = b"Exif\0\0" + b"II*\0\x08\0\0\0" + b"\0" * 30 + small
    head = data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment
    return head + data[2:], len(head)


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_image(capfd: pytest.CaptureFixture[str]) -> None:
    data, end = with_thumbnail()
    assert next(iter_images(data)).pixels.shape == (40, 50, 3)
    for size in (end, end + 20, (end + len(data)) // 2, len(data) - 1):
        with pytest.raises(InputError, match="cut short"):
            next(iter_images(data[:size]))
    assert capfd.readouterr() == ("", "")


def test_what_follows_a_complete_image_does_not_matter() -> None:
    for suffix in ("jpg", "png", "bmp"):
        assert np.array_equal(
            next(iter_images(encoded(suffix) + b"more")).pixels, next(iter_images(encoded(suffix))).pixels
        )


def test_jpeg_with_restart_markers_and_filled_markers() -> None:
    done, data = cv2.imencode(".jpg", scene(), [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])
    assert done and b"\xff\xd0" in data.tobytes()
    assert next(iter_images(data.tobytes())).pixels.shape == (40, 50, 3)
    filled = encoded("jpg")[:-2] + b"\xff\xff\xff\xd9"
    assert np.array_equal(next(iter_images(filled)).pixels, next(iter_images(encoded("jpg"))).pixels)


def test_png_with_a_wrong_checksum(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(encoded("png"))
    data[len(data) // 2] ^= 1
    with pytest.raises(InputError, match="checksum of the chunk IDAT"):
        next(iter_images(bytes(data)))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp"])
def test_text_is_not_an_image(tmp_path: Path, capfd: pytest.CaptureFixture[str], suffix: str) -> None:
    file = write(tmp_path / f"a.{suffix}", b"Bonjour, I am no image at all.\n" * 9)
    with pytest.raises(InputError, match=rf"a\.{suffix}': not an image"):
        read_image(file)
    assert capfd.readouterr() == ("", "")


def test_empty_missing_and_misplaced_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.png' is empty"):
        read_image(write(tmp_path / "a.png", b""))
    with pytest.raises(InputNotFoundError, match=r"b\.png"):
        read_image(tmp_path / "b.png")
    with pytest.raises(FileNotFoundError):
        read_image("")
    with pytest.raises(InputNotFoundError):
        read_image(tmp_path / "a.png" / "c.png")
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(InputError, match="suffix bmp, dib"):
        read_image(write(tmp_path / "a.txt", b"text"))
    with pytest.raises(InputNotFoundError, match="no such file"):  # none can be there
        read_image(f"{'x' * 5000}.png")
    with pytest.raises(InputError):
        read_image("nul\0.png")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_unreadable_file(tmp_path: Path) -> None:
    file = Path(write(tmp_path / "a.png"))
    file.chmod(0)
    with pytest.raises(InputError, match="Permission denied"):
        read_image(file)


def huge(form: str, side: int) -> bytes:
    """A small file of an image that claims to have ``side`` x ``side`` pixels."""
    if form == "png":
        chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", b"x"), (b"IEND", b""))
        body = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
        return b"\x89PNG\r\n\x1a\n" + b"".join(body)
    if form == "jpg":
        data = bytearray(encoded("jpg"))
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, side, side)
        return bytes(data)
    if form == "bmp":
        data = bytearray(encoded("bmp"))
        struct.pack_into("<ii", data, 18, side, side)
        return bytes(data)
    if form == "tif":
        data = bytearray(by_pillow("TIFF"))
        for tag, old in ((256, 50), (257, 40)):
            start = next(
                data.index(struct.pack("<HHI", tag, kind, 1))
                for kind in (3, 4)
                if struct.pack("<HHII", tag, kind, 1, old) in data
            )
            struct.pack_into("<HHII", data, start, tag, 4, 1, side)
        return bytes(data)
    return f"P6 {side} {side} 255\n".encode() + b"\0" * 99


@pytest.mark.parametrize("form", ["png", "jpg", "bmp", "tif", "ppm"])
def test_pixel_bombs(tmp_path: Path, capfd: pytest.CaptureFixture[str], form: str) -> None:
    file = write(tmp_path / f"bomb.{form}", huge(form, 30_000))
    assert Path(file).stat().st_size < 100_000
    with pytest.raises(InputError, match=rf"bomb\.{form}': 30000 x 30000 pixels.*{MAX_PIXELS}"):
        read_image(file)
    assert capfd.readouterr() == ("", "")


def test_a_large_image_warns_of_nothing() -> None:
    """Pillow warns from half the limit on; we do not."""
    (image,) = iter_images(by_pillow("TIFF", Image.new("1", (10_000, 9_000)), compression="group4"))
    assert image.pixels.shape == (9_000, 10_000, 3)
