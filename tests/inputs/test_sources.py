"""Whatever a user gives becomes a stream of images."""

from __future__ import annotations

import io
import logging
import os
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fixtures.closed import close
from fixtures.encoded import READABLE, Array, encoded, pages, paths, scene, write
from PIL import Image

from maskline.errors import InputError, InputNotFoundError, InputTypeError, ParameterError
from maskline.inputs import SUFFIXES, InputImage, count_images, count_left_out, iter_images


def test_every_suffix_of_the_list_in_any_case(tmp_path: Path) -> None:
    """F16: all suffixes by path, upper and lower case, with the same pixels as when they are bytes."""
    assert {"sr", "ras", "jfif", "jpe", "avif"} < set(SUFFIXES)
    files = [
        write(tmp_path / f"{i}.{name}")
        for i, suffix in enumerate(READABLE)
        for name in (suffix.upper(), suffix.title())
    ]
    found = list(iter_images(files))
    assert [image.path for image in found] == files
    for image in found:
        (same,) = iter_images(Path(image.path or "").read_bytes())
        assert np.array_equal(image.pixels, same.pixels)


def test_folders_are_walked_and_sorted_by_full_path(tmp_path: Path) -> None:
    """F18: nested folders, in the order of full paths, and only what is an image or a PDF."""
    for name in ("b.png", "a/z.JPG", "a.png", "a/b/c.bmp", "B.png", "a-1.png"):
        write(tmp_path / name)
    for name in ("notes.txt", "a/png", "film.mp4"):
        write(tmp_path / name, b"text")
    (tmp_path / "folder.png").mkdir()
    expected = sorted(str(tmp_path / name) for name in ("b.png", "a/z.JPG", "a.png", "a/b/c.bmp", "B.png", "a-1.png"))
    assert paths(str(tmp_path)) == paths(tmp_path) == expected
    assert count_images(tmp_path) == 6


def test_folder_prefix_is_kept_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert paths("./in") == ["./in/a.png"]
    assert paths("in/") == ["in/a.png"]
    assert paths("in/a.png") == ["in/a.png"]


