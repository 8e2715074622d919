"""How much there is of this machine and of the cluster."""

import math
import os
import sys
from pathlib import Path
from typing import Any, cast

import ray

from vqpipe.engine.places import Place


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


def machines() -> list[dict[str, Any]]:
    """Returns what each machine of the cluster has that is there now, and its labels."""
    nodes = cast(list[dict[str, Any]], ray.nodes())  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def count_cores() -> float:
    """Returns the logical cores of the cluster."""
    return resources().get("CPU", 0.0)


def count_gpus(place: Place) -> float:
    """Returns the GPUs of those machines that have what a place asks for."""
    return float(sum(_in_each("GPU", place)))


def most_cores(place: Place) -> float:
    """Returns the logical cores of the largest of those machines: a task runs on one."""
    return max(_in_each("CPU", place), default=0.0)


def _in_each(name: str, place: Place) -> list[float]:
    return [each["Resources"].get(name, 0.0) for each in machines() if place.fits(each)]


def cores_to_plan_for() -> float:
    """Returns the cores that work on a cluster is cut for: it may grow while a run is under way.

    One that starts its machines when they are asked for has none at first.
    """
    return max(_LEAST_CLUSTER_CORES, _GROWTH * count_cores())


_GROWTH = 2
_LEAST_CLUSTER_CORES = 32


def free_resources() -> dict[str, float]:
    """Returns what of it is free now."""
    return cast(dict[str, float], ray.available_resources())  # type: ignore[no-untyped-call]
