"""TIFF: which pages are images, which pixels are read, and how deep ones become 8 bits."""

from __future__ import annotations

import io
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from fixtures.encoded import by_pillow, scene, write
from fixtures.tiffs import Order, noise, tiff
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import II, OPEN_INFO

from maskline.errors import InputError
from maskline.inputs import Levels, header_size, iter_images, read_image, read_input_image
from maskline.inputs.tiff import decode_tiff

IMAGE = {254: 0}
KINDS = [
    {},
    {254: 0},
    {254: 2},  # a page of several
    {255: 1},
    {255: 3},
    {254: 1},
    {254: 4},
    {254: 5},  # the mask of a reduced copy
    {254: 9},  # the macro image of a whole slide
    {255: 2},
    {254: 0, 255: 2},
]
NO_IMAGES = KINDS[5:]


def shown(data: bytes) -> list[tuple[int | None, tuple[int, ...]]]:
    return [(image.page, image.pixels.shape[:2]) for image in iter_images(data)]


# ---- pages


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=6), st.sampled_from("<>"), st.booleans())
def test_pages_that_are_not_images_are_left_out(kinds: list[dict[int, int]], order: Order, big: bool) -> None:
    pages = [noise(5 + i, 9 - i, 3, seed=i) for i in range(len(kinds))]
    data = tiff(*zip(pages, kinds, strict=True), order=order, big=big and order == "<")
    expected = [i for i, kind in enumerate(kinds) if kind not in NO_IMAGES]
    if not expected:
        parts = [i for i, kind in enumerate(kinds) if not kind.get(254, 0) & 4] or range(len(kinds))
        expected = [max(parts, key=lambda i: pages[i].size)]
    found = list(iter_images(data))
    assert [image.page for image in found] == expected
    for image in found:
        assert np.array_equal(image.pixels, pages[image.page or 0][..., ::-1])
    height, width = pages[expected[0]].shape[:2]
    assert header_size(io.BytesIO(data)) == (height, width)


def test_the_thumbnail_first(tmp_path: Path) -> None:
    big = noise(40, 50, 3)
    file = write(tmp_path / "a.tif", tiff((big[::4, ::4], {254: 1}), (big, IMAGE), (big[..., 0], {254: 4})))
    assert np.array_equal(read_image(file), big[..., ::-1])
    assert [(image.page, image.path) for image in iter_images(file)] == [(1, file)]


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "jpeg"])
def test_compressed_pages_after_a_thumbnail(compression: str) -> None:
    big = Image.fromarray(scene()[..., ::-1])
    data = bytearray(
        by_pillow("TIFF", big.resize((10, 8)), save_all=True, append_images=[big], compression=compression)
    )
    (first,) = struct.unpack_from("<I", data, 4)
    tag = struct.unpack_from("<H", data, first + 2)[0]
    assert tag == 256  # becomes the NewSubfileType of a reduced copy; the size must then come from elsewhere
    entries = struct.unpack_from("<H", data, first)[0]
    fields = data[first + 2 : first + 2 + 12 * entries]
    (following,) = struct.unpack_from("<I", data, first + 2 + 12 * entries)
    struct.pack_into("<I", data, 4, len(data))
    data += struct.pack("<H", entries + 1) + struct.pack("<HHII", 254, 4, 1, 1) + fields + struct.pack("<I", following)
    (image,) = iter_images(bytes(data))
    assert image.page == 1 and image.pixels.shape == (40, 50, 3)
    assert np.abs(image.pixels.astype(int) - scene()).mean() <= (3 if compression == "jpeg" else 0)


def test_a_bad_first_page_does_not_hide_the_others(caplog: pytest.LogCaptureFixture) -> None:
    data = tiff((noise(4, 4, dtype="float32"), {}), (noise(5, 6, 3), {}))
    assert [image.page for image in iter_images(data, on_error="skip")] == [1]
    assert caplog.messages == ["skipped: the image given as bytes, page 0: float32 pixels: expected uint8 or uint16; "
                               "scale them to one of these"]  # fmt: skip


def test_a_reduced_copy_cut_short_is_damage_of_the_file() -> None:
    big = noise(40, 50, 3)
    data = tiff((big, IMAGE), (big[::2, ::2], {254: 1, 279: 10**6}))
    with pytest.raises(InputError, match="cut short or damaged"):
        list(iter_images(data))


def test_no_pages_at_all() -> None:
    for data in (b"II*\0" + bytes(4), b"MM\0+\0\x08\0\0" + bytes(8)):
        with pytest.raises(InputError, match="a TIFF file without pages"):
            list(iter_images(data))
        with pytest.raises(InputError, match="a TIFF file without pages"):
            header_size(io.BytesIO(data))


