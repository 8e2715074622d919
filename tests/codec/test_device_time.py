"""What devices say of their own time. On a GPU this is new to none: a CPU runs the same."""

import threading
import time

import numpy as np
import pytest
import torch

from tests.codec.test_codec import DEMO, random_images, weights_of
from vqpipe.codec import device_time, nvml
from vqpipe.codec.codec import Codec
from vqpipe.codec.config import CodecConfig

ON_CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_CUDA)])
def test_device_time_of_a_codec_is_some_of_the_time_that_it_took(device):
    codec = Codec(weights_of(DEMO), CodecConfig(eager=True), device=device, batch_size=4)
    images = random_images(9)
    codec.encode(images)
    before, began = device_time.total_s(), time.perf_counter()
    codec.encode(images)
    codec.decode(np.zeros((2, 4, 4), np.int64))
    assert 0 < device_time.total_s() - before < time.perf_counter() - began


def test_device_time_of_codecs_in_several_threads_adds_up(monkeypatch):
    monkeypatch.setattr(device_time, "_total_s", 0.0)
    adds = [lambda: [device_time._add(0.5) for _ in range(1000)] for _ in range(4)]
    threads = [threading.Thread(target=add) for add in adds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert device_time.total_s() == 2000.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nvml_knows_the_gpu_that_torch_has():
    pytest.importorskip("pynvml")
    gpu = nvml.find_gpu()
    assert 0 <= gpu.utilisation() <= 1
    used, total = gpu.memory()
    assert used <= total
    assert total >= torch.cuda.mem_get_info()[1]
