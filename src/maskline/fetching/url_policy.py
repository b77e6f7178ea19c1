"""The image at a URL that a client names, fetched without lending the client our place in the network (SSRF).

Nothing is fetched unless whoever runs the service lists hosts. Each hop, the first and each redirect, has its scheme,
host, port and all addresses checked, and the connection goes to the very addresses that were checked: between check and
connection no name is looked up. Messages are meant for the client: they tell nothing of what a name stands for, nor
where a redirect leads; the cause of an error (``__cause__``) may, and is for logs at most.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from maskline import __version__
from maskline.errors import InputError, ParameterError

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
LookUp: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
Kind: TypeAlias = Literal[
    "url_invalid",
    "url_not_allowed",
    "url_unreachable",
    "url_status",
    "url_redirects",
    "url_compressed",
    "url_too_large",
    "url_timeout",
]

_DEFAULT_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_LONGEST_URL = 8192  # characters
_HEADERS = {"User-Agent": f"maskline/{__version__}", "Accept": "image/*, */*;q=0.5", "Accept-Encoding": "identity"}
_INSTEAD = "send the image in Base64, or have the service started with --allow-url-host {host}"
_ODD = re.compile(r"[\x00-\x1f\x7f\\]")  # what parsers of URLs drop, or take for a slash
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # the last label of a host that is an IPv4 address in some spelling

#: IANA has given out no other addresses for use with one partner in the public network.
_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
#: Not public whatever `is_global` says, which differs between versions of Python.
_NEVER_PUBLIC: tuple[Network, ...] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's services for a virtual machine, a public address by number only
        "192.0.0.0/24",  # IETF protocols; Oracle's metadata at 192.0.0.192
        "192.88.99.0/24",  # relays of 6to4
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "2001::/23",  # IETF protocols; Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: any IPv4 address may hide in it
        "3fff::/20",  # documentation
    )
)


class FetchError(InputError):
    """A URL's image that is not fetched. The message is one line, fit for the client.

    Attributes:
        kind: ``url_invalid``: no URL; ``url_not_allowed``: of a scheme, host, port or address that is not asked, or of
            a name without address; ``url_unreachable``: no connection, or a broken one; ``url_status``: an answer other
            than 200; ``url_redirects``: too many, or to nowhere; ``url_compressed``: by Content-Encoding;
            ``url_too_large``; ``url_timeout``.
        status: the answer's, with ``url_status``.
    """

    def __init__(self, kind: Kind, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status


@dataclass(frozen=True, slots=True)
class UrlPolicy:
    """Which URLs are fetched for clients, and how much may be spent on one. Build it with `of`, which checks.

    Attributes:
        hosts: as `of` normalises them; none: no URL is fetched.
        networks: of addresses that are allowed although they are not public.
        timeout: seconds for everything: names, connections, redirects, the last byte.
        max_bytes: of the image's file.
        redirects: most that are followed.
    """

    hosts: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    timeout: float = 10.0
    max_bytes: int = 64 << 20
    redirects: int = 3

    @classmethod
    def of(
        cls,
        hosts: Sequence[str],
        networks: Sequence[str] = (),
        *,
        timeout: float = 10.0,
        max_bytes: int = 64 << 20,
        redirects: int = 3,
    ) -> UrlPolicy:
        """The policy that a user wrote down.

        Args:
            hosts: ``example.org``; ``*.example.org``, any name below it but not itself; ``*``, any host; an address,
                ``192.0.2.1`` or ``[2001:db8::1]``. Each for the scheme's own port (80 or 443), or with ``:PORT`` for
                that port only. Names may be written in Unicode, and in capitals.
            networks: such as ``10.0.0.0/8``. Hosts there must be listed too.

        Raises:
            ParameterError: none of these, networks without hosts, or numbers out of range.
        """
        if networks and not hosts:
            raise ParameterError("networks of URLs are allowed but no hosts: list the hosts that may be fetched from")
        if not 0 < timeout <= 3600 or max_bytes < 1 or not 0 <= redirects <= 20:
            raise ParameterError(
                f"for URLs, timeout is {timeout}, max_bytes {max_bytes}, redirects {redirects}: "
                "expected seconds up to an hour, at least one byte, and 0 to 20 redirects"
            )
        listed = tuple(dict.fromkeys(_pattern(host) for host in hosts))
        return cls(listed, tuple(_network(network) for network in networks), timeout, max_bytes, redirects)

    @property
    def enabled(self) -> bool:
        """Whether any URL is fetched."""
        return bool(self.hosts)

    def lists(self, host: str, scheme: str, port: int) -> bool:
        """Whether a host, in the form of `_host`, may be asked at a port."""
        labels = [] if _address(host) else host.split(".")
        patterns = {host, "*", *("*." + ".".join(labels[i:]) for i in range(1, len(labels)))}
        wanted = {f"{pattern}:{port}" for pattern in patterns}
        if port == _DEFAULT_PORTS[scheme]:
            wanted |= patterns
        return not wanted.isdisjoint(self.hosts)

    def allows(self, address: Address) -> bool:
        """Whether an address may be connected to: it is public, or in one of the networks.

        An IPv6 address that stands for one of IPv4 (mapped, NAT64) is judged by that one.
        """
        if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
            return False
        real = _real(address)
        return _is_public(real) or any(a in network for network in self.networks for a in (address, real))


def _pattern(text: str) -> str:
    """A host of the list, as `UrlPolicy.lists` compares it."""
    given = text.strip()
    bare = f"[{given}]" if given.count(":") > 1 and not given.startswith("[") else given
    host, colon, port = bare.rpartition(":") if re.search(r":[0-9]*$", bare) else (bare, "", "")
    star, name = ("*.", host[2:]) if host.startswith("*.") else ("", host)
    try:
        if colon and not (0 < len(port) <= 5 and 0 < int(port) < 1 << 16):
            raise ValueError("port")
        if name != "*" and not name.startswith("[") and re.search(r"[\s/@?#:%\\*]", name):
            raise ValueError("characters")
        normal = "*" if name == "*" and not star else _host(URL.build(scheme="http", host=name.strip("[]")).raw_host)
        if star and _address(normal):
            raise ValueError("a star before an address")
    except ValueError:
        raise ParameterError(
            f"{text!r} is not a host to fetch from: expected example.org, *.example.org, * or an address, "
            "each also with :PORT"
        ) from None
    return f"{star}{normal}{colon}{port and int(port)}"


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text.strip())
    except ValueError as error:
        raise ParameterError(
            f"{text!r} is not a network of addresses ({error}): expected one such as 10.0.0.0/8 or fd00::/8"
        ) from None


def _host(raw: str | None) -> str:
    """A host as all else compares it: a name in ASCII, lower case, without the last dot; ``1.2.3.4``; ``[1::2]``.

    Addresses of IPv4 are read as the system would, ``127.1`` and ``0x7f000001`` too: no spelling passes for a name.

    Args:
        raw: what `yarl.URL.raw_host` gives, IDNA applied.

    Raises:
        ValueError: it is neither.
    """
    name = (raw or "").lower()
    if "%" in name:
        raise ValueError("a zone, or an escape")
    if ":" in name:
        return f"[{ipaddress.IPv6Address(name)}]"
    name = name.removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        if not re.fullmatch(r"[0-9a-fx.]+", name):
            raise ValueError("no address")
        try:
            return str(ipaddress.IPv4Address(socket.inet_aton(name)))
        except OSError:
            raise ValueError("no address") from None
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("no name")
    return name


def _address(host: str) -> Address | None:
    """The address of a host in the form of `_host`; None for a name."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _real(address: Address) -> Address:
    """The address of IPv4 that one of IPv6 stands for, where one does; 6to4 and Teredo are never public anyway."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address
    return address


def _is_public(address: Address) -> bool:
    if address.version == 6 and address not in _UNICAST:
        return False
    return address.is_global and not any(address in network for network in _NEVER_PUBLIC)


class _Hop(NamedTuple):
    """A URL that may be asked: its host normalised, and the addresses that were checked."""

    url: URL
    addresses: tuple[Address, ...]


async def look_up(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system gives them.

    It waits in a thread of the loop's default executor, and there it stays until the system gives up, even if nobody
    waits for it any more.

    Raises:
        OSError: there are none.
        UnicodeError: it can't be a name.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def fetch(url: str, policy: UrlPolicy, *, look_up: LookUp = look_up) -> bytes:
    """The bytes at a URL, as they are sent; whether they are an image is not looked at.

    Up to ``policy.max_bytes`` are held in memory: the caller bounds how many calls run at a time.

    Args:
        url: http or https, without user and password.
        look_up: gives the addresses of a host for a port, or raises OSError.

    Raises:
        FetchError: there are none for this client; see its ``kind``.
    """
    if not policy.enabled:
        told = f"a URL, which this service does not fetch: {_INSTEAD.format(host='HOST')}"
        raise FetchError("url_not_allowed", told)
    try:
        return await asyncio.wait_for(_fetch(url, policy, look_up), policy.timeout)
    except asyncio.TimeoutError:
        raise FetchError("url_timeout", f"the URL did not give the image within {policy.timeout:g} s") from None


async def _fetch(url: str, policy: UrlPolicy, look_up: LookUp) -> bytes:
    hop = await _checked(_parsed(url), policy, look_up)
    for _ in range(policy.redirects + 1):
        async with _answer(hop) as response:
            if response.status not in _REDIRECTS:
                return await _body(response, policy.max_bytes)
            location = response.headers.get("Location", "")
        hop = await _redirected(hop, location, policy, look_up)
    raise FetchError("url_redirects", f"the URL redirects more than {policy.redirects} times")


def _parsed(text: str, base: URL | None = None) -> URL:
    """A URL that may be relative to ``base``, its host normalised, so that this host is what is connected to."""
    try:
        if len(text) > _LONGEST_URL or _ODD.search(text):
            raise ValueError("no URL")
        url = base.join(URL(text)) if base else URL(text)
        host = _host(url.raw_host)
        return url.with_host(host.strip("[]"))
    except (ValueError, IndexError):  # the latter where yarl trips, as over `http://[]@/`
        raise FetchError("url_invalid", "no URL: expected http:// or https://, a host and a path") from None


async def _checked(url: URL, policy: UrlPolicy, look_up: LookUp) -> _Hop:
    """A URL with its addresses. Raises FetchError unless the policy allows all of it.

    One address that is not allowed spoils the others: who runs a host in earnest does not mix them, and who means to
    trick us does, to have the bad one tried when the good one fails. A name without any address is answered like one
    with a bad one; otherwise clients could ask for ``*`` which names there are in our network.
    """
    host = _host(url.raw_host)
    if url.scheme not in _DEFAULT_PORTS or url.raw_user is not None or url.raw_password is not None:
        raise FetchError("url_not_allowed", "a URL must be of http or https, without user and password")
    port = url.port or 0
    if not policy.lists(host, url.scheme, port):
        named = host if port == _DEFAULT_PORTS[url.scheme] else f"{host}:{port}"
        told = f"URLs of {named} are not fetched by this service: {_INSTEAD.format(host=named)}"
        raise FetchError("url_not_allowed", told)
    literal = _address(host)
    addresses = (literal,) if literal else await _addresses(host, port, look_up)
    if not addresses or not all(policy.allows(address) for address in addresses):
        raise FetchError("url_not_allowed", f"{host} has no address that this service may fetch from")
    return _Hop(url, addresses)


async def _addresses(host: str, port: int, look_up: LookUp) -> tuple[Address, ...]:
    """Of a name; none if it has none, or one that makes no sense."""
    try:
        return tuple(ipaddress.ip_address(address) for address in await look_up(host, port))
    except (OSError, ValueError):
        return ()


async def _redirected(hop: _Hop, location: str, policy: UrlPolicy, look_up: LookUp) -> _Hop:
    """Where a redirect leads, checked like the first URL. The message hides where: that may be no client's business."""
    if not location:
        raise FetchError("url_redirects", "the URL redirects without saying where to")
    try:
        url = _parsed(location, hop.url)
        if hop.url.scheme == "https" and url.scheme != "https":
            raise FetchError("url_not_allowed", "a redirect from https to http")
        return await _checked(url, policy, look_up)
    except FetchError as error:
        raise FetchError("url_not_allowed", "the URL redirects to where this service may not fetch from") from error


