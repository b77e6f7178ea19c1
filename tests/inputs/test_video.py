"""Frames of videos, cameras and streams: one by one, in order, and released when no more are wanted."""

from __future__ import annotations

import gc
import io
import os
import socket
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fixtures.encoded import Array, encoded, paths, scene, write
from fixtures.films import CODECS, fast_start, film, frame, number_of

from maskline.errors import InputError, InputNotFoundError
from maskline.inputs import VIDEO_SUFFIXES, count_images, iter_images
from maskline.inputs.containers import is_cut_short
from maskline.inputs.files import kind_of


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return Path(film(tmp_path_factory.mktemp("film") / "a.mp4")).read_bytes()


@pytest.mark.parametrize("suffix", sorted(CODECS))
def test_frames_of_a_file(tmp_path: Path, capfd: pytest.CaptureFixture[str], suffix: str) -> None:
    """All frames in order, numbered from 0, with their rate; the suffix in any case."""
    assert suffix in VIDEO_SUFFIXES
    file = Path(film(tmp_path / f"a.{suffix}")).rename(tmp_path / f"B.{suffix.upper()}")
    capfd.readouterr()  # the writer's
    found = list(iter_images(file))
    assert [(image.path, image.page) for image in found] == [(str(file), i) for i in range(20)]
    assert [number_of(image.pixels) for image in found] == list(range(20))
    assert {image.fps for image in found} == {25.0}
    assert all(image.pixels.shape == (48, 64, 3) and image.pixels.flags.c_contiguous for image in found)
    assert count_images(file) == 20
    assert capfd.readouterr() == ("", "")


def test_videos_among_others_but_not_in_folders(tmp_path: Path) -> None:
    """F19: in their place in a list; a folder's films are left out, as in PaddleX."""
    image, video = write(tmp_path / "b.png"), film(tmp_path / "a.mp4", 2)
    assert paths([image, {"input": Path(video)}, scene(), tmp_path]) == [image, video, video, None, image]
    assert count_images([image, video, tmp_path]) == 4
    (still,) = iter_images(image)
    assert still.fps is None and still.page is None


def test_content_counts_not_the_suffix(tmp_path: Path, mp4: bytes) -> None:
    assert len(list(iter_images(write(tmp_path / "a.png", mp4)))) == 20
    assert len(list(iter_images(write(tmp_path / "a.avi", mp4)))) == 20
    assert len(list(iter_images(write(tmp_path / "a.mp4", encoded("png"))))) == 1


def test_names_that_look_like_patterns_or_addresses(
    tmp_path: Path, mp4: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("film%03d.mp4", "film007.mp4", "concat:a.mp4", "猫 #1?.mp4", "-i.mp4"):
        Path(name).write_bytes(mp4)
        assert len(list(iter_images(name))) == 20


def test_bytes_of_a_video(mp4: bytes) -> None:
    with pytest.raises(InputError, match="a video given as bytes: save it to a file and pass its path"):
        list(iter_images(mp4))


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match=r"a\.mp4': no such file"):
        list(iter_images(tmp_path / "a.mp4"))
    with pytest.raises(InputError, match=r"b\.mkv' is empty"):
        list(iter_images(write(tmp_path / "b.mkv", b"")))


# ---- damage


def taken(file: str) -> tuple[list[int], str]:
    """The frames that came, and the error after them."""
    numbers: list[int] = []
    with pytest.raises(InputError) as caught:
        numbers.extend(number_of(image.pixels) for image in iter_images(file))
    return numbers, str(caught.value)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "avi", "mkv"])
@pytest.mark.parametrize("left", [0.3, 0.6, 0.9])
def test_cut_files(tmp_path: Path, capfd: pytest.CaptureFixture[str], suffix: str, left: float) -> None:
    """What is there of the frames, then one error; nothing on stderr."""
    data = Path(film(tmp_path / f"a.{suffix}")).read_bytes()
    data = fast_start(data) if suffix in ("mp4", "mov") else data
    whole = write(tmp_path / f"whole.{suffix}", data)
    assert len(list(iter_images(whole))) == 20
    capfd.readouterr()
    numbers, error = taken(write(tmp_path / f"cut.{suffix}", data[: int(left * len(data))]))
    assert error.endswith((f"cut.{suffix}': cut short after {len(numbers)} frames", "': cut short"))
    assert numbers[:-1] == list(range(len(numbers)))[:-1] and len(numbers) < 20  # the last may be made up
    if left == 0.9:
        assert len(numbers) > 10
    assert capfd.readouterr() == ("", "")


