"""Damaged and invented files at every entry point: nothing but rejections and our own errors."""

import subprocess
import sys

import pytest

from tests.faults import fuzz


@pytest.mark.fault(18, 22, 24)
def test_whole_files_that_fuzzing_begins_with_are_read(tmp_path):
    for data in fuzz.tar_files():
        fuzz.read_tar(data, tmp_path)
    for data in fuzz.parquet_files():
        fuzz.read_parquet(data, tmp_path)
    for data in fuzz.image_files():
        fuzz.read_image(data, tmp_path)


@pytest.mark.soak
@pytest.mark.fault(18, 22, 23, 24)
@pytest.mark.parametrize("kind", ["tar", "parquet", "image", "sandbox"])
def test_fuzzed_files_end_in_samples_rejections_or_typed_errors(tmp_path, kind):
    command = [sys.executable, "-m", "tests.faults.fuzz", kind, "30", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{list(tmp_path.iterdir())}: {done.stderr[:3000]}"
    assert int(done.stdout.split()[0]) > 100