def test_directories_without_end_cost_little() -> None:
    """A size is asked for where nothing may take long."""
    directory = struct.pack("<HHHII", 1, 254, 4, 1, 1)
    step = len(directory) + 4
    chain = b"".join(directory + struct.pack("<I", 8 + step * (i + 1)) for i in range(15_000))
    with pytest.raises(InputError, match="too many pages or fields"):
        header_size(io.BytesIO(b"II*\0\x08\0\0\0" + chain))


# ---- which pixels are read


@pytest.mark.parametrize(
    ("channels", "extra", "read"),
    [
        (1, [], True),
        (2, [2], True),
        (2, [0], False),
        (3, [], True),
        (4, [], True),
        (4, [0], True),  # RGB and near infrared
        (4, [1], True),
        (4, [2], True),
        (5, [0, 0], False),
        (5, [2, 0], True),
        (6, [0, 0, 0], False),
        (8, [0] * 5, False),
        (224, [0] * 221, False),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_channels(channels: int, extra: list[int], read: bool, dtype: str, capfd: pytest.CaptureFixture[str]) -> None:
    pixels = noise(6, 7, channels, dtype=dtype) | 0xC0
    if 1 in extra:
        pixels[..., -1] = np.iinfo(dtype).max  # opaque
    data = tiff((pixels, {338: extra} if extra else {}))
    if read and channels in (2, 5) and dtype == "uint16":  # Pillow has no such mode
        with pytest.raises(InputError, match="an unsupported variant of its format"):
            list(iter_images(data))
    elif read:
        (image,) = iter_images(data)
        eight = (pixels >> (8 * pixels.itemsize - 8)).astype(np.uint8)
        colours = eight[..., [0, 0, 0]] if channels < 3 else eight[..., 2::-1]
        assert np.array_equal(image.pixels, colours)
    else:
        named = channels - sum(value in (1, 2) for value in extra)
        with pytest.raises(InputError, match=rf"bytes: {named} channels: expected 1, 3 or 4; save three"):
            list(iter_images(data))
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif((II, 1, (1,), 1, (8, 8), (1,)) not in OPEN_INFO, reason="this Pillow has no such mode")
def test_grey_with_associated_alpha() -> None:
    pixels = noise(6, 7, 2)
    pixels[..., 1] = 255
    (image,) = iter_images(tiff((pixels, {338: [1]})))
    assert np.array_equal(image.pixels, pixels[..., [0, 0, 0]])


def test_bands_that_are_not_colours() -> None:
    data = tiff((noise(6, 7, 3), {262: 1, 338: [0, 0]}))
    with pytest.raises(InputError, match="3 channels that are not marked as RGB: expected 1, 3 or 4"):
        list(iter_images(data))


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "float32", "float64", "complex64"])
@pytest.mark.parametrize("channels", [1, 3, 8])
def test_kinds_of_numbers(dtype: str, channels: int) -> None:
    pixels = np.ones((4, 5, channels), dtype)
    with pytest.raises(InputError, match=f"bytes: {dtype} pixels: expected uint8 or uint16; scale them"):
        list(iter_images(tiff((pixels, {}))))


def test_floats_of_pillow() -> None:
    for mode, name in (("F", "float32"), ("I", "int32")):
        with pytest.raises(InputError, match=f"the PIL image: {name} pixels: expected uint8 or uint16"):
            list(iter_images(Image.new(mode, (4, 4))))


# ---- more than 8 bits


def test_a_bigtiff_that_pillow_can_not_decode(capfd: pytest.CaptureFixture[str]) -> None:
    data = tiff((noise(4, 5, 3), {}), order=">", big=True)
    assert header_size(io.BytesIO(data)) == (4, 5)
    with pytest.raises(InputError, match="a big-endian BigTIFF file, which Pillow can't decode: save it as little-en"):
        list(iter_images(data))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_white_is_zero_in_16_bits(order: Order, big: bool) -> None:
    """As in 8 bits: X-rays."""
    pixels = noise(6, 7, dtype="uint16")
    (image,) = iter_images(tiff((pixels, {262: 0}), order=order, big=big))
    assert np.array_equal(image.pixels[..., 0], 255 - (pixels >> 8))
    (eight,) = iter_images(tiff(((pixels >> 8).astype(np.uint8), {262: 0}), order=order, big=big))
    assert np.array_equal(eight.pixels, image.pixels)


