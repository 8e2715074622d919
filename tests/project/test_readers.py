"""The README's snippets under "As they are": each by itself, its codes against those of pyarrow."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pytest

from tests import shell
from tests.sink import sinks
from tests.sink.test_card import finish

README = (Path(__file__).parents[2] / "README.md").read_text()
SECTION = README.partition("### As they are\n")[2].partition("\n### ")[0]
SNIPPETS = re.findall(r"^```python\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE)
READERS = {
    # reader: type of the codes that it gives, of uint8 in the files
    "pyarrow": "uint8",
    "duckdb": "uint8",
    "polars": "uint8",
    "pandas": "uint8",
    "datasets": "int64",
    "split_dataset_by_node": "int64",
    "ray": "uint8",
    "jax": "uint8",
    "torch": "int64",
}
SAVE = "\nimport numpy\nnumpy.save('found.npy', numpy.asarray(codes))\n"
SHARDS = ("a", "b", "deep/c", "deep/d")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder as the README's reader has it, with a sink in which no two rows are the same."""
    home = tmp_path_factory.mktemp("home")
    writer = sinks.begin(home / "codes", SHARDS)
    for index in range(len(SHARDS)):
        sinks.commit(writer, index, 5 + index, rejected={2})
    sinks.end(writer)
    finish(writer)
    shutil.copytree(shell.CHECKPOINT, home / "vqgan")
    return home


@pytest.fixture(scope="module")
def truth(home):
    column = pyarrow.dataset.dataset(home / "codes" / "data").to_table()["codes"]
    assert column.type.list_size == 6
    return sorted(column.to_pylist())


def run(snippet, home, **environment):
    """Returns what a snippet leaves as `codes`."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", snippet + SAVE],
        cwd=home,
        env=shell.environment_of_a_person() | offline | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Deprecat" not in done.stderr
    found = np.load(home / "found.npy")
    return found.reshape(len(found), -1)


def marked(name):
    return pytest.param(name, marks=[pytest.mark.ray, pytest.mark.slow] if name == "ray" else [])


def test_readme_has_a_snippet_for_each_reader_and_no_other():
    assert len(SNIPPETS) == len(READERS)
    for name, snippet in zip(READERS, SNIPPETS, strict=True):
        assert f"{name}." in snippet or f"import {name}" in snippet, name


@pytest.mark.parametrize("name", [marked(name) for name in READERS])
def test_readme_snippet_gives_the_codes_that_pyarrow_reads(name, home, truth):
    found = run(SNIPPETS[list(READERS).index(name)], home)
    assert str(found.dtype) == READERS[name]
    assert sorted(found.tolist()) == truth


@pytest.mark.parametrize("machines", [2, pytest.param(3, marks=pytest.mark.soak)])
def test_readme_snippet_of_many_machines_shares_the_rows_out(machines, home, truth):
    snippet = SNIPPETS[list(READERS).index("split_dataset_by_node")]
    ranks = [{"RANK": str(rank), "WORLD_SIZE": str(machines)} for rank in range(machines)]
    parts = [run(snippet, home, **each).tolist() for each in ranks]
    assert all(parts)
    assert sorted(row for part in parts for row in part) == truth


def test_datasets_gives_machines_files_of_their_own_only_where_their_number_divides(home, tmp_path):
    code = "import datasets; from datasets.distributed import split_dataset_by_node as split\n"
    code += "rows = datasets.load_dataset('codes/', split='train', streaming=True)\n"
    code += "codes = [[split(rows, 0, number).num_shards for number in (1, 2, 3, 4, 8)]]"
    assert run(code, home, HF_HOME=str(tmp_path)).tolist() == [[4, 2, 4, 1, 4]]
