"""How many cores a process may keep busy, where control groups limit it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from maskline import _cpu
from maskline.runtime import opening
from maskline.runtime.backend import Acceleration


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine of eight cores and no limits."""
    for module in (_cpu, opening):
        monkeypatch.setattr(module, "bound_cores", lambda: 8)
    monkeypatch.setattr(_cpu, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(_cpu, "GROUPS", tmp_path / "groups")
    return tmp_path


def write(folder: Path, membership: str, files: Mapping[str, str]) -> None:
    (folder / "membership").write_text(membership)
    for name, text in files.items():
        path = folder / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "5000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "1600000 100000\n"}, 8),
        ("0::/a.slice/b.service\n", {"a.slice/b.service/cpu.max": "300000 100000\n"}, 3),
        ("0::/a.slice/b.service\n", {"a.slice/cpu.max": "400000 100000\n", "a.slice/b.service/cpu.max": "max 1\n"}, 4),
        ("0::/docker/of-the-host\n", {"cpu.max": "200000 100000\n"}, 2),
        ("5:memory:/\n3:cpu,cpuacct:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "1\n"}, 8),
        ("3:cpuacct,cpu:/d\n", {"cpu/d/cpu.cfs_quota_us": "150000\n", "cpu/d/cpu.cfs_period_us": "50000\n"}, 3),
        ("2:cpuset:/\n", {"cpu.max": "200000 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "damaged\n"}, 8),
        ("\nodd\n", {}, 8),
    ],
)
def test_limits(eight: Path, membership: str, files: Mapping[str, str], expected: int) -> None:
    write(eight, membership, files)
    assert _cpu.cores() == expected


def test_without_control_groups(eight: Path) -> None:
    assert _cpu.cores() == 8


def test_of_this_process() -> None:
    assert 1 <= _cpu.cores() <= _cpu.bound_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(("limit", "expected"), [("max", None), ("300000", 3)])
def test_threads_follow_a_limit(eight: Path, tiny_model_dir: Path, limit: str, expected: int | None) -> None:
    """A backend would take all cores of the machine."""
    write(eight, "0::/\n", {"cpu.max": f"{limit} 100000\n"})
    (graph,) = opening.open_graphs(tiny_model_dir / "inference.onnx", "cpu", Acceleration())
    assert graph.threads == expected
