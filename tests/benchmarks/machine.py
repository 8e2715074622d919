"""What a benchmark ran on."""

import importlib.metadata
import os
import platform
from pathlib import Path

import psutil


def facts():
    """Returns processor, cores, memory and the versions that matter."""
    names = ("ray", "torch", "pillow", "pyarrow")
    versions = {name: importlib.metadata.version(name) for name in names}
    memory = psutil.virtual_memory().total
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": memory,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **versions,
    }


def in_words():
    """Returns it in a line."""
    found = facts()
    return (
        f"{found['processor']}, {found['cores']} cores, {found['memory'] / 2**30:.0f} GiB, no GPU; "
        f"Python {found['python']}, Ray {found['ray']}, Pillow {found['pillow']}"
    )


def _processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()
