"""How much there is of this machine and of the cluster."""

import math
import os
import sys
from pathlib import Path
from typing import cast

import ray


def cores() -> int:
    """Returns the cores that this process may use, a container's limit included."""
    known = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(known or 1, _container_cores()))


def _container_cores() -> int:
    """Returns the limit of Linux control groups, version 2: microseconds of quota and period."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no control groups, or "max": no limit
        return sys.maxsize


def resources() -> dict[str, float]:
    """Returns what the cluster has in all: CPU, GPU, memory and so on."""
    return cast(dict[str, float], ray.cluster_resources())  # type: ignore[no-untyped-call]


def count_cores() -> float:
    """Returns the logical cores of the cluster."""
    return resources().get("CPU", 0.0)


def free_resources() -> dict[str, float]:
    """Returns what of it is free now."""
    return cast(dict[str, float], ray.available_resources())  # type: ignore[no-untyped-call]
