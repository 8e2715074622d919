"""How busy a GPU is, and what of its memory is in use, by NVIDIA's management library.

It is there with every driver; `nvidia-ml-py` (pynvml) is its binding. Nothing depends on what it
says: where it is missing or refuses (MIG slices have no utilisation), nothing is known.
"""

import contextlib
import importlib
import threading
import time
from typing import Any, NamedTuple

import torch

EVERY_S = 1.0
"""Between two looks. The driver's own mean is one of a sixth of a second to a second."""


class Seen(NamedTuple):
    """What was seen of a GPU for some time."""

    busy_s: float = 0.0
    """Seconds with a kernel at work, any process's."""
    seconds: float = 0.0
    """Of how many; 0 if its utilisation is not known."""
    memory: tuple[int, int] | None = None
    """Most bytes in use so far, by any process, and bytes that there are; None if not known."""


class Gpu:
    """The GPU that this process has."""

    def __init__(self, nvml: Any, handle: Any) -> None:  # noqa: ANN401 (it has no types)
        self._nvml, self._handle = nvml, handle

    def utilisation(self) -> float | None:
        """Returns the share of the last moment in which a kernel was at work, in [0, 1]."""
        with contextlib.suppress(Exception):  # whatever it has against it
            return float(self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu) / 100
        return None

    def memory(self) -> tuple[int, int] | None:
        """Returns bytes in use, and bytes that there are."""
        with contextlib.suppress(Exception):
            found = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
            return int(found.used), int(found.total)
        return None


def find_gpu() -> Gpu | None:
    """Returns the GPU that torch calls the first, None if NVML does not know it.

    Of several in a machine, torch sees those that Ray gives its process, and NVML all of them, each
    under a number of its own: they are told apart by UUID.
    """
    with contextlib.suppress(Exception):
        return open_gpu(str(torch.cuda.get_device_properties(0).uuid))
    return None


def open_gpu(uuid: str) -> Gpu | None:
    """Returns the GPU, or the MIG slice, with a UUID; None if NVML does not know it."""
    with contextlib.suppress(Exception):
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        for kind in ("GPU", "MIG"):
            with contextlib.suppress(nvml.NVMLError):
                return Gpu(nvml, nvml.nvmlDeviceGetHandleByUUID(f"{kind}-{uuid}"))
    return None


class Watch:
    """Looks at a GPU every second, in a thread of its own."""

    def __init__(self, gpu: Gpu | None, every_s: float = EVERY_S) -> None:
        self._gpu, self._every_s = gpu, every_s
        self._lock = threading.Lock()
        self._seen, self._looked = Seen(), time.monotonic()
        self._is_over = threading.Event()

    def start(self) -> None:
        """Begins to look; where there is no GPU there is nothing to look at."""
        if self._gpu:
            threading.Thread(target=self._run, daemon=True, name="nvml").start()

    def stop(self) -> None:
        """Looks no more."""
        self._is_over.set()

    def _run(self) -> None:
        while not self._is_over.wait(self._every_s):
            self.look()

    def look(self) -> None:
        """Looks once; what is seen stands for the time since the last look."""
        if self._gpu is None:
            return
        now, share, memory = time.monotonic(), self._gpu.utilisation(), self._gpu.memory()
        with self._lock:
            since, self._looked = now - self._looked, now
            busy_s, seconds, before = self._seen
            if share is not None:
                busy_s, seconds = busy_s + share * since, seconds + since
            most = max(before or (0, 0), memory or (0, 0))
            self._seen = Seen(busy_s, seconds, most if most[1] else None)

    def take(self) -> Seen:
        """Returns what was seen since the last time."""
        with self._lock:
            seen, self._seen = self._seen, Seen(memory=self._seen.memory)
        return seen
