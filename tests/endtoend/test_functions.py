"""The commands as functions: with a Ray of their own, with that of the program, in a thread.

`tests.commands.test_functions` has what is not Ray's.
"""

import json
import subprocess
import sys

import pytest

from tests import shell
from tests.makers import jpeg, tar_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.soak]

SHARDS, IMAGES = 2, 5

HEAD = """
import json, logging, signal, sys, threading
import vqpipe
root, model = sys.argv[1:]
options = {"resolution": 64, "pixel_range": "signed", "skip_doctor": True}
places = {"source": f"{root}/source", "model": model}
def encode(sink, **more):
    return vqpipe.encode(sink=f"{root}/{sink}", **places, **options, **more)
"""


def run(folder, script):
    """Runs a program of its own; returns what it says in its last line, the only one."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + script, str(folder), str(shell.CHECKPOINT)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stdout + done.stderr
    return json.loads(lines[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("functions")
    (root / "source").mkdir()
    for shard in range(SHARDS):
        members = {f"{shard}-{i}.jpg": jpeg(80, 70, seed=shard * 9 + i) for i in range(IMAGES)}
        (root / "source" / f"{shard}.tar").write_bytes(tar_of(members))
    options = ("--pixel-range", "signed", "--skip-doctor")
    shell.encode(root / "source", root / "expected", *options)
    return root


OWN = """
import ray
from ray.data import DataContext
loggers = [logging.getLogger(name) for name in ("ray", "ray.data")]
def state():
    data = DataContext.get_current()
    settings = [data.enable_progress_bars, data.op_resource_reservation_ratio]
    handlers = [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    return [ray.is_initialized(), settings, [logger.level for logger in loggers], handlers]
before = state()
result = encode("own")
print(json.dumps([result.exit_code, result.totals["encoded"], state() == before]))
"""


def test_encode_function_gives_what_the_command_gives_and_leaves_no_ray(folder):
    assert run(folder, OWN) == [0, SHARDS * IMAGES, True]
    assert shell.codes_by_key(folder / "own") == shell.codes_by_key(folder / "expected")
    found = json.loads((folder / "own" / "run.json").read_bytes())
    expected = json.loads((folder / "expected" / "run.json").read_bytes())
    assert found["fingerprint"] == expected["fingerprint"]


OTHERS = """
evaluated = vqpipe.evaluate(source=f"{root}/expected", samples=6)
decoded = vqpipe.decode(source=f"{root}/expected", sink=f"{root}/images")
scores = [evaluated.exit_code, evaluated.evaluation["samples"]]
print(json.dumps([decoded.exit_code, decoded.totals["decoded"], *scores]))
"""


def test_decode_and_evaluate_functions_give_what_the_commands_give(folder):
    assert run(folder, OTHERS) == [0, SHARDS * IMAGES, 0, 6]


THEIRS = """
import ray
from vqpipe.errors import ConfigError
ray.init(num_cpus=5, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
kept = ray.put("mine")
try:
    encode("theirs", address="127.0.0.1:1")
    refused = False
except ConfigError as error:
    refused = "has Ray already" in error.message
result = encode("theirs")
print(json.dumps([refused, result.exit_code, ray.is_initialized(), ray.get(kept)]))
"""


def test_function_in_a_program_that_has_ray_uses_it_and_leaves_it(folder):
    assert run(folder, THEIRS) == [True, 0, True, "mine"]
    assert shell.codes_by_key(folder / "theirs") == shell.codes_by_key(folder / "expected")


THREAD = """
results = []
thread = threading.Thread(target=lambda: results.append(encode("thread")))
thread.start()
thread.join()
print(json.dumps([each.exit_code for each in results]))
"""


def test_function_in_a_thread_does_its_work(folder):
    assert run(folder, THREAD) == [0]
    assert shell.codes_by_key(folder / "thread") == shell.codes_by_key(folder / "expected")
