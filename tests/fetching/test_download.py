"""fetch against a server that misbehaves in every way we know of."""

from __future__ import annotations

import email.utils
import gzip
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from fixtures.downloads import OTHER, SHA, fails, get, left
from fixtures.web_server import BODY, Request, Scene, Server, serve, status

from maskline.errors import DownloadError, ParameterError
from maskline.fetching import download, http
from maskline.fetching.download import download_file

pytestmark = pytest.mark.usefixtures("quick")


def endless_redirect(request: Request) -> None:
    request.head(302, 1 << 40, Location="/again")
    for _ in range(1000):
        request.wfile.write(BODY)


def hang_up(request: Request) -> None:
    request.connection.shutdown(socket.SHUT_RDWR)


# What goes well


def test_download_and_cache(server: Server, target: Path) -> None:
    assert get(server, target) == target
    assert target.read_bytes() == BODY and left(target) == {"", ".sha256"}
    assert target.with_name("w.pdparams.sha256").read_text() == f"{SHA}  w.pdparams\n"
    assert get(server, target) == get(server, target, sha256=SHA.upper()) == target
    assert len(server.seen) == 1


@pytest.mark.parametrize("length", [-1, None], ids=["stated", "not stated"])
def test_empty_and_unknown_length(server: Server, target: Path, length: int | None) -> None:
    server.play(serve(BODY if length is None else b"", length=length))
    assert get(server, target).read_bytes() == (BODY if length is None else b"")


def test_chunked(server: Server, target: Path) -> None:
    def chunked(request: Request) -> None:
        request.head(200, None, Transfer_Encoding="chunked")
        for part in (BODY[:1000], BODY[1000:], b""):
            request.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")

    server.play(chunked)
    assert get(server, target).read_bytes() == BODY


def test_body_is_not_decoded(server: Server, target: Path) -> None:
    packed = gzip.compress(BODY)
    server.play(serve(packed, Content_Encoding="gzip"))
    assert get(server, target).read_bytes() == packed
    assert server.seen[0]["Accept-Encoding"] == "identity"


def test_redirects_are_followed(server: Server, target: Path) -> None:
    server.play(status(302, Location="/b"), status(307, Location=server.url + "c"), serve())
    assert get(server, target, sha256=SHA).read_bytes() == BODY
    assert [seen["path"] for seen in server.seen] == ["/w.pdparams", "/b", "/w.pdparamsc"]


