"""CPU cores available to this process."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MOST_THREADS = 1024  # of a process; many more can't be started

#: Linux: the control groups of this process, one per line, and the folder with their settings.
MEMBERSHIP = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


def bound_cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """CPU cores that this process can keep busy: those it may run on, or fewer if its CPU time is limited.

    Limits come from containers (``docker run --cpus 2``, Kubernetes) and systemd units with ``CPUQuota``. With more
    threads, the quota is used up early in each period, and all threads then wait for the next one.
    """
    return min([bound_cores(), *(max(1, math.ceil(share)) for share in _shares())])


def _shares() -> Iterator[float]:
    """Limits of the control groups of this process, in cores (cgroups(7), both versions)."""
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:
        return  # not Linux
    for line in lines:
        controllers, _, group = line.partition(":")[2].partition(":")
        if controllers == "":
            root, files = GROUPS, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            root, files = GROUPS / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        path = PurePosixPath(group.lstrip("/"))
        for folder in (path, *path.parents):  # in a container, only the last one may exist
            try:
                quota, period = (word for name in files for word in (root / folder / name).read_text().split())
                if quota not in ("max", "-1"):
                    yield int(quota) / int(period)
            except (OSError, ValueError, ZeroDivisionError):
                continue
