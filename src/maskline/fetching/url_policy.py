"""Images at URLs named by clients, fetched with protection against server-side request forgery (SSRF).

Nothing is fetched unless the operator of the service lists hosts. For each hop, the first and each redirect, scheme,
host, port and all addresses are checked, and the connection is made to exactly the addresses that were checked: no name
is resolved between check and connection. Messages are meant for the client and reveal neither the addresses of a name
nor the target of a redirect; the cause of an error (``__cause__``) may, and is for logs only.
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
_ODD = re.compile(r"[\x00-\x1f\x7f\\]")  # characters that URL parsers drop or treat as a slash
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # last label of a host that is an IPv4 address in some notation

#: IANA has allocated no other addresses for public unicast.
_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
#: Not public regardless of `is_global`, which differs between Python versions.
_NEVER_PUBLIC: tuple[Network, ...] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's services for virtual machines, formally a public address
        "192.0.0.0/24",  # IETF protocols; Oracle's metadata at 192.0.0.192
        "192.88.99.0/24",  # relays of 6to4
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "2001::/23",  # IETF protocols; Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: may embed any IPv4 address
        "3fff::/20",  # documentation
    )
)


class FetchError(InputError):
    """The image at a URL was not fetched. The message is one line, safe to send to the client.

    Attributes:
        kind: ``url_invalid``: not a URL; ``url_not_allowed``: scheme, host, port or address not allowed, or a name
            without address; ``url_unreachable``: connection failed or lost; ``url_status``: a status other than 200;
            ``url_redirects``: too many, or without a target; ``url_compressed``: by Content-Encoding;
            ``url_too_large``; ``url_timeout``.
        status: HTTP status, for ``url_status``.
    """

    def __init__(self, kind: Kind, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status


@dataclass(frozen=True, slots=True)
class UrlPolicy:
    """Which URLs are fetched for clients, and within which limits. Build it with `of`, which validates.

    Attributes:
        hosts: normalised by `of`; empty: no URL is fetched.
        networks: networks of non-public addresses that are allowed.
        timeout: total seconds: name resolution, connections, redirects, up to the last byte.
        max_bytes: maximum size of the image file.
        redirects: maximum number of redirects.
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
        """Build a policy from user input.

        Args:
            hosts: ``example.org``; ``*.example.org``, any subdomain but not itself; ``*``, any host; an address,
                ``192.0.2.1`` or ``[2001:db8::1]``. Each for the scheme's default port (80 or 443), or with ``:PORT``
                for that port only. Names may be written in Unicode and in upper case.
            networks: such as ``10.0.0.0/8``. Their hosts must be listed too.

        Raises:
            ParameterError: an invalid host or network, networks without hosts, or numbers out of range.
        """
        if networks and not hosts:
            raise ParameterError("--allow-url-network (url_networks) needs --allow-url-host (url_hosts)")
        if not 0 < timeout <= 3600 or max_bytes < 1 or not 0 <= redirects <= 20:
            raise ParameterError(
                f"for URLs, timeout is {timeout}, max_bytes {max_bytes}, redirects {redirects}: "
                "expected up to 3600 seconds, at least one byte, and 0 to 20 redirects"
            )
        listed = tuple(dict.fromkeys(_pattern(host) for host in hosts))
        return cls(listed, tuple(_network(network) for network in networks), timeout, max_bytes, redirects)

    @property
    def enabled(self) -> bool:
        """Whether any URL is fetched."""
        return bool(self.hosts)

    def lists(self, host: str, scheme: str, port: int) -> bool:
        """Whether a host, normalised by `_host`, is listed for a port."""
        labels = [] if _address(host) else host.split(".")
        patterns = {host, "*", *("*." + ".".join(labels[i:]) for i in range(1, len(labels)))}
        wanted = {f"{pattern}:{port}" for pattern in patterns}
        if port == _DEFAULT_PORTS[scheme]:
            wanted |= patterns
        return not wanted.isdisjoint(self.hosts)

    def allows(self, address: Address) -> bool:
        """Whether an address may be connected to: it is public, or in one of the networks.

        An IPv6 address that represents an IPv4 address (mapped, NAT64) is checked as that address.
        """
        if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
            return False
        real = _real(address)
        return _is_public(real) or any(a in network for network in self.networks for a in (address, real))


