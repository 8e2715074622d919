"""The count of instructions in compiled kernels, which needs triton and no GPU."""

import os
import re
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def rows():
    """What is printed of the search among few channels, by the number of channels."""
    triton = pytest.importorskip("triton", reason="needs triton, which has no build for here")
    if "nvidia" not in triton.backends.backends:
        pytest.skip("this triton compiles for no GPU of NVIDIA's")
    command = [sys.executable, "-m", "tests.benchmarks.gpu.instructions"]  # it replaces the driver
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    printed = subprocess.run(
        [*command, "--kernels", "_few_kernel"],
        env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    cells = [line.strip("| ").split(" | ") for line in printed.splitlines() if "_few_" in line]
    return {int(of.split()[0]): figures for _, of, *figures in cells}


def test_search_among_few_channels_fits_into_registers(rows):
    assert set(rows) == {4, 8}
    for _, registers, spills, _ in rows.values():
        assert 0 < int(registers) <= 255  # of a thread, by the architecture
        assert spills == "0"


def test_search_takes_an_instruction_a_channel_of_each_score(rows):
    """A product and a sum are one instruction, FFMA, of which no score can do without."""
    four, eight = (float(re.match(r"[\d.]+", rows[channels][0])[0]) for channels in (4, 8))
    assert four >= 4
    assert 4 <= eight - four < 8
