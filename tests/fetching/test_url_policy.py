"""Fetching a client's URL, against local servers that play tricks. Nothing leaves the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import ipaddress
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

import maskline
from maskline.errors import MasklineError, ParameterError
from maskline.fetching import url_policy as module
from maskline.fetching.url_policy import FetchError, LookUp, UrlPolicy, fetch_url, look_up

T = TypeVar("T")
LOOPBACK = "127.0.0.0/8"
IMAGE = bytes(range(256)) * 40
Script = Callable[[str, asyncio.StreamWriter], Awaitable[None]]  # gets the path


@pytest.fixture(autouse=True)
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that something tried to connect to; any that is not of the loopback fails the test."""
    tried: list[str] = []
    connect = asyncio.selector_events.BaseSelectorEventLoop.sock_connect  # type: ignore[attr-defined]

    async def sock_connect(loop: object, sock: socket.socket, address: tuple[Any, ...]) -> None:
        tried.append(address[0])
        assert ipaddress.ip_address(address[0]).is_loopback, f"a connection to {address[0]}"
        await connect(loop, sock, address)

    monkeypatch.setattr(asyncio.selector_events.BaseSelectorEventLoop, "sock_connect", sock_connect)  # type: ignore[attr-defined]
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tried


class Site:
    """A listener: its port, how many connections it had, the heads of requests."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.heads: list[str] = []
        self.left = asyncio.Event()  # a client went away

    def at(self, path: str = "a.png", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}/{path}"

    def policy(self, *hosts: str, networks: Sequence[str] = (LOOPBACK,), **limits: Any) -> UrlPolicy:
        """Hosts at this site's port; by default all."""
        return UrlPolicy.of([f"{host}:{self.port}" for host in hosts or ("*",)], networks, **limits)


