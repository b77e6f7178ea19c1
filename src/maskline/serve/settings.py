"""Settings of the service."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

from maskline._checks import check_count
from maskline.errors import ParameterError
from maskline.fetching.url_policy import UrlPolicy

MB = 1 << 20  # bytes
MP = 1_000_000  # pixels


def is_loopback(host: str) -> bool:
    """Whether a host name or address is the loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return f".{host.lower().rstrip('.')}".endswith(".localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """How a service behaves; which model it serves is told apart.

    Attributes:
        host, port: where it listens. Port 0: any that is free.
        batch_size: most images in one run of the network, which have together at most ``max_pixels``. Those that wait
            are taken together; none is waited for.
        visualize: whether answers hold a rendered image where a request does not say.
        timeout: seconds from a request's last byte to its answer.
        body_timeout: seconds that the bytes of a request may take to come.
        drain: seconds that requests under way have once the service is told to end.
        max_body: bytes of one request, as it comes and decompressed.
        max_pixels: of one image, by its header.
        queue_pixels: of all images that wait or are worked on. Each counts as a million at least.
        api_key: what requests must carry; None: nothing.
        trusted_hosts: names under which the service may be asked for besides this machine's own, where it listens on
            loopback without a key; ``*`` is any. So a web page can't read it by having its own name lead here.
        cors: origins of web pages that may call the service; ``*`` is any.
        urls: which URLs are fetched for a client.
        access_log: whether a line is written for each request.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    batch_size: int = 1
    visualize: bool = True
    timeout: float = 60.0
    body_timeout: float = 30.0
    drain: float = 30.0
    max_body: int = 64 * MB
    max_pixels: int = 64 * MP
    queue_pixels: int = 256 * MP
    api_key: str | None = field(default=None, repr=False)
    trusted_hosts: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()
    urls: UrlPolicy = field(default_factory=UrlPolicy)
    access_log: bool = True

    @property
    def is_local(self) -> bool:
        """Whether only programs on this machine can reach the service."""
        return is_loopback(self.host)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ParameterError(f"port is {self.port}: expected 1 to 65535, or 0 for any free port")
        check_count(self.batch_size, "batch_size", 256)
        for name in ("timeout", "body_timeout", "drain"):
            value = getattr(self, name)
            if not 0 < value <= 86400:
                raise ParameterError(f"{name} is {value!r}: expected seconds, above 0, at most a day")
        for name in ("max_body", "max_pixels", "queue_pixels"):
            if getattr(self, name) < 1:
                raise ParameterError(f"{name} is {getattr(self, name)}: expected a number above 0")
        if self.queue_pixels < self.max_pixels:
            raise ParameterError(
                f"queue_pixels is {self.queue_pixels / MP:g} million, max_pixels {self.max_pixels / MP:g} million: the "
                "queue has to hold the largest image, so enlarge queue_pixels too"
            )
        for host in self.trusted_hosts:
            if not re.fullmatch(r"\*|[a-z0-9._:-]+", host):
                raise ParameterError(f"trusted_hosts has {host!r}: expected a name such as masks.example.org, or *")
        for origin in self.cors:
            if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+", origin):
                raise ParameterError(f"cors is {origin!r}: expected an origin such as https://example.org, or *")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise ParameterError(
                "the API key is empty or has characters not allowed in a header: use another one, or none"
            )