def test_progress_bar_goes_to_stderr(server: Server, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    get(server, target, progress=True)
    out, err = capsys.readouterr()
    assert not out and "w.pdparams" in err


def test_log_instead_of_a_bar(
    server: Server, target: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    get(server, target, progress=None)  # stderr is not a terminal here
    assert caplog.messages == [f"downloading {server.url} to {target}"]
    assert capsys.readouterr() == ("", "")


# What passes


@pytest.mark.parametrize("validator", [{}, {"etag": None, "Last_Modified": "Sat, 01 Jan 2022 00:00:00 GMT"}])
@pytest.mark.parametrize("stall", [False, True], ids=["cut", "stall"])
def test_resume(server: Server, target: Path, validator: dict[str, Any], stall: bool) -> None:
    server.play(serve(upto=300_000, stall=stall, **validator), serve(**validator))
    assert get(server, target, sha256=SHA).read_bytes() == BODY
    assert len(server.seen) == 2
    start = int(server.seen[1]["Range"].removeprefix("bytes=").removesuffix("-"))
    assert 200_000 < start <= 300_000
    assert server.seen[1]["If-Range"] == validator.get("Last_Modified", '"one"')
    assert left(target) == {"", ".sha256"}


def test_resume_in_a_later_call(server: Server, target: Path) -> None:
    server.play(serve(upto=300_000))
    fails(server, target, "connection lost", "tried 1 time", attempts=1)
    assert left(target) == {".part", ".part.json"}
    server.play(serve())
    assert get(server, target, sha256=SHA).read_bytes() == BODY
    assert server.seen[-1]["Range"].startswith("bytes=")


def test_part_of_another_url_or_with_a_broken_note_is_dropped(server: Server, target: Path) -> None:
    for note in ('{"url": "http://other", "validator": "x", "length": 600000}', "{", "[1]", '{"url": 1}', ""):
        target.parent.mkdir(exist_ok=True)
        target.with_name("w.pdparams.part").write_bytes(OTHER[:1000])
        target.with_name("w.pdparams.part.json").write_text(note)
        assert get(server, target, sha256=SHA).read_bytes() == BODY
        assert "Range" not in server.seen[-1]
        target.unlink()


@pytest.mark.parametrize(
    "second",
    [
        serve(ranges=False),
        serve(ranges=False, etag='"two"'),
        serve(etag='"two"'),
        pytest.param(serve(etag="W/weak"), id="weak"),
    ],
)
def test_a_whole_answer_to_a_range_starts_from_zero(server: Server, target: Path, second: Scene) -> None:
    server.play(serve(OTHER, upto=300_000), second)
    assert get(server, target, sha256=SHA).read_bytes() == BODY
    assert len(server.seen) == 2 and "Range" in server.seen[1]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_validator_nothing_is_resumed(server: Server, target: Path, etag: str | None) -> None:
    server.play(serve(OTHER, upto=300_000, etag=etag), serve(etag=etag))
    assert get(server, target, sha256=SHA).read_bytes() == BODY
    assert "Range" not in server.seen[1]


def test_changed_file_behind_an_ignored_if_range(server: Server, target: Path) -> None:
    server.play(serve(OTHER, upto=300_000), serve(etag='"two"', check=False))
    assert get(server, target).read_bytes() == BODY
    assert [("Range" in seen) for seen in server.seen] == [False, True, False]


def test_changed_length_behind_an_ignored_if_range(server: Server, target: Path) -> None:
    server.play(serve(OTHER, upto=300_000), serve(BODY + b"more", check=False))
    assert get(server, target).read_bytes() == BODY + b"more"
    assert "Range" not in server.seen[2]


def test_mixed_file_is_noticed_by_its_digest(server: Server, target: Path) -> None:
    server.play(serve(OTHER, upto=300_000), serve())  # same ETag, other bytes
    assert get(server, target, sha256=SHA).read_bytes() == BODY
    assert [("Range" in seen) for seen in server.seen] == [False, True, False]


def test_416_starts_again(server: Server, target: Path) -> None:
    server.play(serve(upto=300_000), status(416, Content_Range="bytes */1000"), serve(BODY[:1000]))
    assert get(server, target).read_bytes() == BODY[:1000]
    assert "Range" not in server.seen[2]


PASSING = {"503": status(503), "500": status(500), "429": status(429), "408": status(408), "hangs up": hang_up}


@pytest.mark.parametrize("scene", PASSING.values(), ids=PASSING.keys())
def test_passing_faults(server: Server, target: Path, scene: Scene) -> None:
    server.play(scene, scene, serve())
    assert get(server, target).read_bytes() == BODY


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("1", 0.9, 2),
        ("99999", 0.2, 0.9),
        (email.utils.formatdate(time.time() + 9999, usegmt=True), 0.2, 0.9),
        (email.utils.formatdate(time.time() - 9999, usegmt=True), 0, 0.2),
        ("soon", 0, 0.2),
    ],
    ids=["seconds", "too many", "date", "past", "nonsense"],
)
def test_retry_after(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch, header: str, least: float, most: float
) -> None:
    monkeypatch.setattr(download, "_LONGEST_WAIT", 1.0 if header == "1" else 0.3)
    server.play(status(503, Retry_After=header), serve())
    start = time.monotonic()
    get(server, target)
    assert least <= time.monotonic() - start < most + 0.5


# What fails for good