class _Pinned(AbstractResolver):
    """Gives the addresses that were checked, for the host they were checked for."""

    def __init__(self, hop: _Hop) -> None:
        self._hop = hop

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        if host != self._hop.url.raw_host:
            raise OSError("a host that was not checked")
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET6 if address.version == 6 else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in self._hop.addresses
        ]

    async def close(self) -> None:
        pass


@functools.cache
def tls() -> ssl.SSLContext:
    """Checks certificates and names, by the authorities of the system or of ``SSL_CERT_FILE``."""
    return ssl.create_default_context()


@asynccontextmanager
async def _answer(hop: _Hop) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer of one hop, on a connection of its own; its body is not read yet, and is never decompressed."""
    connector = aiohttp.TCPConnector(resolver=_Pinned(hop), use_dns_cache=False, force_close=True, ssl=tls())
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=_HEADERS,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # `fetch` has one for all
        auto_decompress=False,
        trust_env=False,
    )
    try:
        async with session, session.get(hop.url, allow_redirects=False) as response:
            yield response
    except aiohttp.ClientSSLError as error:
        raise FetchError("url_unreachable", "the URL's host gives no connection that is safe (TLS)") from error
    except aiohttp.ClientConnectionError as error:
        raise FetchError("url_unreachable", "the URL's host can't be reached, or ends the connection") from error
    except (aiohttp.ClientError, OSError) as error:
        raise FetchError("url_unreachable", "the URL's answer is broken or not HTTP") from error


async def _body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """The body of an answer that is a file. Raises FetchError."""
    if response.status != 200:
        raise FetchError("url_status", f"the URL answers with status {response.status}", response.status)
    if response.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity"):
        raise FetchError("url_compressed", "the URL's answer is compressed (Content-Encoding), unasked")
    body = bytearray()
    if (response.content_length or 0) <= max_bytes:
        async for block in response.content.iter_any():
            body += block
            if len(body) > max_bytes:
                break
        else:
            return bytes(body)
    raise FetchError("url_too_large", f"the URL's image has more than {max_bytes} bytes")