@contextlib.asynccontextmanager
async def listening(
    script: Script, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Site]:
    """A server that answers each request with what ``script`` writes, and closes."""
    site = Site()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        site.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            site.heads.append(head)
            await script(head.split()[1], writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):  # the last: the test ended
            site.left.set()
        finally:
            writer.close()

    server = await asyncio.start_server(handle, host, port, ssl=tls)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def answer(status: str = "200 OK", body: bytes = IMAGE, length: int | str | None = -1, **headers: str) -> Script:
    """A whole answer; ``length``: what Content-Length says, -1 the truth, None nothing."""

    async def script(path: str, writer: asyncio.StreamWriter) -> None:
        told = {} if length is None else {"Content_Length": str(len(body) if length == -1 else length)}
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in {**told, **headers}.items()]
        writer.write("\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + body)

    return script


def redirect(*places: str, status: str = "302 Found", body: bytes = b"") -> Script:
    """``/N`` leads to the N-th place, where ``PORT`` is the server's own, and any other path to an image."""

    async def script(path: str, writer: asyncio.StreamWriter) -> None:
        to, port = path[1:], writer.get_extra_info("sockname")[1]
        if not to.isdecimal():
            await answer()(path, writer)
            return
        await answer(status, body, Location=places[int(to)].replace("PORT", str(port)), Set_Cookie="a=b")(path, writer)

    return script


def names(**known: Sequence[str]) -> LookUp:
    """A resolver; underscores stand for dots. It lists what it was asked."""

    async def look_up(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        if host not in table:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return table[host]

    table = {name.replace("_", "."): addresses for name, addresses in known.items()}
    asked: list[str] = []
    look_up.asked = asked  # type: ignore[attr-defined]
    return look_up


async def refusal(url: str, policy: UrlPolicy, look_up: LookUp = look_up) -> FetchError:
    with pytest.raises(FetchError) as caught:
        await fetch_url(url, policy, look_up=look_up)
    error = caught.value
    assert isinstance(error, MasklineError) and error.http_status == 422
    assert "\n" not in str(error) and len(str(error)) < 400
    return error


async def kind(url: str, policy: UrlPolicy, look_up: LookUp = look_up) -> str:
    return (await refusal(url, policy, look_up)).kind


def outcome(script: Script, path: str = "a.png", **limits: Any) -> FetchError:
    """Why a script's answer is refused, by a policy that allows the place."""

    async def work() -> FetchError:
        async with listening(script) as site:
            return await refusal(site.at(path), site.policy(**limits))

    return run(work())


# ---------------------------------------------------------------- what is fetched


@pytest.mark.parametrize("length", [-1, None])
def test_an_image(length: int | None) -> None:
    """F40: the bytes come as they are, with or without a length; what we send says who asks, and nothing else."""

    async def work() -> None:
        async with listening(answer(length=length)) as site:
            assert await fetch_url(site.at("a b.png?x=1#part"), site.policy("127.0.0.1")) == IMAGE
            head = site.heads[0]
            assert head.startswith(f"GET /a%20b.png?x=1 HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\n")
            assert f"\r\nUser-Agent: maskline/{maskline.__version__}\r\n" in head
            assert "\r\nAccept-Encoding: identity\r\n" in head
            sent = {line.partition(":")[0] for line in head.splitlines()[1:-1]}
            assert sent - {"Connection"} == {"Host", "User-Agent", "Accept", "Accept-Encoding"}

    run(work())


def test_chunks() -> None:
    async def script(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")

    async def work() -> bytes:
        async with listening(script) as site:
            return await fetch_url(site.at(), site.policy(max_bytes=5))

    assert run(work()) == b"abcde"


@pytest.mark.parametrize("host", ["images.example", "IMAGES.Example", "images.example.", "ｉmages。example"])
def test_a_name(host: str) -> None:
    """F40: whatever the spelling of a name, the list and the server see one."""

    async def work() -> None:
        async with listening(answer()) as site:
            known = names(images_example=["127.0.0.1"])
            assert await fetch_url(site.at(host=host), site.policy("Images.example."), look_up=known) == IMAGE
            assert f"\r\nHost: images.example:{site.port}\r\n" in site.heads[0]

    run(work())


def test_a_name_that_is_not_ascii() -> None:
    """F40: a name in Unicode is listed and asked by its IDNA form."""

    async def work() -> None:
        async with listening(answer()) as site:
            known = names(**{"xn--bcher-kva_example": ["127.0.0.1"]})
            for listed in ("Bücher.example", "xn--bcher-kva.example", "*.EXAMPLE"):
                assert await fetch_url(site.at(host="bÜcher.example"), site.policy(listed), look_up=known) == IMAGE
            assert await kind(site.at(host="bucher.example"), site.policy("bücher.example"), known) == "url_not_allowed"

    run(work())


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"])
def test_redirects_are_followed(status: str) -> None:
    """F40: relative ones, and to another host of the list; neither cookies nor where we come from go along."""

    async def work() -> None:
        script = redirect("1", "//b.example:PORT/2", "http://A.example:PORT/pic?x", status=status, body=b"gone")
        async with listening(script) as site:
            known = names(a_example=["127.0.0.1"], b_example=["127.0.0.1"])
            policy = site.policy("a.example", "b.example")
            assert await fetch_url(site.at("0", "a.example"), policy, look_up=known) == IMAGE
            assert [head.split()[1] for head in site.heads] == ["/0", "/1", "/2", "/pic?x"]
            assert "cookie" not in (heads := "".join(site.heads).lower()) and "referer" not in heads
            assert known.asked == ["a.example", "a.example", "b.example", "a.example"]  # type: ignore[attr-defined]

    run(work())


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """B47: a proxy would make the connection, to an address that was not checked."""

    async def work() -> None:
        async with listening(answer()) as site, listening(answer(body=b"proxy")) as proxy:
            for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, proxy.at(""))
            assert await fetch_url(site.at(), site.policy()) == IMAGE
            assert proxy.connections == 0

    run(work())


# ---------------------------------------------------------------- what is refused without a connection


def test_off_by_default(dialled: list[str]) -> None:
    """F40, B47: nobody listed hosts."""
    assert not UrlPolicy().enabled and not UrlPolicy.of([]).enabled and UrlPolicy.of(["*"]).enabled
    error = run(refusal("http://127.0.0.1/", UrlPolicy()))
    assert (
        error.kind == "url_not_allowed"
        and "send the image in Base64, or have the service started with --allow-url-host HOST" in str(error)
    )
    assert not dialled


NO_URLS = [
    *("http:///a.png", "http://", "http:a.png", "a.png", "", "http://[::1", "http://[]@/", "http://h:99999/"),
    *("http://h:port/", "http://a..example/", "http://.example/", "http://a_-.example/"),
    *(f"http://{'a' * 64}.example/", f"http://{'a.' * 130}example/", "http://a b.example/", "http://127%2e0.0.1/"),
    *("http://1.2.3.4.5/", "http://256.1.1.1/", "http://example.0x/x", "http://images.example\\@127.0.0.1/"),
    *("http://127.0.0.1\t/", "http://127.0.0.1/\r\nX: y", "http://[fe80::1%25eth0]/", "http://[::1%lo]/"),
    *("http://\ud800/", "http://xn--a.example:80:80/", "http://h/" + "a" * 9000),
]


@pytest.mark.parametrize("url", NO_URLS, ids=lambda url: ascii(url)[:30])
def test_no_urls(url: str, dialled: list[str]) -> None:
    """B47: what two parsers could read in two ways is read in none."""
    assert run(kind(url, UrlPolicy.of(["*"], [LOOPBACK, "::/0"]))) == "url_invalid"
    assert not dialled


@pytest.mark.parametrize(
    "url", ["ftp://h/", "file://h/etc/passwd", "gopher://h/", "//h/a", "http://u:p@h/", "http://u@h/"]
)
def test_schemes_and_passwords(url: str, dialled: list[str]) -> None:
    """B47."""
    assert run(kind(url, UrlPolicy.of(["*"], [LOOPBACK]), names(h=["127.0.0.1"]))) == "url_not_allowed"
    assert not dialled


SPELLINGS = [  # of 127.0.0.1, or of an address that leads there
    *("127.0.0.1", "127.1", "127.0.1", "2130706433", "017700000001", "0x7f000001", "0x7F.0.0.1", "0177.0.0.01"),
    *("127.0.0.1.", "①②⑦.0.0.1", "１２７.0.0.1", "127。0。0。1", "[::1]", "[::ffff:127.0.0.1]", "[::FFFF:7f00:1]"),
    *("[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::127.0.0.1]", "[2002:7f00:1::]", "[0:0::0:1]", "0", "0x0"),
    *("[2001:0:7f00:1::]", "[::]", "localhost", "LOCALHOST.", "ⓛocalhost"),
]


def test_spelled_addresses(dialled: list[str]) -> None:
    """B47: no spelling of an address passes, and nothing is dialled; allowed, the ones of IPv4 are one address."""

    async def work() -> None:
        async with listening(answer()) as site:
            for host in SPELLINGS:
                error = await refusal(site.at(host=host), site.policy(networks=()), look_up)
                assert error.kind == "url_not_allowed", host
            assert not dialled and site.connections == 0
            for host in SPELLINGS[:12]:
                assert await fetch_url(site.at(host=host), site.policy("127.0.0.1")) == IMAGE, host
            assert set(dialled) == {"127.0.0.1"}

    run(work())


NOT_PUBLIC = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.255.255.254", "168.63.129.16"),
    *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.0.192", "192.0.2.1", "192.88.99.1"),
    *("192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1"),
    *("255.255.255.255", "::", "::1", "::7f00:1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"),
    *("64:ff9b:1::808:808", "100::1", "2001::1", "2001:0:808:808::1", "2001:2::1", "2001:10::1", "2001:20::1"),
    *("2001:db8::1", "2002:a00:1::", "2002:808:808::1", "3fff::1", "4000::1", "5f00::1", "fc00::1", "fd00:ec2::254"),
    *("fe80::1", "fe80::1%eth0", "2606:4700::1%1", "fec0::1", "ff02::1", "ff0e::1"),
]


def test_which_addresses_are_public() -> None:
    """B47: private, link-local (metadata), shared, reserved, multicast, documentation, tunnels; the rest is public."""
    anything = UrlPolicy.of(["*"])
    for text in NOT_PUBLIC:
        assert not anything.allows(ipaddress.ip_address(text)), text
    for text in ("8.8.8.8", "172.32.0.1", "192.0.1.1", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808"):
        assert anything.allows(ipaddress.ip_address(text)), text


def test_networks_that_are_allowed() -> None:
    policy = UrlPolicy.of(["*"], ["10.0.0.0/8", " fd00::/8 "])
    for text in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd12::1", "8.8.8.8"):
        assert policy.allows(ipaddress.ip_address(text)), text
    for text in ("fc00::1", "192.168.0.1", "fd12::1%1", "169.254.169.254"):
        assert not policy.allows(ipaddress.ip_address(text)), text


BAD_ANSWERS = [
    *(["127.0.0.2"], ["127.0.0.1", "127.0.0.2"], ["127.0.0.2", "127.0.0.1"], ["127.0.0.1", "169.254.169.254"]),
    *(["127.0.0.1", "::1"], ["127.0.0.1", "::ffff:127.0.0.2"], ["127.0.0.1", "nonsense"], ["fe80::1%lo"], []),
]


def test_names_of_addresses_that_are_not_allowed(dialled: list[str]) -> None:
    """F40, B47: one bad address spoils all, and the client can't tell which, nor whether there is such a name."""

    async def work() -> None:
        async with listening(answer()) as site:
            policy, url = site.policy(networks=["127.0.0.1/32"]), site.at(host="x.example")
            errors = [await refusal(url, policy, names(x_example=bad)) for bad in BAD_ANSWERS]
            errors.append(await refusal(url, policy, names()))
            assert {(error.kind, str(error)) for error in errors} == {
                ("url_not_allowed", "x.example has no address that this service may fetch from")
            }
            assert not dialled and site.connections == 0

    run(work())


def test_a_host_that_is_not_listed_is_not_looked_up(dialled: list[str]) -> None:
    """B47."""
    known = names(b_example=["127.0.0.1"])
    policy = UrlPolicy.of(["a.example", "*.c.example", "d.example:81"], [LOOPBACK])
    for url in (
        "http://b.example/",
        "http://c.example/",
        "http://xc.example/",
        "http://d.example/",
        "http://a.example:0/",
    ):
        error = run(refusal(url, policy, known))
        assert error.kind == "url_not_allowed"
        assert str(error).endswith(f"--allow-url-host {url[7:-1]}")  # what would allow it
    assert not known.asked and not dialled  # type: ignore[attr-defined]


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 needs setting up elsewhere")
def test_rebinding(dialled: list[str]) -> None:
    """B47: a name is looked up once for each hop, and the connection goes to what was checked, not to a later one."""
    answers = [["127.0.0.2"], ["127.0.0.1"]]  # the first plays a public address, the second one of ours

    async def rebinding(host: str, port: int) -> Sequence[str]:
        return answers.pop(0)

    async def work() -> None:
        script = redirect("1")
        async with listening(script, host="127.0.0.2") as site, listening(answer(), port=site.port) as ours:
            policy = site.policy(networks=["127.0.0.2/32"])
            assert await fetch_url(site.at(host="x.example"), policy, look_up=rebinding) == IMAGE
            assert (len(answers), dialled) == (1, ["127.0.0.2"])
            answers.insert(0, ["127.0.0.2"])
            error = await refusal(site.at("0", "x.example"), policy, rebinding)
            assert error.kind == "url_not_allowed" and not answers
            assert set(dialled) == {"127.0.0.2"} and ours.connections == 0

    run(work())


# ---------------------------------------------------------------- redirects that are refused


@pytest.mark.parametrize(
    "place",
    [
        *("http://127.0.0.2:PORT/x", "http://2130706434:PORT/x", "http://[::ffff:127.0.0.2]:PORT/x"),
        *("//secret.example:PORT/x", "//listed.example:PORT/x", "http://images.example:1/x"),
        *("http://images.example/x", "http://u:p@images.example:PORT/x", "ftp://images.example:PORT/x"),
        *("file:///etc/passwd", "http://[::1", "http://\x80/"),
    ],
)
def test_redirects_are_checked(place: str, dialled: list[str]) -> None:
    """F40, B47: each hop anew; the message hides where it leads."""

    async def work() -> None:
        async with listening(redirect(place)) as site:
            known = names(images_example=["127.0.0.1"], secret_example=["127.0.0.1"], listed_example=["127.0.0.3"])
            hosts = ("images.example", "listed.example", "127.0.0.2", "[::ffff:127.0.0.2]")
            policy = site.policy(*hosts, networks=["127.0.0.1/32"])
            error = await refusal(site.at("0", "images.example"), policy, known)
            assert error.kind == "url_not_allowed"
            assert str(error) == "the URL redirects to a target that this service may not fetch"
            assert dialled == ["127.0.0.1"] and site.connections == 1

    run(work())


def test_redirects_without_end() -> None:
    """B47: loops end after as many as the policy says, and not one connection later."""

    async def work() -> None:
        for most in (0, 2):
            async with listening(redirect("0")) as site:
                assert await kind(site.at("0"), site.policy(redirects=most)) == "url_redirects"
                assert site.connections == most + 1

    run(work())
    nowhere = outcome(answer("302 Found", b""))
    assert nowhere.kind == "url_redirects" and "without a target" in str(nowhere)


# ---------------------------------------------------------------- answers that are refused


@pytest.mark.parametrize("status", [204, 206, 300, 304, 400, 401, 404, 429, 500, 503])
def test_the_status_is_told(status: int) -> None:
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


def test_what_comes_after_the_said_length_is_no_part() -> None:
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


def test_nobody_listens() -> None:
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


# ---------------------------------------------------------------- what users write


LISTED = [
    ("example.org", "http://example.org/ https://EXAMPLE.org./", "http://example.org:8080/ https://example.org:80/"),
    ("Example.org.:8080", "http://example.org:8080/ https://example.org:8080/", "http://example.org/"),
    ("*.example.org", "http://a.example.org/ https://a.b.example.org/", "http://example.org/ http://aexample.org/"),
    ("*.example.org:81", "http://a.example.org:81/", "http://a.example.org/ http://example.org:81/"),
    ("*", "http://example.org/ https://8.8.8.8/ http://[2606:4700::1]/", "http://example.org:8080/ https://h:80/"),
    ("*:81", "http://example.org:81/", "http://example.org/"),
    ("8.8.8.8", "http://8.8.8.8/ http://0x08080808/ http://8.8.2056/", "http://8.8.8.9/"),
    ("[2606:4700::1]:81", "http://[2606:4700:0::1]:81/", "http://[2606:4700::1]/"),
    ("2606:4700::0:1", "https://[2606:4700::1]/", "https://[2606:4700::2]/"),
    ("faß.example", "http://FAẞ.example/ http://xn--fa-hia.example/", "http://fass.example/"),
    ("a_b.example", "http://a_b.example/", "http://a-b.example/"),
]


@pytest.mark.parametrize(("pattern", "allowed", "refused"), LISTED, ids=lambda v: v[:20])
def test_lists_of_hosts(pattern: str, allowed: str, refused: str) -> None:
    """F40: which URLs a host of the list stands for; nothing is connected to, as no name has an address here."""
    policy = UrlPolicy.of([pattern])
    for url, expected in [*((url, True) for url in allowed.split()), *((url, False) for url in refused.split())]:
        parsed = module._parsed(url)
        host = module._host(parsed.raw_host)
        assert policy.lists(host, parsed.scheme, parsed.port or 0) is expected, url


@pytest.mark.parametrize(
    "host",
    [
        *(
            "http://example.org",
            "example.org/",
            "u@example.org",
            "a..b",
            "*.*.example.org",
            "**.example.org",
            "a.*.org",
        ),
        *("*.", ".", "example.org:0", "example.org:99999", "example.org:x", "example.org:", "*:*", "*.8.8.8.8"),
        *("*.[::1]", "1.2.3.4.5", "[::1", "a:b:c", "-a.example", "fe80::1%eth0", "xn--", "", " ", "a b", "é" * 80),
    ],
)
def test_hosts_that_are_none(host: str) -> None:
    with pytest.raises(ParameterError, match=r"is not a host to fetch from: expected example\.org"):
        UrlPolicy.of([host])


@pytest.mark.parametrize("network", ["10.0.0.1/8", "10.0.0.0/33", "example.org", "", "10.0.0.0-10.0.0.9"])
def test_networks_that_are_none(network: str) -> None:
    with pytest.raises(ParameterError, match="is not a network"):
        UrlPolicy.of(["*"], [network])


def test_policies_that_make_no_sense() -> None:
    with pytest.raises(ParameterError, match="no hosts"):
        UrlPolicy.of([], ["10.0.0.0/8"])
    for limits in ({"timeout": 0}, {"timeout": float("nan")}, {"max_bytes": 0}, {"redirects": -1}, {"redirects": 21}):
        with pytest.raises(ParameterError, match="for URLs"):
            UrlPolicy.of(["*"], **limits)  # type: ignore[arg-type]


def test_hosts_twice_are_one() -> None:
    assert UrlPolicy.of(["A.example", "a.example.", "*"]).hosts == ("a.example", "*")


def test_looking_up() -> None:
    assert "127.0.0.1" in run(look_up("127.0.0.1", 80))
    with pytest.raises((OSError, UnicodeError)):
        run(look_up("a" * 70 + ".invalid", 80))