def test_folder_without_images(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", b"text")
    write(tmp_path / "a.mp4", b"film")
    with pytest.raises(InputError, match="has no images"):
        list(iter_images(tmp_path))


def test_hidden_files_and_folders_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shadow = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(168)
    kept = [write(tmp_path / name) for name in ("a.jpg", "b/c.png")]
    for name in ("._a.jpg", "b/._c.png", "__MACOSX/._a.jpg", "__MACOSX/b/d.png", ".IMG_2.heic"):
        write(tmp_path / name, shadow)
    for name in (".thumbnails/a.jpg", "b/.ipynb_checkpoints/c.png", ".Trash-1000/files/e.bmp", ".f.tif"):
        write(tmp_path / name, encoded("jpg"))
    assert paths(tmp_path) == kept and count_images(tmp_path) == 2
    assert not caplog.records
    assert paths(tmp_path / ".thumbnails") == [str(tmp_path / ".thumbnails" / "a.jpg")]  # as asked for


def test_links_are_followed_once(tmp_path: Path) -> None:
    disk, photos = tmp_path / "disk", tmp_path / "photos"
    write(disk / "a.png"), write(photos / "b.png")
    (photos / "more").symlink_to(disk)
    (photos / "more again").symlink_to(disk)
    (disk / "loop").symlink_to(photos)
    (photos / "c.jpg").symlink_to(disk / "a.png")
    assert paths(photos) == [str(photos / name) for name in ("b.png", "c.jpg", "more/a.png")]


def test_a_folder_that_can_t_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reported before anything else, so that a run that stops for it stops at once."""
    good = write(tmp_path / "a.jpg")
    write(tmp_path / "z" / "b.jpg")
    close(monkeypatch, "z")
    with pytest.raises(InputError, match=r"folder '.*z' can't be listed: Permission denied$"):
        next(iter_images(tmp_path))
    errors: list[Exception] = []
    assert [image.path for image in iter_images([str(tmp_path), str(tmp_path / "z")], on_error=errors.append)] == [good]
    assert len(errors) == 2 and len({str(error) for error in errors}) == 1


def test_reasons(tmp_path: Path) -> None:
    jpeg, png, huge = encoded("jpg"), encoded("png"), b"P6 100000 100000 255 "
    files = {
        "empty": {"a.jpg": b""},
        "damaged": {
            "b.jpg": jpeg[:-40],
            "c.png": png[:-40],
            "d.webp": b"RIFF\x20\0\0\0WEBPVP8 ",
            "e.tif": b"II*\0\x08\0\0\0",
            "f.pdf": b"%PDF-1.7 and no more",
            "g.mp4": b"\0\0\0\x18ftypisom",
            "h.bmp": b"BM",
        },
        "not supported": {"i.jpg": b"<html>", "j.gif": b"GIF89a", "k.png": b"text"},
        "too large": {"l.ppm": huge},
        "without images": {"m/n.txt": b""},
    }
    for reason, contents in files.items():
        for name, data in contents.items():
            path = write(tmp_path / name, data)
            with pytest.raises(InputError) as raised:
                list(iter_images(Path(path).parent if "/" in name else path))
            assert raised.value.reason == reason, name
            assert pickle.loads(pickle.dumps(raised.value)).reason == reason
    with pytest.raises(InputError) as raised:
        list(iter_images(str(tmp_path / "nowhere.jpg")))
    assert raised.value.reason == "missing"


def test_what_is_left_out_of_a_folder_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a.jpg")
    for name in ("b.HEIC", "c.heic", "d/e.gif", "f.mp4", "d.x/g"):
        write(tmp_path / name, b"whatever it is")
    for name in ("h", "i.JPG_large", "j.bak"):
        write(tmp_path / name, encoded("jpg"))
    for name in ("k.json", "l.txt"):  # annotations next to images
        write(tmp_path / name, encoded("jpg"))
    for name in ("m", "n.npy", "Thumbs.db"):
        write(tmp_path / name, b"no image at all")
    expected = {".heic": 2, ".gif": 1, ".mp4": 1, "without a suffix": 1, ".jpg_large": 1, ".bak": 1}
    assert count_left_out([str(tmp_path), str(tmp_path / "a.jpg"), "camera:0", "https://a.b/c.jpg"]) == expected
    assert count_images(tmp_path) == 1 and not caplog.records
    assert len(paths(tmp_path)) == 1
    assert caplog.messages == [
        f"{str(tmp_path)!r}: 7 files were not predicted: 2 .heic, 1 .bak, 1 .gif, 1 .jpg_large, 1 .mp4, "
        "1 without a suffix (name a video by its own path, save an image as JPEG or PNG)"
    ]


def test_a_folder_of_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "b.heic", b"whatever it is")
    with pytest.raises(InputError, match=r"has no images: expected .* tif, pdf; 1 file was not predicted: 1 \.heic$"):
        list(iter_images(tmp_path))
    assert count_left_out([str(tmp_path)]) == {".heic": 1}


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_a_broken_link_is_like_a_missing_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = write(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(InputNotFoundError, match=r"b\.jpg': no such file"):
        list(iter_images(tmp_path))
    assert paths(tmp_path, on_error="skip") == [good] and "b.jpg" in caplog.text


def test_nothing_is_a_folder_by_accident() -> None:
    with pytest.raises(InputNotFoundError):
        list(iter_images(""))


def test_arrays() -> None:
    image = scene()
    (photo,) = iter_images(image)
    assert isinstance(photo, InputImage) and photo.pixels is not None
    assert np.shares_memory(photo.pixels, image)
    assert (photo.path, photo.page) == (None, None)
    grey = np.repeat(image[..., :1], 3, axis=2)
    for given, expected in [
        (image[..., 0], grey),
        (image[..., :1], grey),
        (np.dstack([image, image[..., 0]]), image),
        (image[::2, ::-1], image[::2, ::-1]),
        (np.asfortranarray(image), image),
    ]:
        (photo,) = iter_images(given)
        assert np.array_equal(photo.pixels, expected) and photo.pixels.flags.c_contiguous


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((4, 5, 3), np.float32), "array of float32.*expected uint8.*BGR"),
        (np.zeros((4, 5, 3), np.float64), "float64"),
        (np.zeros((4, 5, 3), bool), "bool"),
        (np.zeros((4, 5, 3), np.uint16), "uint16"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (np.zeros((0, 5), np.uint8), "no pixels"),
        (np.zeros((3, 4, 5), np.uint8), r"\(3, 4, 5\)"),
        (np.zeros((4, 5, 2), np.uint8), "BGRA"),
        (np.zeros((2, 4, 5, 3), np.uint8), "in a list"),
        (np.zeros(7, np.uint8), r"shape \(7,\)"),
    ],
)
def test_arrays_that_are_not_images(array: Array, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        list(iter_images(array))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "1", "P", "CMYK", "YCbCr", "HSV", "RGBa", "LA", "RGBX"])
def test_pil_images_are_rgb(mode: str) -> None:
    image = Image.fromarray(scene()[..., ::-1])
    image = image.convert("RGBA").convert("RGBa") if mode == "RGBa" else image.convert(mode)
    (photo,) = iter_images(image)
    shown = image.convert("RGBA").convert("RGB") if mode == "RGBa" else image.convert("RGB")
    assert np.array_equal(photo.pixels, np.asarray(shown)[..., ::-1])
    assert photo.pixels.flags.c_contiguous


def test_pil_image_of_a_damaged_file() -> None:
    with pytest.raises(InputError, match="the PIL image: damaged"):
        list(iter_images(Image.open(io.BytesIO(encoded("jpg")[:700]))))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes(kind: type) -> None:
    (image,) = iter_images(kind(encoded("png")))
    assert np.array_equal(image.pixels, scene()) and image.path is None
    with pytest.raises(InputError, match="bytes: not an image"):
        list(iter_images(kind(b"no image")))
    with pytest.raises(InputError, match="bytes: not an image"):
        list(iter_images(kind(b"")))


def test_nested_lists_in_input_order(tmp_path: Path) -> None:
    """F19, B13, B15: lists of anything, to any depth; a folder among them stays in its place."""
    red, tiff = write(tmp_path / "red.png"), write(tmp_path / "pages.tif", pages(2))
    inner = [write(tmp_path / "sub" / name) for name in ("a.png", "c.bmp")]
    last = write(tmp_path / "B.JPG")
    source = [red, (tmp_path / "sub", [scene(), tiff]), {"img": last}, iter([Path(red)]), [], {"input": [last, red]}]
    assert paths(source) == [red, *inner, None, tiff, tiff, last, red, last, red]


@pytest.mark.parametrize("key", ["img", "img_path", "input"])
def test_dicts(tmp_path: Path, key: str) -> None:
    """F20, B13: a dict, and lists of dicts."""
    file = write(tmp_path / "a.png")
    assert paths({key: file, "note": "ignored"}) == [file]
    assert paths([{key: tmp_path}, {key: scene()}]) == [file, None]
    assert count_images({key: tmp_path}) == 1


@pytest.mark.parametrize("given", [{}, {"image": "a.png"}, {"img": "a.png", "input": "b.png"}])
def test_dicts_without_one_key(given: dict[str, str]) -> None:
    with pytest.raises(InputError, match="exactly one of input, img, img_path"):
        list(iter_images(given))


@pytest.mark.parametrize("given", [None, True, 1.5, 1j, {1, 2}, object(), [None]])
def test_other_types_are_refused(given: object) -> None:
    """B13: an error, not a warning and an empty answer."""
    refused = r"input of type (NoneType|bool|float|complex|set|object): expected the path"
    with pytest.raises(InputTypeError, match=refused):
        list(iter_images(given))


@pytest.mark.parametrize("name", ["a.txt", "a", "png", "http_local.txt", "a.tar.gz", "a.png.bak"])
def test_files_of_other_kinds(tmp_path: Path, name: str) -> None:
    """B14: one error that names the file, whether it is there or not."""
    file = write(tmp_path / name, encoded("png"))
    with pytest.raises(InputError, match=rf"{name}' has an unsupported suffix: expected .* suffix bmp, dib, .*, mp4"):
        list(iter_images(file))
    with pytest.raises(InputNotFoundError, match=rf"missing_{name}': no such file"):
        list(iter_images(str(tmp_path / f"missing_{name}")))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a.png", "not an image"), ("a.pdf", "not a PDF file"), ("a.mp4", "not a video"), ("a.webm", "not a video")],
)
def test_text_by_another_name(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(InputError, match=rf"{name}': {reason}"):
        list(iter_images(write(tmp_path / name, b"Bonjour! " * 300)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match="device or pipe"):
        list(iter_images(tmp_path / "a.png"))


def test_formats_in_the_container_of_mp4_are_not_films(tmp_path: Path) -> None:
    for brand, message in ((b"avif", "': .*AVIF"), (b"heic", "' is a HEIC image")):
        file = write(tmp_path / "a.jpg", b"\0\0\0\x1cftyp" + brand + b"\0\0\0\0" + brand + b"mif1" + b"\0" * 99)
        with pytest.raises(InputError, match=rf"a\.jpg{message}"):
            list(iter_images(file))


# ---- laziness, skipping, counting


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    asked: list[int] = []

    def source() -> Iterator[Array]:
        for i in range(3):
            asked.append(i)
            yield scene(seed=i)

    stream = iter_images(source())
    assert asked == []
    next(stream)
    assert asked == [0]
    stream = iter_images([write(tmp_path / "a.png"), "missing.png"])
    assert next(stream).path == str(tmp_path / "a.png")
    with pytest.raises(InputNotFoundError):
        next(stream)


def test_the_callers_own_errors_pass_through() -> None:
    def source() -> Iterator[Array]:
        yield scene()
        raise RuntimeError("the camera fell")

    stream = iter_images(source(), on_error="skip")
    next(stream)
    with pytest.raises(RuntimeError, match="the camera fell"):
        next(stream)


def test_skip_logs_and_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """B20: one bad input does not end the run."""
    good, cut = write(tmp_path / "a.png"), write(tmp_path / "b.jpg", encoded("jpg")[:300])
    (tmp_path / "none").mkdir()
    source = [
        cut,
        good,
        "missing.png",
        tmp_path,
        None,
        {"x": 1},
        tmp_path / "none",
        np.zeros(3),
        good,
        "https://x.org/a.png",
    ]
    with caplog.at_level(logging.WARNING, "maskline"):
        assert paths(source, on_error="skip") == [good, good, good]
    assert len(caplog.records) == 8
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert caplog.messages[0].startswith("skipped: ") and "b.jpg" in caplog.messages[0]


def break_page(data: bytes, page: int) -> bytes:
    """A TIFF file whose page claims 77 bits a sample."""
    broken = bytearray(data)
    directory = struct.unpack_from("<I", broken, 4)[0]
    for _ in range(page):
        entries = struct.unpack_from("<H", broken, directory)[0]
        directory = struct.unpack_from("<I", broken, directory + 2 + 12 * entries)[0]
    for entry in range(struct.unpack_from("<H", broken, directory)[0]):
        start = directory + 2 + 12 * entry
        if struct.unpack_from("<H", broken, start)[0] == 258:
            struct.pack_into("<HHII", broken, start, 258, 3, 1, 77)
    return bytes(broken)


@pytest.mark.parametrize("bad", [1, 2])
def test_skip_keeps_the_good_pages(caplog: pytest.LogCaptureFixture, bad: int) -> None:
    """B20: also those after the bad one."""
    found = list(iter_images([break_page(pages(3), bad), scene()], on_error="skip"))
    assert [image.page for image in found] == [*({0, 1, 2} - {bad}), None]
    assert len(caplog.records) == 1 and f"page {bad}: damaged" in caplog.messages[0]


def test_on_error_is_checked_at_once() -> None:
    with pytest.raises(ParameterError, match="on_error is 'ignore'"):
        iter_images([], on_error="ignore")


def test_count(tmp_path: Path) -> None:
    file = write(tmp_path / "a.png")
    write(tmp_path / "sub" / "b.png")
    assert (
        count_images(file)
        == count_images(scene())
        == count_images(Image.new("RGB", (3, 3)))
        == count_images(encoded("png"))
        == 1
    )
    assert count_images([file, tmp_path, [scene(), {"img": file}]]) == 5
    assert count_images([]) == 0
    assert (
        count_images("missing.png")
        == count_images("missing.pdf")
        == count_images("missing.mp4")
        == count_images(None)
        == count_images({})
        == 1
    )
    assert count_images("http://a.b/c.JPG?x=1.tif") == 1
    assert count_images("http://a.b/c") is count_images("http://a.b/c.pdf") is count_images("http://a.b/c.tif") is None
    assert count_images(0) is count_images("camera:0") is count_images("rtsp://a.b/live") is None
    stream = iter([file])
    assert count_images(stream) is count_images([file, stream]) is None
    assert next(stream) == file
    assert count_images(write(tmp_path / "c.tif")) is count_images(encoded("tif")) is count_images(tmp_path) is None


def test_a_list_that_holds_itself() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert count_images(endless) is None
    with pytest.raises(InputTypeError, match="does a list contain itself"):
        list(iter_images(endless))