def test_white_is_zero_in_several_pages_and_turned() -> None:
    pixels = noise(6, 7, dtype="uint16")
    found = list(iter_images(tiff((pixels, {262: 0}), (pixels, {262: 1}), (pixels, {262: 0, 274: 3}))))
    black = (pixels >> 8).astype(np.uint8)
    for image, expected in zip(found, (255 - black, black, 255 - black[::-1, ::-1]), strict=True):
        assert np.array_equal(image.pixels[..., 0], expected)


def packed12(levels: np.ndarray) -> np.ndarray:
    """Two levels in three bytes."""
    first, second = levels[:, ::2], levels[:, 1::2]
    parts = (first >> 4, (first & 15) << 4 | second >> 8, second & 255)
    return np.stack(parts, -1).reshape(len(levels), -1).astype(np.uint8)


@pytest.mark.parametrize("white", [False, True])
def test_12_bits_that_say_so_fill_the_8(white: bool) -> None:
    levels = np.linspace(0, 4095, 48).astype(np.uint16).reshape(6, 8)
    page = (packed12(levels), {256: 8, 258: 12, 262: 0 if white else 1})
    (image,) = iter_images(tiff(page))
    expected = (levels >> 4).astype(np.uint8)
    assert np.array_equal(image.pixels[..., 0], 255 - expected if white else expected)
    assert image.levels is None


@pytest.mark.parametrize(("top", "reported"), [(8191, True), (8192, False), (1, True), (0, False)])
@pytest.mark.parametrize("form", ["tif", "png", "pgm", "PIL"])
def test_levels_in_an_eighth_of_the_range_are_reported(top: int, reported: bool, form: str, tmp_path: Path) -> None:
    pixels = np.linspace(0, top, 30).astype(np.uint16).reshape(5, 6)
    if form == "PIL":
        (image,) = iter_images(Image.fromarray(pixels))
    else:
        data = {
            "tif": lambda: tiff((pixels, {})),
            "png": lambda: by_pillow("PNG", Image.fromarray(pixels)),
            "pgm": lambda: b"P5\n6 5\n65535\n" + pixels.astype(">u2").tobytes(),
        }[form]()
        image = read_input_image(write(tmp_path / f"a.{form}", data))
    assert np.array_equal(image.pixels[..., 0], pixels >> 8)
    assert image.levels == (Levels(0, top, 65535) if reported else None)


@pytest.mark.parametrize("channels", [3, 4])
def test_levels_of_colours(channels: int) -> None:
    """Whatever the alpha: it is not shown."""
    pixels = np.full((5, 6, channels), 1184, np.uint16)
    pixels[0, 0, :3] = 300
    pixels[..., 3:] = 65535
    (image,) = iter_images(by_png(pixels))
    assert image.levels == Levels(300, 1184, 65535)
    (image,) = iter_images(tiff((pixels, {338: [2]} if channels == 4 else {})))
    assert image.levels == Levels(256, 1279, 65535)  # as far as the upper 8 bits show


def by_png(pixels: np.ndarray) -> bytes:
    import cv2

    order = [2, 1, 0, 3][: pixels.shape[2]]
    return cv2.imencode(".png", pixels[..., order])[1].tobytes()


def test_the_levels_of_x_rays() -> None:
    (image,) = iter_images(tiff((np.full((5, 6), 3000, np.uint16), {262: 0})))
    assert str(image.levels) == "levels 3000 to 3000 of 65535: nearly white in 8 bits; scale them to the full range"


def test_8_bits_may_be_dark() -> None:
    for form in ("PNG", "PPM", "TIFF"):
        (image,) = iter_images(by_pillow(form, Image.new("L", (9, 9), 3)))
        assert image.levels is None


def test_one_warning_and_one_total(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dark = noise(5, 6, dtype="uint16") >> 4
    for i in range(3):
        write(tmp_path / f"{i}.tif", tiff((dark, {}), (dark, {})))
    write(tmp_path / "bright.tif", tiff((dark << 4, {})))
    with caplog.at_level(logging.INFO, "maskline"):
        assert len(list(iter_images(tmp_path))) == 7
    reported = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(reported) == 2
    levels = f"levels {dark.min()} to {dark.max()} of 65535"
    assert reported[0] == f"{str(tmp_path / '0.tif')!r}: {levels}: nearly black in 8 bits; scale them to the full range"
    assert reported[1] == "6 images in total use less than an eighth of their range"
    assert len(caplog.records) == 7


def test_the_given_bytes_are_not_changed() -> None:
    data = tiff((noise(5, 6, dtype="uint16"), {262: 0}), (noise(5, 6), {}))
    before = bytes(bytearray(data))
    list(decode_tiff(data, "a", None))
    assert data == before and io.BytesIO(data).getvalue() == before
