"""The import contracts of pyproject.toml: each has few names, and each fails when it is broken."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
BREACHES = {
    # contract: (file that is added, its content, what the complaint names)
    "data flows one way: a room knows only those below it": [
        ("images/bad.py", "import vqpipe.stages.read", "vqpipe.images.bad -> vqpipe.stages.read"),
        ("sink/bad.py", "import vqpipe.sources.names", "vqpipe.sink.bad -> vqpipe.sources.names"),
        ("corridor.py", "", "- vqpipe.corridor"),  # a door that no layer has
    ],
    "no circle, between rooms or in one": [
        ("stages/one.py", "import vqpipe.stages.two", "No cycles are allowed in vqpipe.stages"),
        ("stages/two.py", "import vqpipe.stages.one", "No cycles are allowed in vqpipe.stages"),
    ],
    "only the engine knows Ray": [
        ("stages/bad.py", "def late():\n    import ray", "vqpipe.stages.bad -> ray"),
    ],
    "only networks, the codec, the judges and the reader for trainers know torch": [
        ("sources/bad.py", "from torch import Tensor", "vqpipe.sources.bad -> torch"),
    ],
    "only storage opens anything remote": [
        ("engine/bad.py", "import fsspec", "vqpipe.engine.bad -> fsspec"),
    ],
    "only the hub knows huggingface_hub": [
        ("codec/bad.py", "import huggingface_hub", "vqpipe.codec.bad -> huggingface_hub"),
    ],
    "storage has one door": [
        (
            "sink/late.py",
            "from vqpipe.storage import disk",
            "vqpipe.sink.late -> vqpipe.storage.disk",
        ),
    ],
    "network and report know neither Arrow nor where anything is stored": [
        ("vqgan/bad.py", "import pyarrow", "vqpipe.vqgan.bad -> pyarrow"),
    ],
}


def lint(package_folder):
    """Returns what `lint-imports` says of a tree, with the contracts of this project."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    command += ["--config", ROOT / "pyproject.toml"]
    environment = {**os.environ, "PYTHONPATH": str(package_folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    return done.returncode, done.stdout + done.stderr


def part_of(said, name):
    """Returns what is said of one contract that is broken."""
    _, *parts = re.split(r"^(.*)\n-{4,}$", said, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))[name]


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """What is said of a tree with all breaches in it."""
    folder = tmp_path_factory.mktemp("tree")
    shutil.copytree(
        ROOT / "pipeline", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.egg-info")
    )
    for breaches in BREACHES.values():
        for name, content, _ in breaches:
            (folder / "vqpipe" / name).write_text(content + "\n")
    code, said = lint(folder)
    assert code == 1, said
    return said


def test_contracts_of_this_tree_are_kept():
    code, said = lint(ROOT / "pipeline")
    assert code == 0, said
    assert f"Contracts: {len(BREACHES)} kept, 0 broken" in said


@pytest.mark.parametrize("name", BREACHES)
def test_contract_that_is_broken_names_who_breaks_it(broken, name):
    assert f"{name} BROKEN" in broken
    for _, _, complaint in BREACHES[name]:
        assert complaint in part_of(broken, name), part_of(broken, name)


def test_every_contract_is_broken_once_and_none_lists_a_crowd():
    contracts = CONTRACTS["contracts"]
    assert [each["name"] for each in contracts] == list(BREACHES)
    for contract in contracts:
        lists = [value for value in contract.values() if isinstance(value, list)]
        assert max(map(len, lists)) <= 10, contract["name"]
