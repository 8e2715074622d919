"""What machine this is: versions, the GPU, cores, memory, and what compiles."""

import importlib.metadata
import os
import platform
import shutil
import subprocess

import torch

from tests.benchmarks.gpu import timing
from tests.benchmarks.records import note

_PACKAGES = ("torch", "triton", "numpy", "pyarrow", "pillow", "ray", "diffusers")
_ASKED = "name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit,temperature.gpu"


def main():
    timing.parse(__doc__)
    has_gpu = torch.cuda.is_available()
    say("GPU", torch.cuda.get_device_name() if has_gpu else "none")
    say("Python", platform.python_version())
    for name in _PACKAGES:
        say(name, importlib.metadata.version(name) if _is_there(name) else "-")
    say("CUDA of torch", torch.version.cuda or "-")
    say("cores", len(os.sched_getaffinity(0)))
    say("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB")
    say("/dev/shm", f"{shutil.disk_usage('/dev/shm').free / 2**30:.1f} GiB free")
    say("disk of /tmp", f"{shutil.disk_usage('/tmp').free / 2**30:.0f} GiB free")
    say("C compiler", shutil.which("cc") or shutil.which("gcc") or "-")
    if has_gpu:
        about = torch.cuda.get_device_properties(0)
        say("multiprocessors", about.multi_processor_count)
        say("capability", f"{about.major}.{about.minor}")
        say("nvidia-smi", _ask_driver())


def say(name, value):
    print(f"{name}: {value}", flush=True)
    note(name, value, "")


def _is_there(name):
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _ask_driver():
    """Returns what the driver's tool says, without changing anything."""
    try:
        command = ["nvidia-smi", f"--query-gpu={_ASKED}", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


if __name__ == "__main__":
    main()
