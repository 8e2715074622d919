"""What is answered at once: help, the version, mistakes; and what must not be imported for it."""

import json
import subprocess
import sys

import pytest

from vqpipe.commands.jobs import JOBS

HEAVY = ("torch", "ray", "pyarrow", "fsspec", "s3fs", "huggingface_hub", "PIL")

ASKED = {
    **{f"help of {name}": (0, name, "--help") for name in JOBS},
    "help": (0, "--help"),
    "no word at all": (0,),
    "version": (0, "--version"),
    "a word that is no command": (4, "encod", "--source", "x"),
    "an option that is none": (4, "encode", "--sorce", "x"),
    "an option that is missing": (4, "encode", "--source", "x"),
    "a value of another type": (4, "encode", "--resolution", "large"),
    "a value that is no choice": (4, "encode", "--dtype", "int4"),
    "a value out of bounds": (
        *(4, "encode", "--source", "x", "--sink", "y", "--model", "z"),
        *("--resolution", "0"),
    ),
    "a value out of bounds of another command": (4, "diff", "a", "b", "--share", "2"),
    "credentials for a cluster": (4, "submit", "encode", "--address", "http://a:b@head", "--"),
}

SCRIPT = """
import json, sys
from vqpipe.commands import cli
try:
    code = cli.main(sys.argv[2:])
except SystemExit as end:
    code = end.code
found = [name for name in json.loads(sys.argv[1]) if name in sys.modules]
print("\\n" + json.dumps([code, found]))
"""


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())
def test_main_what_starts_no_work_imports_nothing_heavy(asked):
    expected, *arguments = asked
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(HEAVY), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    code, found = json.loads(done.stdout.splitlines()[-1])
    assert (code, found) == (expected, [])


def test_main_python_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "vqpipe", "--version"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert done.stdout.startswith("vqpipe ")
