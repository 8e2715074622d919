"""What NVML says of a GPU, by a stand-in with the binding's functions; and without one."""

import itertools
import sys
from types import ModuleType, SimpleNamespace

import pytest

from vqpipe.codec import nvml

UUID = "5f5cbb6c-0b0a-4a9e-8d3a-1f6f0a1b2c3d"


class NVMLError(Exception):
    pass


class Library(ModuleType):
    """A machine with some GPUs, by UUID with NVML's own prefix."""

    NVMLError = NVMLError

    def __init__(self, *uuids, shares=(50,), used=(2**30,)):
        super().__init__("pynvml")
        self.uuids, self.begun = uuids, 0
        self.shares, self.used = itertools.cycle(shares), itertools.cycle(used)

    def nvmlInit(self):  # noqa: N802 (NVML's name)
        self.begun += 1

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if uuid not in self.uuids:
            raise NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802
        if handle.startswith("MIG"):
            raise NVMLError("Not Supported")
        return SimpleNamespace(gpu=next(self.shares), memory=0)

    def nvmlDeviceGetMemoryInfo(self, _):  # noqa: N802
        return SimpleNamespace(used=next(self.used), free=0, total=2**37)


@pytest.fixture
def install(monkeypatch):
    """Puts a library in the place of the binding."""

    def put(*uuids, **how):
        library = Library(*uuids, **how)
        monkeypatch.setitem(sys.modules, "pynvml", library)
        return library

    return put


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(nvml, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_gpu_is_the_one_of_the_process_among_others(install):
    install("GPU-another", f"GPU-{UUID}", shares=[37])
    gpu = nvml.open_gpu(UUID)
    assert gpu.utilisation() == 0.37
    assert gpu.memory() == (2**30, 2**37)


def test_gpu_slice_has_memory_and_no_utilisation(install):
    install("GPU-another", f"MIG-{UUID}")
    gpu = nvml.open_gpu(UUID)
    assert gpu.utilisation() is None
    assert gpu.memory() == (2**30, 2**37)


def test_gpu_that_nvml_does_not_know_is_none(install):
    install("GPU-another")
    assert nvml.open_gpu(UUID) is None


def test_gpu_without_a_driver_is_none(install, monkeypatch):
    def fail():
        raise NVMLError("Driver Not Loaded")

    monkeypatch.setattr(install(f"GPU-{UUID}"), "nvmlInit", fail)
    assert nvml.open_gpu(UUID) is None


def test_gpu_without_the_binding_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # an import of it fails
    assert nvml.open_gpu(UUID) is None


def test_watch_adds_up_shares_over_the_time_between_looks(install, clock):
    install(f"GPU-{UUID}", shares=[100, 20], used=[5, 9, 3])
    watch = nvml.Watch(nvml.open_gpu(UUID))
    for seconds in (2, 5):
        clock.now += seconds
        watch.look()
    assert watch.take() == (3.0, 7.0, (9, 2**37))
    assert watch.take() == (0.0, 0.0, (9, 2**37)), "the peak stays"


def test_watch_of_a_gpu_that_ceases_to_answer_goes_on(install, clock, monkeypatch):
    library = install(f"GPU-{UUID}")
    watch = nvml.Watch(nvml.open_gpu(UUID))

    def fail(_):
        raise NVMLError("GPU is lost")

    monkeypatch.setattr(library, "nvmlDeviceGetUtilizationRates", fail)
    monkeypatch.setattr(library, "nvmlDeviceGetMemoryInfo", fail)
    clock.now += 1
    watch.look()
    assert watch.take() == nvml.Seen()


def test_watch_looks_by_itself_until_it_is_stopped(install):
    install(f"GPU-{UUID}", shares=[80])
    watch = nvml.Watch(nvml.open_gpu(UUID), every_s=0.001)
    watch.start()
    seen = nvml.Seen()
    while not seen.seconds:
        seen = watch.take()
    watch.stop()
    assert seen.busy_s == pytest.approx(0.8 * seen.seconds)


def test_watch_without_a_gpu_sees_nothing(clock):
    watch = nvml.Watch(None)
    watch.start()
    clock.now += 5
    watch.look()
    assert watch.take() == nvml.Seen()
