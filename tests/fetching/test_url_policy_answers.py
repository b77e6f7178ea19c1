"""URLs whose answers are refused: their status, length and form, the time they take, and whom they come from."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from fixtures.sites import IMAGE, Script, answer, kind, listening, names, outcome, redirect, refusal, run

from maskline.fetching import url_policy as module
from maskline.fetching.url_policy import FetchError, UrlPolicy, fetch_url

pytestmark = pytest.mark.usefixtures("dialled")


# ---------------------------------------------------------------- answers that are refused


@pytest.mark.parametrize("status", [204, 206, 300, 304, 400, 401, 404, 429, 500, 503])
def test_the_status_is_reported(status: int) -> None:
    """F40: the client learns what the image's server said."""
    error = outcome(answer(f"{status} Words", b"", length=None if status in (204, 304) else -1))
    assert (error.kind, error.status) == ("url_status", status)
    assert str(error) == f"the URL responds with status {status}"


async def endless(path: str, writer: asyncio.StreamWriter) -> None:
    head, block = b"HTTP/1.1 200 OK\r\n", b"x" * 5000
    if path == "/chunks":
        head, block = head + b"Transfer-Encoding: chunked\r\n", b"1388\r\n" + block + b"\r\n"
    writer.write(head + b"\r\n")
    while True:
        writer.write(block)
        await writer.drain()


@pytest.mark.parametrize("path", ["body", "chunks"])
def test_endless_bodies(path: str) -> None:
    """F40, B47: the limit of size holds for what comes, whatever was said."""
    assert outcome(endless, path, max_bytes=100_000).kind == "url_too_large"


def test_sizes() -> None:
    """F40, B47: exactly the limit is accepted; a length that says more is refused before the body comes."""
    assert outcome(answer(), max_bytes=len(IMAGE) - 1).kind == "url_too_large"
    assert outcome(answer(length=None), max_bytes=len(IMAGE) - 1).kind == "url_too_large"
    assert outcome(answer(body=b"", length=1 << 40), timeout=5).kind == "url_too_large"

    async def work() -> bytes:
        async with listening(answer()) as site:
            return await fetch_url(site.at(), site.policy(max_bytes=len(IMAGE)))

    assert run(work()) == IMAGE


@pytest.mark.parametrize("length", [len(IMAGE) + 1, "-1", "10, 20", "ten"])
def test_lengths_that_lie(length: int | str) -> None:
    assert outcome(answer(length=length)).kind == "url_unreachable"


def test_what_comes_after_the_stated_length_is_ignored() -> None:
    """Refused by parsers that see it in time."""

    async def work() -> bytes:
        async with listening(answer(length=10)) as site:
            with contextlib.suppress(FetchError):
                return await fetch_url(site.at(), site.policy())
        return IMAGE[:10]

    assert run(work()) == IMAGE[:10]


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "deflate, gzip"])
def test_compressed_answers_are_refused(encoding: str) -> None:
    """B47: a bomb is never inflated."""
    body = gzip.compress(bytes(1 << 20))
    assert outcome(answer(body=body, Content_Encoding=encoding)).kind == "url_compressed"


@pytest.mark.parametrize(
    "said", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nA: " + b"x" * 99999 + b"\r\n\r\n"]
)
def test_what_is_not_http(said: bytes) -> None:
    """B47: the client does not see what another service said."""

    async def script(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(said)

    error = outcome(script)
    assert error.kind == "url_unreachable" and "SSH" not in str(error)


def test_no_service_listens() -> None:
    async def work() -> FetchError:
        async with listening(answer()) as site:
            pass
        return await refusal(site.at(), site.policy())

    error = run(work())
    assert error.kind == "url_unreachable" and "127" not in str(error)


# ---------------------------------------------------------------- time


async def silence(path: str, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(10)


async def trickle(path: str, writer: asyncio.StreamWriter) -> None:
    """Forever, byte by byte: of the status, of headers, or of a body."""
    start = {"/status": b"HTTP/1.1 200 O", "/headers": b"HTTP/1.1 200 OK\r\nA: b", "/body": b"HTTP/1.1 200 OK\r\n\r\n"}[
        path
    ]
    writer.write(start)
    while True:
        writer.write(b"1")
        await writer.drain()
        await asyncio.sleep(0.02)


async def detour(path: str, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.1)
    await answer("302 Found", b"", Location="x")(path, writer)


@pytest.mark.parametrize(
    ("script", "path"),
    [(silence, ""), (trickle, "status"), (trickle, "headers"), (trickle, "body"), (detour, "")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_one_deadline_for_all(script: Script, path: str) -> None:
    """F40, B47: silence, trickled headers and bodies, and detours that are each quick enough."""
    start = time.monotonic()
    error = outcome(script, path, timeout=0.3, redirects=20)
    assert error.kind == "url_timeout" and "0.3 s" in str(error)
    assert 0.25 < time.monotonic() - start < 3


def test_the_deadline_covers_names() -> None:
    async def slow(host: str, port: int) -> Sequence[str]:
        await asyncio.sleep(10)
        return []

    assert run(kind("http://x.example/", UrlPolicy.of(["*"], timeout=0.1), slow)) == "url_timeout"


def test_a_caller_that_gives_up_ends_the_connection() -> None:
    async def work() -> None:
        async with listening(trickle) as site:
            task = asyncio.create_task(fetch_url(site.at("body"), site.policy()))
            while not site.heads:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(site.left.wait(), 5)

    run(work())


# ---------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate of its own for images.example, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    key = path.with_name("key.pem")
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=images.example"
    names = "subjectAltName=DNS:images.example"
    command = [openssl, *options.split(), "-addext", names, "-keyout", str(key), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    module.tls.cache_clear()
    yield certificate
    module.tls.cache_clear()


def secure(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_tls_checks_the_name(trusted: Path) -> None:
    """F40, B47: the name of the URL, not the address it was pinned to; a certificate for another is refused."""

    async def work() -> None:
        async with listening(redirect("x"), tls=secure(trusted)) as site:
            known = names(images_example=["127.0.0.1"], other_example=["127.0.0.1"])
            for host in ("images.example", "Images.example."):
                assert await fetch_url(site.at("0", host, "https"), site.policy(), look_up=known) == IMAGE
            site.heads.clear()
            for host in ("other.example", "127.0.0.1"):
                error = await refusal(site.at("x", host, "https"), site.policy(), known)
                assert error.kind == "url_unreachable" and "TLS" in str(error)
            assert not site.heads

    run(work())


def test_tls_wants_a_known_authority(certificate: Path) -> None:
    """B47."""

    async def work() -> None:
        async with listening(answer(), tls=secure(certificate)) as site:
            known = names(images_example=["127.0.0.1"])
            error = await refusal(site.at("x", "images.example", "https"), site.policy(), known)
            assert error.kind == "url_unreachable" and "TLS" in str(error) and not site.heads

    run(work())


def test_a_redirect_from_https_to_http_is_refused(trusted: Path) -> None:
    """B47."""

    async def work() -> None:
        async with listening(redirect("http://images.example:PORT/x"), tls=secure(trusted)) as site:
            known = names(images_example=["127.0.0.1"])
            assert await kind(site.at("0", "images.example", "https"), site.policy(), known) == "url_not_allowed"
            assert site.connections == 1

    run(work())
