"""URLs as inputs, against a local server."""

from __future__ import annotations

import io
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fixtures.encoded import encoded, pages, paths, scene, write
from fixtures.films import film
from fixtures.web_server import Scene, Server, running, serve, status
from PIL import Image

from maskline.errors import DownloadError, InputError, InputNotFoundError
from maskline.fetching import download
from maskline.inputs import InputImage, iter_images, web


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Online, with an empty cache, and quick to ask again."""
    for name in ("MASKLINE_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(download, "_BACKOFF", 0.01)
    monkeypatch.setattr(web, "TIMEOUT", 0.5)
    return tmp_path / "home" / "predict_input"


def by_path(bodies: dict[str, bytes]) -> Scene:
    """A server of one file for each path, query included."""
    return lambda request: serve(bodies[request.path], etag=f'"{request.path}"')(request)


def test_an_image(server: Server, cache: Path) -> None:
    """F17, B17: the query matters to the server and not to the name of results."""
    server.play(serve(encoded("png")))
    (image,) = iter_images(server.at("x/dog.png?size=2&f=.gif#here"))
    assert np.array_equal(image.pixels, scene()) and (image.page, image.fps) == (None, None)
    path = Path(image.path or "")
    assert path.name == "dog.png" and path.stem == "dog" and path.parent.parent == cache and path.is_file()
    assert server.seen[0]["path"] == "/x/dog.png?size=2&f=.gif"


def pdf() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20)).save(buffer, "PDF", save_all=True, append_images=[Image.new("RGB", (30, 20))])
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["image", "tiff", "pdf", "video"])
@pytest.mark.parametrize("path", ["files/17", "", "get?id=3.txt", "a.php"])
def test_the_first_bytes_show_what_it_is(server: Server, tmp_path: Path, kind: str, path: str) -> None:
    """B17: without a suffix, or with one that says nothing."""
    body = {"image": lambda: encoded("jpg"), "tiff": lambda: pages(2), "pdf": pdf}.get(
        kind, lambda: Path(film(tmp_path / "a.mp4", 2)).read_bytes()
    )()
    server.play(serve(body))
    found = [image.page for image in iter_images(server.at(path))]
    assert found == ([None] if kind == "image" else [0, 1])


def test_urls_of_one_name_do_not_mix(server: Server) -> None:
    """B16: two hosts' or queries' `a.png` are two files, in whatever batches they are read."""
    bodies = {path: encoded("png", scene(seed=i)) for i, path in enumerate(("/x/a.png", "/y/a.png", "/x/a.png?v=2"))}
    server.play(by_path(bodies))
    found = list(iter_images([server.at(path[1:]) for path in bodies]))
    assert [Path(image.path or "").name for image in found] == ["a.png"] * 3
    assert len({image.path for image in found}) == 3
    for i, image in enumerate(found):
        assert np.array_equal(image.pixels, scene(seed=i))


def test_urls_among_others_in_any_case(server: Server, tmp_path: Path) -> None:
    """F19, F20: in their place; read when their turn comes."""
    server.play(serve(encoded("png")))
    file = write(tmp_path / "a.png")
    url = server.at("b.png").replace("http:", "HTTP:")
    stream = iter_images([file, {"img": [url]}, file])
    assert next(stream).path == file and not server.seen
    assert [Path(image.path or "").name for image in stream] == ["b.png", "a.png"]


@pytest.mark.parametrize("name", ["http_local.png", "https.png", "http:a.png"])
def test_files_whose_names_begin_with_http(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """B18: a URL has ://."""
    write(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert paths(name) == [name]
    with pytest.raises(InputNotFoundError):
        list(iter_images(f"no_{name}"))


def test_the_copy_is_used_while_the_server_has_the_same(server: Server) -> None:
    """F17: cached, and never out of date."""
    server.play(serve(encoded("png"), etag='"one"'))
    first = next(iter_images(server.at("a.png")))
    again = next(iter_images(server.at("a.png")))
    assert "If-None-Match" in server.seen[1] and np.array_equal(first.pixels, again.pixels)
    server.play(serve(encoded("png", scene(seed=1)), etag='"two"'))
    changed = next(iter_images(server.at("a.png")))
    assert changed.path == first.path and np.array_equal(changed.pixels, scene(seed=1))


def test_copies_of_long_ago_go(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a process, when another is fetched; not the one that is asked for, and none without the network."""
    server.play(serve(encoded("png"), etag='"one"'))
    for name in ("old", "new", "asked"):
        next(iter_images(server.at(f"{name}.png")))
    places = {path.name: path.parent for path in cache.rglob("*.png")}
    for name in ("old.png", "asked.png"):
        os.utime(places[name], (time.time() - 31 * 24 * 3600,) * 2)
    web._tidied.clear()
    monkeypatch.setenv("MASKLINE_OFFLINE", "1")
    next(iter_images(server.at("new.png")))
    assert all(path.is_dir() for path in places.values())
    monkeypatch.delenv("MASKLINE_OFFLINE")
    next(iter_images(server.at("asked.png")))
    assert {name for name, path in places.items() if path.is_dir()} == {"new.png", "asked.png"}
    assert "If-None-Match" in server.seen[-1]


def test_offline(server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    server.play(serve(encoded("png")))
    next(iter_images(server.at("a.png")))
    monkeypatch.setenv("MASKLINE_OFFLINE", "1")
    assert np.array_equal(next(iter_images(server.at("a.png"))).pixels, scene())
    assert [record.levelname for record in caplog.records] == ["WARNING"] and server.at("a.png") in caplog.messages[0]
    with pytest.raises(DownloadError, match="MASKLINE_OFFLINE forbids network access"):
        next(iter_images(server.at("b.png")))
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("scene_", "reason"),
    [
        (status(404), "the server responds 404"),
        (status(500), r"the server responds 500 .*\(tried 3 times\)"),
        (serve(length=300 << 20), "it has 314572800 bytes: expected at most 209715200"),
        (serve(upto=10, stall=True), "connection lost: .*timed out"),
    ],
    ids=["404", "500", "large", "silent"],
)
def test_what_a_server_may_do(server: Server, scene_: Scene, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """F17, B20: one line that names the URL and what to do; skipped like any other input."""
    server.play(scene_)
    url = server.at("a.png?x=1")
    with pytest.raises(DownloadError, match=reason) as caught:
        list(iter_images(url))
    message = str(caught.value)
    assert f"can't download {url} to " in message and "\n" not in message
    assert message.endswith("; download it yourself and pass the path of the file")
    assert list(iter_images([url, scene()], on_error="skip"))[-1].path is None
    assert caplog.messages[-1].startswith(f"skipped: can't download {url}")


def test_a_server_that_trickles(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def trickle(request: object) -> None:
        request.head(200, 10_000)  # type: ignore[attr-defined]
        while not request.server.done.wait(0.02):  # type: ignore[attr-defined]
            request.wfile.write(b"x")  # type: ignore[attr-defined]

    monkeypatch.setattr(web, "LIMITS", web.Limits(1000_000, 0.3))
    server.play(trickle)
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"it takes longer than 0\.3 s"):
        list(iter_images(server.at("a.png")))
    assert time.monotonic() - start < 2


def test_videos_have_limits_of_their_own(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server.play(serve(Path(film(tmp_path / "a.mp4", 3)).read_bytes()))
    monkeypatch.setattr(web, "LIMITS", web.Limits(100, 10.0))
    assert len(list(iter_images(server.at("a.mp4?x=1")))) == 3
    with pytest.raises(DownloadError, match="expected at most 100"):
        list(iter_images(server.at("a?x=.mp4")))


@pytest.mark.parametrize(
    "body", [b"<!DOCTYPE html><p>Not found", b"", encoded("png")[:99]], ids=["page", "none", "cut"]
)
def test_what_came_is_not_an_image(server: Server, body: bytes) -> None:
    server.play(serve(body))
    url = server.at("a.png")
    with pytest.raises(InputError, match="is an HTML page|is empty|cut short") as caught:
        list(iter_images(url))
    assert str(caught.value).startswith(repr(url))


@pytest.mark.parametrize("url", ["http://", "https:///a.png", "http://[1/a.png", "http://a:b/c.png", "http://?a"])
def test_no_urls(url: str) -> None:
    with pytest.raises(InputError, match="is not a valid URL"):
        list(iter_images(url))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://x/y/dog.jpg?size=2", "dog.jpg"),
        ("https://x/%E7%8C%AB.png", "猫.png"),
        ("https://x/a%2F..%2F..%2Fb.png", "b.png"),
        ("https://x/..", "input"),
        ("https://x/.hidden.png", "hidden.png"),
        ("https://x/a%00b:c*d.png", "a_b_c_d.png"),
        ("https://x/y/", "y"),
        ("https://x.org", "x.org"),
        ("https://x/" + "狗" * 300 + ".JPG", "狗" * 46 + ".JPG"),
        ("https://x/" + "a" * 300, "a" * 50),
        ("https://x/a." + "b" * 300, "a." + "b" * 48),
        ("https://x/%20", "input"),
    ],
)
def test_names_of_files(url: str, name: str) -> None:
    assert web.file_name(url) == name
    assert len(f"{name}.version.json".encode()) <= 255


def test_log_and_no_bar(
    server: Server,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    server.play(serve(encoded("png")))
    with caplog.at_level(logging.INFO, "maskline"):
        assert all(isinstance(image, InputImage) for image in iter_images(server.at("a.png")))
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith(f"downloading {server.at('a.png')} to ")
    assert capsys.readouterr() == ("", "")
