"""What goes by the name of an image and is not read is named, by its content or its suffix."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from fixtures.encoded import READABLE, by_pillow, encoded, paths, write
from PIL import Image

from maskline.errors import InputError
from maskline.inputs import SUFFIXES, UNREAD_SUFFIXES, VIDEO_SUFFIXES, header_size, iter_images, read_image
from maskline.inputs.unread import unread_image


def ftyp(*brands: bytes) -> bytes:
    body = brands[0] + bytes(4) + b"".join(brands[1:])
    return (len(body) + 8).to_bytes(4, "big") + b"ftyp" + body + bytes(50)


CONTENTS = {
    "HEIC image": ftyp(b"heic", b"mif1", b"heic"),
    "HEIC image, mif1 first": ftyp(b"mif1", b"mif1", b"heic"),
    "GIF image": by_pillow("GIF", Image.new("P", (4, 4))),
    "JPEG 2000 image": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20),
    "JPEG XL image": b"\xff\x0a" + bytes(20),
    "Photoshop image": b"8BPS\0\1" + bytes(20),
    "OpenEXR image": b"\x76\x2f\x31\x01" + bytes(20),
    "DICOM image": bytes(128) + b"DICM" + bytes(20),
    "SVG image": b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "camera's raw image": ftyp(b"crx ", b"crx ", b"isom"),
    "HTML page, not an image": b"\n<!doctype HTML><title>Sign in</title>",
    "pointer of Git LFS, not the image itself: run `git lfs pull`": b"version https://git-lfs.github.com/spec/v1\noid",
    "macOS shadow file": bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(168),
    "archive, not an image": b"PK\x03\x04" + bytes(30),
}


@pytest.mark.parametrize(("name", "content"), CONTENTS.items(), ids=list(CONTENTS))
def test_contents_by_the_name_of_an_image(name: str, content: bytes, tmp_path: Path) -> None:
    message = rf"is an? {name.partition(',')[0]}"
    file = write(tmp_path / "a.jpg", content)
    for given in (lambda: read_image(file), lambda: list(iter_images(file)), lambda: list(iter_images(content))):
        with pytest.raises(InputError, match=message) as caught:
            given()
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=message):
        header_size(io.BytesIO(content))
    if "not an image" not in name and "itself" not in name and "shadow" not in name:
        assert str(caught.value).endswith("image, which is not read: save it as JPEG, PNG or TIFF")


def test_suffixes_do_not_overlap() -> None:
    assert not set(UNREAD_SUFFIXES) & {*SUFFIXES, *VIDEO_SUFFIXES, "pdf"}


@pytest.mark.parametrize("suffix", ["heic", "HEIC", "nef", "svs", "jp2"])
def test_a_file_alone_is_named_by_its_suffix(suffix: str, tmp_path: Path) -> None:
    """Files whose content does not show the kind: a camera's and a slide scanner's are TIFF files inside."""
    file = write(tmp_path / f"a.{suffix}", b"whatever it is" * 9)
    with pytest.raises(InputError, match=rf"a\.{suffix}' is a.*, which is not read: save it as JPEG, PNG or TIFF"):
        list(iter_images(file))


def test_the_content_wins_over_the_suffix(tmp_path: Path) -> None:
    file = write(tmp_path / "a.heic", by_pillow("GIF", Image.new("P", (4, 4))))
    with pytest.raises(InputError, match=r"a\.heic' is a GIF image"):
        list(iter_images(file))
    file = write(tmp_path / "b.heic", encoded("jpg"))
    with pytest.raises(InputError, match=r"b\.heic' has an unsupported suffix: .*; its content is an image: rename it"):
        list(iter_images(file))


@pytest.mark.parametrize("suffix", READABLE)
def test_what_is_read_is_not_taken_for_it(suffix: str, tmp_path: Path) -> None:
    data = encoded(suffix)
    assert unread_image(data[:1024]) is None
    assert len(paths(write(tmp_path / f"a.{suffix}", data))) == 1
