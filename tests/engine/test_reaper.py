import subprocess
import sys

import psutil
import pytest

PARENT = """
import os, subprocess
from vqpipe.engine import reaper

idle = ["sleep", "1000"]
how = {"start_new_session": True, "stdout": subprocess.DEVNULL}
with reaper.leave_nothing() as environment:
    marked = subprocess.Popen(idle, env={**os.environ, **environment}, **how)
    other = subprocess.Popen(idle, **how)
    print(marked.pid, other.pid, flush=True)
    input()
print(marked.wait(), flush=True)
"""


@pytest.fixture
def parent():
    """A process that has started two others: one that shall end with it, and one that shall not."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", PARENT], text=True, **pipes) as process:
        pids = process.stdout.readline().split()
        process.marked, process.other = (psutil.Process(int(pid)) for pid in pids)
        yield process
        process.kill()
        process.other.kill()


@pytest.mark.fault(2)
def test_leave_nothing_of_a_process_that_is_killed(parent):
    parent.kill()
    _, alive = psutil.wait_procs([parent.marked], timeout=30)
    assert not alive
    assert parent.other.is_running()


def test_leave_nothing_at_the_end_of_the_block(parent):
    parent.stdin.write("\n")
    parent.stdin.flush()
    assert parent.stdout.readline() == "-9\n"
    assert parent.other.is_running()
