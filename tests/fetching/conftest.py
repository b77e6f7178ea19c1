"""Fixtures of the tests that fetch."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.web_server import Server, running

from maskline.fetching import download


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """No proxies, and no waiting before the next attempt."""
    monkeypatch.setattr(download, "_BACKOFF", 0.01)
    for name in ("MASKLINE_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    caplog.set_level(logging.INFO, "maskline")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "w.pdparams"


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that something tried to connect to; any that is not of the loopback fails the test."""
    tried: list[str] = []
    connect = asyncio.selector_events.BaseSelectorEventLoop.sock_connect

    async def sock_connect(loop: asyncio.BaseEventLoop, sock: socket.socket, address: tuple[Any, ...]) -> None:
        tried.append(address[0])
        assert ipaddress.ip_address(address[0]).is_loopback, f"a connection to {address[0]}"
        await connect(loop, sock, address)

    monkeypatch.setattr(asyncio.selector_events.BaseSelectorEventLoop, "sock_connect", sock_connect)
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tried