def _pattern(text: str) -> str:
    """Normalise a listed host for comparison in `UrlPolicy.lists`."""
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
            raise ValueError("a wildcard before an address")
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
            f"{text!r} is not a network ({error}): expected one such as 10.0.0.0/8 or fd00::/8"
        ) from None


def _host(raw: str | None) -> str:
    """Normalise a host: a name in lower-case ASCII without trailing dot; ``1.2.3.4``; ``[1::2]``.

    IPv4 addresses are parsed as the system would, including ``127.1`` and ``0x7f000001``: no notation passes for a
    name.

    Args:
        raw: `yarl.URL.raw_host`, IDNA-encoded.

    Raises:
        ValueError: neither a name nor an address.
    """
    name = (raw or "").lower()
    if "%" in name:
        raise ValueError("a zone id or an escape")
    if ":" in name:
        return f"[{ipaddress.IPv6Address(name)}]"
    name = name.removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        if not re.fullmatch(r"[0-9a-fx.]+", name):
            raise ValueError("not an address")
        try:
            return str(ipaddress.IPv4Address(socket.inet_aton(name)))
        except OSError:
            raise ValueError("not an address") from None
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("not a name")
    return name


def _address(host: str) -> Address | None:
    """Address of a host normalised by `_host`; None for a name."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _real(address: Address) -> Address:
    """The IPv4 address that an IPv6 address represents, if any; 6to4 and Teredo are never public anyway."""
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
    """A URL that may be requested, its host normalised, and the checked addresses."""

    url: URL
    addresses: tuple[Address, ...]


async def look_up(host: str, port: int) -> list[str]:
    """Resolve a name with the system's resolver.

    Runs in a thread of the loop's default executor, which stays occupied until the system gives up, even after
    cancellation.

    Raises:
        OSError: no addresses.
        UnicodeError: not a valid name.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def fetch_url(url: str, policy: UrlPolicy, *, look_up: LookUp = look_up) -> bytes:
    """Fetch the bytes at a URL as sent; they need not be an image.

    Up to ``policy.max_bytes`` are held in memory: the caller must limit concurrent calls.

    Args:
        url: http or https, without user and password.
        look_up: resolves a host and port to addresses, or raises OSError.

    Raises:
        FetchError: nothing could be fetched for this client; see its ``kind``.
    """
    if not policy.enabled:
        reason = f"a URL, which this service does not fetch: {_INSTEAD.format(host='HOST')}"
        raise FetchError("url_not_allowed", reason)
    try:
        return await asyncio.wait_for(_fetch(url, policy, look_up), policy.timeout)
    except asyncio.TimeoutError:
        raise FetchError("url_timeout", f"the URL did not deliver the image within {policy.timeout:g} s") from None


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
    """Parse a URL, possibly relative to ``base``, and normalise its host: the one that is connected to."""
    try:
        if len(text) > _LONGEST_URL or _ODD.search(text):
            raise ValueError("not a URL")
        url = base.join(URL(text)) if base else URL(text)
        host = _host(url.raw_host)
        return url.with_host(host.strip("[]"))
    except (ValueError, IndexError):  # yarl raises IndexError on `http://[]@/` and the like
        raise FetchError("url_invalid", "not a valid URL: expected http:// or https://, a host and a path") from None