@pytest.mark.parametrize(
    ("scenes", "words", "requests"),
    [
        ([status(404)], ["the server responds 404 Not Found"], 1),
        ([status(403)], ["403"], 1),
        ([status(204)], ["204"], 1),
        ([status(206)], ["206"], 1),
        ([status(304)], ["304"], 1),
        ([status(503)], ["503", "tried 3 times"], 3),
        ([hang_up], ["no connection", "tried 3 times"], 3),
        ([serve(upto=0, stall=True)], ["timed out", "tried 3 times"], 3),
        ([lambda request: request.server.done.wait(10) and None], ["timed out", "tried 3 times"], 3),
        ([serve(length=len(BODY) + 10, ranges=False)], ["connection lost", "tried 3 times"], 3),
        ([serve(upto=9, etag=None)], ["connection lost", "tried 3 times"], 3),
        ([status(302, Location="/w.pdparams")], ["redirects more than 10 times"], 11),
        ([status(302, Location="ftp://x/y")], ["redirects to ftp://x/y, which is not safe"], 1),
        ([status(302, Location="file:///etc/passwd")], ["file:///etc/passwd, which is not safe"], 1),
        ([status(302, Location="http://[::/")], ["invalid address"], 1),
        ([status(302, Location="http://")], ["more than 10 times"], 11),
        ([status(302, Location="/\xff")], ["invalid address"], 1),
        ([endless_redirect], ["more than 10 times"], 11),
        ([status(302)], ["302"], 1),
    ],
    ids=lambda v: v[0] if isinstance(v, list) and isinstance(v[0], str) else "",
)
def test_final_faults(server: Server, target: Path, scenes: list[Scene], words: list[str], requests: int) -> None:
    server.play(*scenes)
    fails(server, target, *words, attempts=3)
    assert len(server.seen) == requests


def test_too_short_a_length_is_noticed_by_the_digest(server: Server, target: Path) -> None:
    server.play(serve(length=1000))
    fails(server, target, f"expected {SHA}", sha256=SHA)
    assert len(server.seen) == 1 and left(target) == set()


def test_wrong_digest(server: Server, target: Path) -> None:
    fails(server, target, f"its sha256 is {SHA}, expected {'0' * 64}", sha256="0" * 64)
    assert len(server.seen) == 1 and left(target) == set()


def test_no_server(target: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match=r"no connection: .*Connection refused \(tried 2 times\); download it"):
        download_file(f"http://127.0.0.1:{port}/x", target, attempts=2, timeout=0.2)


def test_https_is_not_left() -> None:
    import requests

    response = requests.Response()
    response.status_code, response.url = 302, "https://safe/a"
    response.headers["Location"] = "http://unsafe/a"
    with pytest.raises(http.PermanentError, match="https://safe/a redirects to http://unsafe/a, which is not safe"):
        http.next_url(response)
    response.headers["Location"] = "//other/b"
    assert http.next_url(response) == "https://other/b"


def test_https_needs_a_certificate(server: Server, target: Path) -> None:
    with pytest.raises(DownloadError, match="no secure connection"):
        download_file(server.url.replace("http:", "https:"), target, timeout=0.5)


@pytest.mark.parametrize("scene", [serve(), serve(length=None)], ids=["stated", "not stated"])
def test_max_bytes(server: Server, target: Path, scene: Scene) -> None:
    server.play(scene)
    fails(server, target, "expected at most 1000", max_bytes=1000)
    assert left(target) == set()


def test_disk_full(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 5, 5))
    fails(server, target, f"it needs {len(BODY)} bytes, but the disk has 5 free")


def test_faults_of_the_disk_are_not_asked_again(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    fails(server, target, "No space left on device")
    assert len(server.seen) == 1


def test_places_that_can_not_be(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    fails(server, tmp_path / "file" / "w.pdparams", "file")
    with pytest.raises(DownloadError, match="it is a folder"):
        get(server, tmp_path)
    assert not server.seen


@pytest.mark.parametrize("url", ["ftp://x/y", "file:///etc/passwd", "w.pdparams", "", "http://[::"])
def test_only_http(url: str, target: Path) -> None:
    with pytest.raises(ParameterError, match="expected an http:// or https:// URL"):
        download_file(url, target)


@pytest.mark.parametrize("options", [{"attempts": 0}, {"sha256": "abc"}, {"sha256": ""}])
def test_senseless_options(target: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        download_file("http://127.0.0.1/x", target, **options)
