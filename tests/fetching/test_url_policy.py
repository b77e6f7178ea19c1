"""Fetching a client's URL, against local servers that play tricks. Nothing leaves the loopback."""

from __future__ import annotations

import asyncio
import ipaddress
import sys
from collections.abc import Sequence

import pytest
from fixtures.sites import IMAGE, LOOPBACK, answer, kind, listening, names, outcome, redirect, refusal, run

import maskline
from maskline.errors import ParameterError
from maskline.fetching import url_policy as module
from maskline.fetching.url_policy import UrlPolicy, fetch_url, look_up

pytestmark = pytest.mark.usefixtures("dialled")


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
    """F40, B47: without a list of hosts."""
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
    """F40, B47: one bad address spoils all, and the client does not learn which, nor whether there is such a name."""

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
    """F40, B47: each hop is checked again; the message hides where it leads."""

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


def test_invalid_policies() -> None:
    with pytest.raises(ParameterError, match="--allow-url-network .* needs --allow-url-host"):
        UrlPolicy.of([], ["10.0.0.0/8"])
    for limits in ({"timeout": 0}, {"timeout": float("nan")}, {"max_bytes": 0}, {"redirects": -1}, {"redirects": 21}):
        with pytest.raises(ParameterError, match="for URLs"):
            UrlPolicy.of(["*"], **limits)


def test_hosts_twice_are_one() -> None:
    assert UrlPolicy.of(["A.example", "a.example.", "*"]).hosts == ("a.example", "*")


def test_looking_up() -> None:
    assert "127.0.0.1" in run(look_up("127.0.0.1", 80))
    with pytest.raises((OSError, UnicodeError)):
        run(look_up("a" * 70 + ".invalid", 80))
