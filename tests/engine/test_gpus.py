"""Which GPUs of this machine a Ray that is started here has."""

import os

import pytest
from ray._private.accelerators import NvidiaGPUAcceleratorManager

from vqpipe.engine.gpus import choose_gpus, find_allowed
from vqpipe.engine.surroundings import environment
from vqpipe.errors import ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"


@pytest.fixture(autouse=True)
def four_gpus(monkeypatch):
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(
        NvidiaGPUAcceleratorManager, "get_current_node_num_accelerators", staticmethod(lambda: 4)
    )


def test_gpus_that_were_asked_for_are_what_ray_finds(monkeypatch):
    assert choose_gpus(()) == {}
    for name, value in choose_gpus(("2", "0")).items():
        monkeypatch.setenv(name, value)
    assert NvidiaGPUAcceleratorManager.get_current_process_visible_accelerator_ids() == ["2", "0"]


@pytest.mark.parametrize(
    ("said", "allowed"),
    [
        ("", []),
        ("-1", []),
        ("1, 3", ["1", "3"]),
        ("1,-1,3", ["1"]),  # as CUDA reads it: what comes behind one that there is not is hidden
        ("NoDevFiles", []),
        ("GPU-8d1f", ["GPU-8d1f"]),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(monkeypatch, said, allowed):
    monkeypatch.setenv(VISIBLE, said)
    assert find_allowed() == allowed
    assert choose_gpus(()) == {VISIBLE: ",".join(allowed)}


def test_gpus_that_are_not_there_are_an_error_with_what_is():
    with pytest.raises(ConfigError, match=r"asks for 4, 7, and this machine has 4 GPUs, 0 to 3"):
        choose_gpus(("0", "4", "7"))


def test_gpus_on_a_machine_without_any_are_an_error(monkeypatch):
    monkeypatch.setattr(
        NvidiaGPUAcceleratorManager, "get_current_node_num_accelerators", staticmethod(lambda: 0)
    )
    with pytest.raises(ConfigError, match="no NVIDIA GPU"):
        choose_gpus(("GPU-8d1f",))


def test_gpus_that_are_another_ones_are_an_error(monkeypatch):
    monkeypatch.setenv(VISIBLE, "1,3")
    assert choose_gpus(("3",)) == {VISIBLE: "3"}
    with pytest.raises(ConfigError, match=r"asks for 0, and CUDA_VISIBLE_DEVICES=1,3"):
        choose_gpus(("0", "3"))


@pytest.mark.parametrize("before", [None, "1,2,3"])
def test_process_that_measures_sees_the_gpus_that_were_asked_for_and_later_all(monkeypatch, before):
    if before:
        monkeypatch.setenv(VISIBLE, before)
    with environment(choose_gpus(("3", "1"))):
        assert os.environ[VISIBLE] == "3,1"
        assert choose_gpus(()) == {VISIBLE: "3,1"}  # a Ray that is started meanwhile
    assert os.environ.get(VISIBLE) == before
    with environment(choose_gpus(())):
        assert os.environ.get(VISIBLE) == before