async def _checked(url: URL, policy: UrlPolicy, look_up: LookUp) -> _Hop:
    """Resolve a URL and check it. Raises FetchError unless the policy allows all of it.

    One disallowed address rejects the URL: legitimate hosts don't mix them, but an attacker does, to have the bad one
    tried when the good one fails. A name without address gets the same error as one with a disallowed address;
    otherwise, with ``*``, clients could probe which names exist in our network.
    """
    host = _host(url.raw_host)
    if url.scheme not in _DEFAULT_PORTS or url.raw_user is not None or url.raw_password is not None:
        raise FetchError("url_not_allowed", "expected an http or https URL without user and password")
    port = url.port or 0
    if not policy.lists(host, url.scheme, port):
        named = host if port == _DEFAULT_PORTS[url.scheme] else f"{host}:{port}"
        reason = f"this service does not fetch URLs from {named}: {_INSTEAD.format(host=named)}"
        raise FetchError("url_not_allowed", reason)
    literal = _address(host)
    addresses = (literal,) if literal else await _addresses(host, port, look_up)
    if not addresses or not all(policy.allows(address) for address in addresses):
        raise FetchError("url_not_allowed", f"{host} has no address that this service may fetch from")
    return _Hop(url, addresses)


async def _addresses(host: str, port: int, look_up: LookUp) -> tuple[Address, ...]:
    """Resolve a name; empty if it has no addresses, or an invalid one."""
    try:
        return tuple(ipaddress.ip_address(address) for address in await look_up(host, port))
    except (OSError, ValueError):
        return ()


async def _redirected(hop: _Hop, location: str, policy: UrlPolicy, look_up: LookUp) -> _Hop:
    """Target of a redirect, checked like the first URL. The message hides it: it may be internal."""
    if not location:
        raise FetchError("url_redirects", "the URL redirects without a target")
    try:
        url = _parsed(location, hop.url)
        if hop.url.scheme == "https" and url.scheme != "https":
            raise FetchError("url_not_allowed", "a redirect from https to http")
        return await _checked(url, policy, look_up)
    except FetchError as error:
        raise FetchError("url_not_allowed", "the URL redirects to a target that this service may not fetch") from error


class _Pinned(AbstractResolver):
    """Resolver that returns the checked addresses, for the checked host only."""

    def __init__(self, hop: _Hop) -> None:
        self._hop = hop

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        if host != self._hop.url.raw_host:
            raise OSError("unchecked host")
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
    """TLS context that verifies certificates and host names, with the system's CAs or ``SSL_CERT_FILE``."""
    return ssl.create_default_context()


@asynccontextmanager
async def _answer(hop: _Hop) -> AsyncIterator[aiohttp.ClientResponse]:
    """Response of one hop, on its own connection; the body is unread and never decompressed."""
    connector = aiohttp.TCPConnector(resolver=_Pinned(hop), use_dns_cache=False, force_close=True, ssl=tls())
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=_HEADERS,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # `fetch_url` has a total timeout
        auto_decompress=False,
        trust_env=False,
    )
    try:
        async with session, session.get(hop.url, allow_redirects=False) as response:
            yield response
    except aiohttp.ClientSSLError as error:
        raise FetchError("url_unreachable", "no secure connection (TLS) to the URL's host") from error
    except aiohttp.ClientConnectionError as error:
        raise FetchError("url_unreachable", "the URL's host can't be reached, or closed the connection") from error
    except (aiohttp.ClientError, OSError) as error:
        raise FetchError("url_unreachable", "the URL's response is broken or not HTTP") from error


async def _body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Body of a response that is a file. Raises FetchError."""
    if response.status != 200:
        raise FetchError("url_status", f"the URL responds with status {response.status}", response.status)
    if response.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity"):
        raise FetchError("url_compressed", "the URL's response is compressed although no compression was requested")
    body = bytearray()
    if (response.content_length or 0) <= max_bytes:
        async for block in response.content.iter_any():
            body += block
            if len(body) > max_bytes:
                break
        else:
            return bytes(body)
    raise FetchError("url_too_large", f"the URL's image has more than {max_bytes} bytes")
