"""AVIF: its size is known before anything is decoded, its orientation is the container's, and damage is an error."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from fixtures.encoded import by_pillow, encoded, scene, write
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskline.errors import InputError
from maskline.inputs import MAX_PIXELS, count_images, header_size, iter_images, read_image
from maskline.inputs.avif import _coded_size

pytest.importorskip("PIL.AvifImagePlugin", reason="Pillow before 11.3 does not decode it")

WHOLE = encoded("avif")


def with_size(data: bytes, width: int, height: int) -> bytes:
    """The same AV1 data, said to be of another size."""
    changed = bytearray(data)
    struct.pack_into(">II", changed, changed.index(b"ispe") + 8, width, height)
    return bytes(changed)


def flat(width: int, height: int) -> bytes:
    return by_pillow("AVIF", Image.new("RGB", (width, height)), speed=10)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1"])
def test_modes(mode: str) -> None:
    image = Image.fromarray(scene()[..., ::-1]).convert(mode)
    data = by_pillow("AVIF", image, quality=100, subsampling="4:4:4")
    (photo,) = iter_images(data)
    assert header_size(io.BytesIO(data)) == (40, 50) and count_images(data) == 1
    expected = np.asarray(image.convert("RGB"))[..., ::-1].astype(int)
    assert np.abs(photo.pixels - expected).mean() < 3
    assert photo.page is None and photo.levels is None and photo.pixels.flags.c_contiguous


def test_alpha_is_dropped() -> None:
    image = Image.fromarray(scene()[..., ::-1])
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    (photo,) = iter_images(by_pillow("AVIF", image, quality=100, subsampling="4:4:4"))
    assert np.abs(photo.pixels.astype(int) - scene()).mean() < 3


@pytest.mark.parametrize("size", [(1, 1), (4001, 3), (3, 4001), (255, 257)])
def test_sizes(size: tuple[int, int]) -> None:
    data = flat(*size)
    assert header_size(io.BytesIO(data)) == read_shape(data) == size[::-1]


def read_shape(data: bytes) -> tuple[int, ...]:
    (image,) = iter_images(data)
    return image.pixels.shape[:2]


def test_the_exif_orientation_has_no_effect() -> None:
    """As the standard has it: what a camera means by it, a writer turns into a rotation of the container."""
    unknown, orientation = struct.pack("<HHI", 0x0113, 3, 1), struct.pack("<HHI", 0x0112, 3, 1)
    exif = b"Exif\0\0II*\0\x08\0\0\0\1\0" + unknown + b"\6\0\0\0" + bytes(4)  # Pillow would take a known one out
    data = by_pillow("AVIF", Image.fromarray(scene()[..., ::-1]), quality=100, subsampling="4:4:4", exif=exif)
    assert data.count(unknown) == 1
    data = data.replace(unknown, orientation)
    assert read_shape(data) == (40, 50)
    (image,) = iter_images(data)
    assert np.abs(image.pixels.astype(int) - scene()).mean() < 2


# ---- bombs and damage


def test_a_size_that_the_container_hides(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Decoders would decode it all, and shrink it: refused."""
    data = with_size(flat(4000, 3000), 64, 64)
    assert header_size(io.BytesIO(data)) == (3000, 4000)
    with pytest.raises(InputError, match="frames of 4000 x 3000 pixels in an image of 64 x 64"):
        list(iter_images(data))
    hidden = bytearray(with_size(flat(16_384, 11_000), 64, 64))
    file = write(tmp_path / "bomb.avif", bytes(hidden))
    assert Path(file).stat().st_size < 10_000
    with pytest.raises(InputError, match=rf"bomb\.avif': 16384 x 11000 pixels: expected at most {MAX_PIXELS}"):
        read_image(file)
    assert capfd.readouterr() == ("", "")


def test_a_size_that_only_the_container_claims() -> None:
    with pytest.raises(InputError, match="20000 x 20000 pixels"):
        list(iter_images(with_size(WHOLE, 20_000, 20_000)))
    with pytest.raises(InputError):
        list(iter_images(with_size(WHOLE, 0, 0)))


