"""A device that is lost in the middle of a run, on a GPU by an access that it does not allow."""

import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import torch

from tests.codec.models import DEMO
from tests.makers import jpeg, tar_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.fault(27)]


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            ],
        ),
    ],
)
def test_encode_process_whose_device_is_lost_is_replaced_and_no_image_is_missing(
    device, tmp_path, monkeypatch
):
    pytest.importorskip("ray")
    monkeypatch.setenv("VQPIPE_TEST_ASTRAY", str(tmp_path / "astray"))
    monkeypatch.setenv("RAY_ADDRESS", "")
    (tmp_path / "source").mkdir()
    images = {f"{i}.jpg": jpeg(64, 64, seed=i) for i in range(12)}
    (tmp_path / "source" / "a.tar").write_bytes(tar_of(images))
    options = {
        "source": tmp_path / "source",
        "sink": tmp_path / "sink",
        "model": DEMO,
        "resolution": 64,
        "device": device,
    }
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "tests.endtoend.failing", "Astray", "encode", *words]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (tmp_path / "astray").exists()
    keys = pq.read_table(tmp_path / "sink" / "data").column("key").to_pylist()
    assert sorted(keys) == sorted(name.removesuffix(".jpg") for name in images)
