"""What lies in the cache: damaged, put there by hand, fetched by several at once, out of date; and where it lies."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fixtures.downloads import OTHER, SHA, fails, get, left
from fixtures.web_server import BODY, Request, Server, serve, status

from maskline.errors import DownloadError, ParameterError
from maskline.fetching import download, http
from maskline.fetching.download import cache_dir, is_offline
from maskline.fetching.http import blocks

pytestmark = pytest.mark.usefixtures("quick")

# The cached copy


@pytest.mark.parametrize("sha256", [None, SHA])
def test_damaged_copy_is_fetched_again(
    server: Server, target: Path, caplog: pytest.LogCaptureFixture, sha256: str | None
) -> None:
    """B58."""
    get(server, target)
    target.write_bytes(BODY[:-1] + b"!")
    assert get(server, target, sha256=sha256).read_bytes() == BODY
    assert len(server.seen) == 2
    assert any(r.levelname == "WARNING" and f"{target} is damaged" in r.getMessage() for r in caplog.records)


def test_damaged_record_counts_as_damage(server: Server, target: Path) -> None:
    get(server, target)
    target.with_name("w.pdparams.sha256").write_bytes(b"\xff\x00")
    get(server, target)
    assert len(server.seen) == 2 and target.with_name("w.pdparams.sha256").read_text().startswith(SHA)


def test_copy_put_there_by_hand(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(OTHER)
    assert get(server, target).read_bytes() == OTHER
    assert get(server, target, sha256=SHA).read_bytes() == BODY  # not the one wanted


def test_stale_record_is_mentioned(server: Server, target: Path) -> None:
    get(server, target)
    target.unlink()
    server.play(status(404))
    fails(server, target, "(and remove w.pdparams.sha256 next to it)")
    target.with_name("w.pdparams.sha256").unlink()
    target.write_bytes(OTHER)
    assert get(server, target).read_bytes() == OTHER


def test_threads_fetch_once(server: Server, target: Path, caplog: pytest.LogCaptureFixture) -> None:
    def slow(request: Request) -> None:
        time.sleep(0.1)
        serve()(request)

    server.play(slow)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: get(server, target, timeout=2), range(4))) == [target] * 4
    assert len(server.seen) == 1 and target.read_bytes() == BODY
    assert any("waiting for another process" in message for message in caplog.messages)


SCRIPT = """
import pathlib, sys
from maskline.fetching.download import download_file
download_file(sys.argv[1], pathlib.Path(sys.argv[2]))
"""


def test_processes_fetch_once(server: Server, target: Path) -> None:
    def slow(request: Request) -> None:
        time.sleep(0.5)
        serve()(request)

    server.play(slow)
    command = [sys.executable, "-c", SCRIPT, server.url, str(target)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    for process in running:
        assert process.communicate(timeout=30)[1] == b"" and process.returncode == 0
    assert len(server.seen) == 1 and target.read_bytes() == BODY


def test_interrupt_leaves_the_part(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(response: Any, size: int) -> Iterator[bytes]:
        yield next(blocks(response, size))
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        get(server, target)
    assert left(target) == {".part", ".part.json"}
    note = json.loads(target.with_name("w.pdparams.part.json").read_text())
    assert note == {"url": server.url, "validator": '"one"', "length": len(BODY)}
    monkeypatch.setattr(download, "blocks", blocks)
    have = target.with_name("w.pdparams.part").stat().st_size
    assert get(server, target, sha256=SHA).read_bytes() == BODY
    assert have > 0 and server.seen[1]["Range"] == f"bytes={have}-"


# Kept up to date


DATES = ["Sat, 01 Jan 2022 00:00:00 GMT", "Sun, 02 Jan 2022 00:00:00 GMT"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"etag": '"one"'}, {"etag": '"two"'}),
        ({"etag": 'W/"one"'}, {"etag": 'W/"two"'}),
        ({"etag": None, "Last_Modified": DATES[0]}, {"etag": None, "Last_Modified": DATES[1]}),
    ],
    ids=["strong", "weak", "date"],
)
def test_refresh(server: Server, target: Path, first: dict[str, Any], second: dict[str, Any]) -> None:
    server.play(serve(**first))
    for _ in range(3):
        assert get(server, target, refresh=True).read_bytes() == BODY
    assert len(server.seen) == 3 and left(target) == {"", ".sha256", ".version.json"}
    server.play(serve(OTHER, **second))
    assert get(server, target, refresh=True).read_bytes() == OTHER
    server.play(serve(BODY, **second))
    assert get(server, target, refresh=True).read_bytes() == OTHER  # what it calls the same is the same


def test_refresh_without_a_version_fetches_again(server: Server, target: Path) -> None:
    for body in (BODY, OTHER, BODY):
        server.play(serve(body, etag=None))
        assert get(server, target, refresh=True).read_bytes() == body
    assert left(target) == {"", ".sha256"}


def test_refresh_of_a_damaged_copy_or_another_url_sets_no_condition(server: Server, target: Path) -> None:
    get(server, target, refresh=True)
    target.write_bytes(b"damaged")
    assert get(server, target, refresh=True).read_bytes() == BODY
    version = target.with_name("w.pdparams.version.json")
    for text in (version.read_text().replace("127.0.0.1", "elsewhere"), "{", "[1]", "{}"):
        version.write_text(text)
        get(server, target, refresh=True)
    assert not any("If-None-Match" in seen for seen in server.seen)


def test_a_version_is_not_taken_over_by_the_next_file(server: Server, target: Path) -> None:
    """Not refreshed, the file is replaced without a note of its version: the old note must not stay."""
    get(server, target, refresh=True)
    server.play(serve(OTHER, etag='"two"'))
    get(server, target, sha256=hashlib.sha256(OTHER).hexdigest())
    assert left(target) == {"", ".sha256"}


def test_refresh_offline(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    get(server, target, refresh=True)
    monkeypatch.setenv("MASKLINE_OFFLINE", "1")
    assert get(server, target, refresh=True).read_bytes() == BODY
    assert len(server.seen) == 1 and caplog.records[-1].levelname == "WARNING" and server.url in caplog.messages[-1]


def test_an_unrequested_304(server: Server, target: Path) -> None:
    server.play(status(304))
    fails(server, target, "the server responds 304")


@pytest.mark.parametrize("chunked", [False, True])
def test_deadline_of_a_server_that_trickles(server: Server, target: Path, chunked: bool) -> None:
    """Silence never lasts long here, but the whole does."""

    def trickle(request: Request) -> None:
        more = {"Transfer_Encoding": "chunked"} if chunked else {"ETag": '"one"'}
        request.head(200, None if chunked else 1000, **more)
        while not request.server.done.wait(0.02):
            request.wfile.write(b"1\r\nx\r\n" if chunked else b"x")

    server.play(trickle)
    start = time.monotonic()
    fails(server, target, "it takes longer than 0.4 s", deadline=0.4)
    assert 0.3 < time.monotonic() - start < 2 and len(server.seen) == 1


def test_deadline_leaves_no_time_to_ask_again(server: Server, target: Path) -> None:
    server.play(status(503, Retry_After="30"))
    fails(server, target, "it takes longer than 5 s; the server responds 503", deadline=5.0)
    assert len(server.seen) == 1


def test_advice(server: Server, target: Path) -> None:
    server.play(status(404))
    with pytest.raises(DownloadError, match=r"404.*; give a file$"):
        get(server, target, advice="give a file")


# The environment


@pytest.mark.parametrize("word", ["1", "true", "YES", " on "])
def test_offline(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    """F76: the message names the address and the file."""
    monkeypatch.setenv("MASKLINE_OFFLINE", word)
    assert is_offline()
    fails(server, target, "MASKLINE_OFFLINE forbids network access")
    assert not server.seen and not target.parent.exists()
    target.parent.mkdir()
    target.write_bytes(OTHER)
    assert get(server, target) == target


@pytest.mark.parametrize("word", ["", "0", "False", "no", "off"])
def test_online(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    """B71."""
    monkeypatch.setenv("MASKLINE_OFFLINE", word)
    assert not is_offline()


def test_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    """B71: a variable is a yes or a no, by its word."""
    monkeypatch.setenv("MASKLINE_OFFLINE", "maybe")
    with pytest.raises(ParameterError, match="MASKLINE_OFFLINE is 'maybe': expected 1, true"):
        is_offline()


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F76."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MASKLINE_HOME", "PADDLE_PDX_CACHE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_dir() == tmp_path / ".cache" / "maskline"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == tmp_path / ".cache" / "maskline"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "maskline"
    monkeypatch.setenv("PADDLE_PDX_CACHE_HOME", "~/pdx")
    assert cache_dir() == tmp_path / "pdx"
    monkeypatch.setenv("MASKLINE_HOME", "here")
    assert cache_dir() == Path.cwd() / "here"
    monkeypatch.setenv("MASKLINE_HOME", "")
    assert cache_dir() == tmp_path / "pdx"
    assert list(tmp_path.iterdir()) == []


def test_import_is_light() -> None:
    code = (
        "import sys, maskline.fetching.download; print([m for m in ('requests', 'rich', 'torch') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:secret@host/a.jpg", "http://host/a.jpg"),
        ("rtsp://u:p@ss@host:554/x", "rtsp://host:554/x"),
        ("rtsp://u:p/s@host/x", "rtsp://host/x"),
        ("https://host:8080/@someone/a.jpg", "https://host:8080/@someone/a.jpg"),
        ("http://host/a.jpg", "http://host/a.jpg"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert http.redacted(url) == shown