@pytest.mark.parametrize("data", [WHOLE, by_pillow("AVIF", Image.fromarray(scene()).convert("RGBA"), xmp=b"x" * 200)])
def test_cut_anywhere(data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    for size in range(16, len(data)):
        with pytest.raises(InputError, match="cut short or damaged|damaged, or a variant|HEIF|not an image"):
            list(iter_images(data[:size]))
    assert capfd.readouterr() == ("", "")


@given(st.lists(st.tuples(st.integers(16, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_bytes_changed(changes: list[tuple[int, int]]) -> None:
    """An image or an error, and no size beyond the one that was claimed."""
    data = bytearray(WHOLE)
    for position, value in changes:
        data[position] = value
    try:
        height, width = header_size(io.BytesIO(bytes(data)))
    except InputError:
        return
    if width * height > 10_000:
        return
    try:
        (image,) = iter_images(bytes(data))
    except InputError:
        return
    assert image.pixels.shape[0] * image.pixels.shape[1] <= width * height


def test_items_that_claim_the_file_many_times_over() -> None:
    data = bytearray(WHOLE)
    start = data.index(b"iloc")
    assert data[start + 4] == 0  # version
    count_at = start + 10
    extents_at = count_at + 2 + 2 + 2
    struct.pack_into(">H", data, extents_at, 65_535)
    with pytest.raises(InputError, match="cut short or damaged"):
        header_size(io.BytesIO(bytes(data)))


def test_units_without_end() -> None:
    """Items of no bytes each: more than any image has."""
    payload = bytes([0b0_0010_0_1_0, 0]) * 120_000
    start = WHOLE.index(b"mdat") + 4
    data = bytearray(WHOLE[: start - 8])
    iloc = data.index(b"iloc")
    struct.pack_into(">II", data, iloc + 18, start, len(payload))
    data += struct.pack(">I", len(payload) + 8) + b"mdat" + payload
    with pytest.raises(InputError, match="cut short or damaged"):
        header_size(io.BytesIO(bytes(data)))


class Bits:
    """Writes numbers of any number of bits."""

    def __init__(self) -> None:
        self.text = ""

    def put(self, value: int, count: int) -> None:
        self.text += f"{value:0{count}b}" if count else ""

    def bytes(self) -> bytes:
        text = self.text + "1"
        text += "0" * (-len(text) % 8)
        return int(text, 2).to_bytes(len(text) // 8, "big")


@given(
    st.integers(1, 65_536),
    st.integers(1, 65_536),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 31),
    st.lists(st.tuples(st.integers(0, 31), st.booleans(), st.booleans()), min_size=1, max_size=32),
    st.integers(0, 20),
)
def test_sequence_headers(
    width: int,
    height: int,
    timing: bool,
    model: bool,
    delays: bool,
    delay_bits: int,
    points: list[tuple[int, bool, bool]],
    ticks: int,
) -> None:
    """As 5.5 of the specification writes them."""
    bits = Bits()
    bits.put(1, 3)
    bits.put(0, 2)
    bits.put(timing, 1)
    if timing:
        bits.put(12345, 32)
        bits.put(54321, 32)
        bits.put(ticks > 0, 1)
        if ticks > 0:
            bits.put(0, ticks.bit_length() - 1)
            bits.put(ticks, ticks.bit_length())
        bits.put(model, 1)
        if model:
            bits.put(delay_bits, 5)
            bits.put(7, 32)
            bits.put(3, 10)
    bits.put(delays, 1)
    bits.put(len(points) - 1, 5)
    for level, decodable, delayed in points:
        bits.put(3, 12)
        bits.put(level, 5)
        if level > 7:
            bits.put(1, 1)
        if timing and model:
            bits.put(decodable, 1)
            if decodable:
                bits.put(1, delay_bits + 1)
                bits.put(1, delay_bits + 1)
                bits.put(0, 1)
        if delays:
            bits.put(delayed, 1)
            if delayed:
                bits.put(9, 4)
    of_width, of_height = max((width - 1).bit_length(), 1), max((height - 1).bit_length(), 1)
    bits.put(of_width - 1, 4)
    bits.put(of_height - 1, 4)
    bits.put(width - 1, of_width)
    bits.put(height - 1, of_height)
    assert _coded_size(bits.bytes()) == (width, height)


# ---- what is not read


def test_an_animation_is_named() -> None:
    file = io.BytesIO()
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(file, "AVIF", save_all=True, append_images=frames[1:])
    for data in (file.getvalue(), file.getvalue().replace(b"ftypavis", b"ftypmif1")):
        with pytest.raises(InputError, match="this is an animated AVIF image, which is not read: save it as JPEG"):
            list(iter_images(data))


@pytest.mark.parametrize("plugin", [None, ModuleType("PIL.AvifImagePlugin")])
def test_a_pillow_without_it(plugin: ModuleType | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before 11.3, or built without libavif."""
    if plugin:
        plugin.__dict__.update(SUPPORTED=False, AvifImageFile=None)
    monkeypatch.setitem(sys.modules, "PIL.AvifImagePlugin", plugin)
    file = write(tmp_path / "a.avif", WHOLE)
    with pytest.raises(InputError, match=r"a\.avif': this is an AVIF image, which Pillow [\d.]+ can't decode: pip ins"):
        read_image(file)
