"""The batch scripts of infra/slurm, run as processes by a stand-in for Slurm."""

import dataclasses
import json
import os
import secrets
import shlex
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from tests import shell
from tests.makers import jpeg, tar_of
from tests.project.slurm import Slurm, directives
from vqpipe.commands import cli
from vqpipe.commands.stage_jobs import Encode

ROOT = Path(__file__).parents[2]
ARRAY = (ROOT / "infra/slurm/array.sbatch").read_text()
CLUSTER = (ROOT / "infra/slurm/cluster.sbatch").read_text()
BIN = Path(sys.executable).parent
HAS_PARTS = "part" in {each.name for each in dataclasses.fields(Encode)}

COMMAND = """
printf '%s\\n' "$*" >> "$STAND_IN_FOR_SLURM/calls"
[ "$DOES" != wait ] || { trap 'exit 2' TERM; : > "$STAND_IN_FOR_SLURM/works"; sleep 60 & wait; }
exit "$DOES"
"""
"""What stands in for vqpipe: notes what it is given, then ends as it is told, or with 2 if stopped."""


@pytest.fixture
def slurm(tmp_path):
    """The array under Slurm's stand-in, with a command that stands in for vqpipe."""
    found = Slurm(tmp_path / "slurm", ARRAY, 7000, dict(os.environ))
    found.install("vqpipe", COMMAND)
    yield found
    found.end()


def waiting(slurm, task):
    """Starts a task, and returns when its command works."""
    process = slurm.start(task, DOES="wait")
    while not (slurm.folder / "works").exists():
        assert process.poll() is None, slurm.log(f"{slurm.job}_{task}")
        time.sleep(0.01)
    return process


def parts(slurm):
    """Returns the parts that commands were started with."""
    calls = (slurm.folder / "calls").read_text().splitlines()
    return [words[words.index("--part") + 1] for words in map(shlex.split, calls)]


@pytest.mark.parametrize("name", ["array", "cluster"])
def test_script_to_shellcheck_is_without_fault(name):
    script = ROOT / f"infra/slurm/{name}.sbatch"
    checked = subprocess.run(
        [BIN / "shellcheck", script], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


def test_script_with_an_unquoted_variable_is_refused_by_shellcheck(tmp_path):
    damaged = tmp_path / "damaged.sbatch"
    damaged.write_text(ARRAY.replace('--jobs="$task"', "--jobs=$task"))
    assert subprocess.run([BIN / "shellcheck", damaged], capture_output=True).returncode == 1


@pytest.mark.parametrize("script", [ARRAY, CLUSTER])
def test_script_asks_slurm_to_warn_it_and_to_queue_it_again(script):
    asked = directives(script)
    assert {"--requeue", "--signal", "--open-mode", "--nodes", "--mem"} <= asked.keys()
    seconds = int(asked["--signal"].removeprefix("B:TERM@"))
    assert seconds >= 120  # Slurm may be a minute late


@pytest.mark.parametrize(("array", "count"), [("0-7", 8), ("1-8", 8), ("5-5", 1), ("0-3%2", 4)])
def test_array_from_any_number_has_each_part_once(tmp_path, array, count):
    script = ARRAY.replace("--array=0-7", f"--array={array}")
    slurm = Slurm(tmp_path / "slurm", script, 7000, dict(os.environ))
    slurm.install("vqpipe", COMMAND)
    tasks = [slurm.start(task, DOES="0") for task in slurm.tasks()]
    assert [task.wait() for task in tasks] == [0] * count
    assert sorted(parts(slurm)) == [f"{part}/{count}" for part in range(count)]
    assert slurm.requeued() == []


@pytest.mark.parametrize("code", [0, 1, 3, 4, 5, 137])
def test_array_task_that_another_try_does_not_help_passes_its_exit_code_on(slurm, code):
    assert slurm.start(3, DOES=str(code)).wait() == code
    assert slurm.requeued() == []


@pytest.mark.parametrize("task", [0, 3])
def test_array_task_that_is_not_through_is_queued_again_alone(slurm, task):
    # Of the first task, SLURM_JOB_ID is the number of the array.
    slurm.start(task, DOES="2").wait()
    assert slurm.requeued() == [f"7000_{task}"]


def test_array_task_at_its_time_limit_stops_its_command_and_is_queued_again(slurm):
    process = waiting(slurm, 3)
    slurm.warn(process)
    assert process.wait() == 2
    assert slurm.requeued() == ["7000_3"]


def test_array_task_that_is_cancelled_stops_its_command_and_stays_cancelled(slurm):
    process = waiting(slurm, 3)
    slurm.cancel(process, 3)
    assert process.wait() == 2
    assert slurm.requeued() == []


def test_array_task_that_never_gets_through_is_given_up(slurm):
    slurm.starts[3] = 20
    assert slurm.start(3, DOES="2").wait() == 2
    assert slurm.requeued() == []


def entrypoint(script):
    """Returns the words of the script's command of ours, variables as they stand there."""
    text = script.replace("\\\n", " ")
    (line,) = (line for line in text.splitlines() if line.startswith("vqpipe "))
    return shlex.split(line.removesuffix("&"))[1:]


@pytest.mark.parametrize("script", [ARRAY, CLUSTER])
def test_script_command_is_a_command_line_of_ours(script):
    words = " ".join(entrypoint(script)).replace("$((SLURM_JOB_NUM_NODES * SLURM_GPUS_ON_NODE))", "8")
    if not HAS_PARTS:  # until `vqpipe encode --part` is there
        words = words.replace("--part $part/$SLURM_ARRAY_TASK_COUNT ", "")
    job = cli.parse(words.replace("$part/$SLURM_ARRAY_TASK_COUNT", "0/8").split())
    assert isinstance(job, Encode)
    assert job.device == "cuda"
    assert job.address == ("$head:$port" if script is CLUSTER else None)