def test_nothing_on_stderr(tmp_path: Path, mp4: bytes) -> None:
    """FFmpeg reads how much to say when the first video is opened, so this takes a fresh process."""
    files = [write(tmp_path / "a.mp4", mp4[: len(mp4) // 2]), write(tmp_path / "b.mp4", fast_start(mp4)[:-300])]
    read = "len(list(iter_images(sys.argv[1:], on_error='skip')))"
    code = f"import sys; from maskline.inputs import iter_images; print({read})"
    environment = {name: value for name, value in os.environ.items() if name != "OPENCV_FFMPEG_LOGLEVEL"}
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, env=environment)
    assert 0 < int(done.stdout) < 20
    assert [line.partition(": ")[0] for line in done.stderr.splitlines()] == ["skipped"] * 2


def test_an_index_that_never_came(tmp_path: Path, mp4: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """What a recorder leaves that was switched off."""
    assert taken(write(tmp_path / "a.mp4", mp4[: len(mp4) // 2])) == ([], f"{str(tmp_path / 'a.mp4')!r}: cut short")
    junk = write(tmp_path / "b.mp4", b"\0\0\0\x1cftypisom" + bytes(range(256)) * 9)
    assert "b.mp4': damaged, or a variant" in taken(junk)[1]
    assert count_images(junk) == 1
    assert capfd.readouterr() == ("", "")


def test_damage_in_the_middle(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(Path(film(tmp_path / "a.avi", 25)).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    capfd.readouterr()
    numbers, error = taken(write(tmp_path / "b.avi", bytes(data)))
    assert len(numbers) >= 8 and f"damaged: only {len(numbers)} of 25 frames could be read" in error
    assert capfd.readouterr() == ("", "")


def test_skip_keeps_what_came_and_goes_on(tmp_path: Path, mp4: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """B20."""
    data = fast_start(mp4)
    cut, image = write(tmp_path / "a.mp4", data[: 9 * len(data) // 10]), write(tmp_path / "b.png")
    found = list(iter_images([cut, image], on_error="skip"))
    assert len(found) > 10 and found[-1].path == image
    assert len(caplog.messages) == 1 and "a.mp4': cut short after" in caplog.messages[0]


def test_more_after_the_end_does_not_matter(tmp_path: Path, mp4: bytes) -> None:
    for tail in (b"\0" * 50, b"abc"):
        assert len(list(iter_images(write(tmp_path / "a.mp4", mp4 + tail)))) == 20
    avi = Path(film(tmp_path / "a.avi")).read_bytes()
    assert len(list(iter_images(write(tmp_path / "b.avi", avi + b"\0" * 99)))) == 20


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv"])
def test_no_head_is_too_broken_to_be_asked(tmp_path: Path, suffix: str) -> None:
    """Whatever stands where lengths should be, there is an answer."""
    data = bytearray(Path(film(tmp_path / f"a.{suffix}", 2)).read_bytes())
    assert not is_cut_short(io.BytesIO(data), len(data))
    random = np.random.default_rng(0)
    for size in [*range(1, 80), *[len(data)] * 200]:
        broken = data[:size]
        for place in random.integers(0, min(size, 120), 4):
            broken[place] = random.choice([0, 1, 127, 255])
        assert is_cut_short(io.BytesIO(broken), size) in (True, False)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x14ftypqt  ", "video"),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "video"),
        (b"\0\0\0\x1cftypheic", None),
        (b"RIFF\0\0\0\0AVI LIST", "video"),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"OggS", "video"),
        (b"\0\0\x01\xba\x44", "video"),
        ((b"G" + b"\0" * 187) * 3, "video"),
        (b"\0\0\0\0" + (b"G" + b"\0" * 191) * 3, "video"),
        (b"GIF89a" + b"\0" * 900, None),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/secret", None),  # FFmpeg would fetch what such a list names
        (b"ffconcat version 1.0\nfile /etc/passwd", None),
        (b"junk\n%PDF-1.4", "pdf"),
        (b"", None),
    ],
)
def test_kinds_by_their_first_bytes(head: bytes, kind: str | None) -> None:
    assert kind_of(head) == kind


# ---- one by one


def test_frames_are_not_kept(tmp_path: Path) -> None:
    """300 frames pass, a few at a time are in memory."""
    file = film(tmp_path / "a.avi", 300)
    stream = iter_images(file)
    next(stream)
    gc.collect()
    tracemalloc.start()
    try:
        rest = sum(1 for _ in stream)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rest == 299 and peak < 20 * frame(0).nbytes


class FakeCapture:
    """A camera of as many frames as `frames` says; notes what is done to it."""

    frames = 10**9
    opens = True
    log: list[str]

    def __init__(self, *how: Any) -> None:
        self.number = 0
        FakeCapture.log = [f"open {how[0]}"]

    def isOpened(self) -> bool:  # noqa: N802 (OpenCV's name)
        return self.opens

    def get(self, what: int) -> float:
        return {cv2.CAP_PROP_FRAME_WIDTH: 64.0, cv2.CAP_PROP_FRAME_HEIGHT: 48.0, cv2.CAP_PROP_FPS: 0.0}[what]

    def read(self) -> tuple[bool, Array | None]:
        self.log.append("read")
        self.number += 1
        return (True, frame(self.number % 25)) if self.number <= self.frames else (False, None)

    def release(self) -> None:
        self.log.append("release")


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> type[FakeCapture]:
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    monkeypatch.setattr(FakeCapture, "frames", 10**9)
    monkeypatch.setattr(FakeCapture, "opens", True)
    return FakeCapture


@pytest.mark.parametrize("source", [1, np.int64(1), "camera:1", "Camera:1", {"img": 1}, [1]])
def test_camera(camera: type[FakeCapture], source: object) -> None:
    """A stream without end: read when asked for, released when closed."""
    stream = iter_images(source)
    first, second = next(stream), next(stream)
    assert [(p.path, p.page, p.fps) for p in (first, second)] == [("camera_1", 0, 0.0), ("camera_1", 1, 0.0)]
    assert camera.log == ["open 1", "read", "read"]
    stream.close()  # type: ignore[attr-defined]
    assert camera.log[-1] == "release"


def test_camera_is_released_when_forgotten(camera: type[FakeCapture]) -> None:
    for image in iter_images(0):
        assert image.page == 0
        break
    gc.collect()
    assert camera.log == ["open 0", "read", "release"]


def test_camera_that_is_unplugged(camera: type[FakeCapture], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "frames", 3)
    numbers: list[int | None] = []
    with pytest.raises(InputError, match="camera 0 stopped sending frames"):
        numbers.extend(image.page for image in iter_images(0))
    assert numbers == [0, 1, 2] and camera.log[-1] == "release"


def test_camera_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    """OpenCV itself is asked: no machine has that number."""
    for source in (97, "camera:97"):
        with pytest.raises(InputError, match="camera 97 can't be opened"):
            list(iter_images(source))
    with pytest.raises(InputError, match="camera -1: expected its number, 0 or above"):
        list(iter_images(-1))
    assert capfd.readouterr() == ("", "")


def test_a_file_named_like_a_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "camera:0.png")
    assert paths("camera:0.png") == ["camera:0.png"]


def test_stream(camera: type[FakeCapture], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The password opens it, and is not shown. The end is not a fault."""
    monkeypatch.setattr(camera, "frames", 2)
    assert paths("rtsp://me:secret@cam/live") == ["rtsp://cam/live"] * 2
    assert camera.log[0] == "open rtsp://me:secret@cam/live" and camera.log[-1] == "release"
    assert caplog.messages == ["rtsp://cam/live stopped sending frames"]
    monkeypatch.setattr(camera, "frames", 0)
    with pytest.raises(InputError, match="'RTSP://cam/live' sends no frames"):
        list(iter_images("RTSP://me:secret@cam/live"))


def test_stream_without_a_sender(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"rtsp://me:secret@127.0.0.1:{closed.getsockname()[1]}/live"
        with pytest.raises(InputError, match="can't be opened: no response") as caught:
            list(iter_images(address))
    assert "secret" not in str(caught.value) and capfd.readouterr() == ("", "")


def test_threads_share_the_silence(tmp_path: Path, mp4: bytes) -> None:
    level, file = cv2.utils.logging.getLogLevel(), write(tmp_path / "a.mp4", mp4)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: len(list(iter_images([file] * 5))), range(8))) == [100] * 8
    assert cv2.utils.logging.getLogLevel() == level


def test_a_users_own_log_level_stays(tmp_path: Path, mp4: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_LOGLEVEL", "16")
    level = cv2.utils.logging.getLogLevel()
    next(iter_images(write(tmp_path / "a.mp4", mp4)))
    assert os.environ["OPENCV_FFMPEG_LOGLEVEL"] == "16" and cv2.utils.logging.getLogLevel() == level


def test_a_video_that_is_too_large_is_named(tmp_path: Path, mp4: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large.mp4").write_bytes(mp4)
    monkeypatch.setattr("maskline.inputs.input_image.MAX_PIXELS", 100)
    with pytest.raises(InputError, match=r"large\.mp4'?: \d+ x \d+ pixels: expected at most 100"):
        list(iter_images(tmp_path / "large.mp4"))
