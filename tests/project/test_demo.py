import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests import shell

ROOT = Path(__file__).parents[2]


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.slow
def test_demo_encodes_every_sample_and_draws_the_picture(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "infra.demo.run"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    codes = tmp_path / "demo" / "codes"
    kept = {name: len(shell.rows(codes / name, columns="key, row")) for name in os.listdir(codes)}
    assert kept == {"tars": 116, "parquet": 39, "folder": 40}
    reasons = [
        row["reason"] for name in kept for row in shell.rows(codes / name, folder="rejected")
    ]
    assert sorted(reasons) == [
        "empty",
        "no_image",
        "not_an_image",
        "not_an_image",
        "too_many_pixels",
        "truncated",
    ]
    assert (codes / "tars" / "report.html").stat().st_size > 100_000
    with Image.open(tmp_path / "demo" / "reconstructions.png") as picture:
        assert picture.width > 1000
