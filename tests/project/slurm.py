"""A stand-in for Slurm: runs batch scripts as processes of this machine, with Slurm's variables.

What scripts call (`srun`, `scontrol`, `squeue`) is this file as a program. A job's processes are
known by their environment, as Slurm knows them by their control group.

python slurm.py srun|scontrol|squeue ARGUMENT...
"""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

RUNNING, CANCELLED = "RUNNING", "COMPLETING"
"""What `squeue` says of a job that runs, and of one that `scancel` is ending."""


def directives(script):
    """Returns what a script's #SBATCH lines ask for, as `{option: value}`."""
    head = itertools.takewhile(lambda line: not line or line[0] == "#", script.splitlines())
    lines = [line.split() for line in head if line.startswith("#SBATCH")]
    return {
        name: value for line in lines for name, _, value in (w.partition("=") for w in line[1:])
    }


@dataclass
class Slurm:
    """Runs the tasks of one script; `folder` keeps what Slurm's daemons would."""

    folder: Path
    script: str
    job: int
    environment: dict[str, str]
    starts: dict[int, int] = field(default_factory=dict)
    """How often each task has been started."""

    def __post_init__(self):
        self.options = directives(self.script)
        (self.folder / "bin").mkdir(parents=True)
        (self.folder / "state").mkdir()
        (self.folder / "script").write_text(self.script)
        for name in ("srun", "scontrol", "squeue"):
            self.install(name, f'exec {sys.executable} {__file__} {name} "$@"')

    def install(self, name, body):
        """Puts a command on the PATH of scripts."""
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def tasks(self):
        """Returns the numbers of the array's tasks."""
        first, last = map(int, self.options["--array"].partition("%")[0].split("-"))
        return range(first, last + 1)

    def start(self, task=None, **more):
        """Starts the script as one task of an array, or as a job without any."""
        restarts = self.starts.get(task, 0)
        self.starts[task] = restarts + 1
        variables = self.array_variables(task) if task is not None else {}
        name = f"{self.job}_{task}" if task is not None else f"{self.job}"
        (self.folder / "state" / name).write_text(RUNNING)
        variables |= {
            "PATH": f"{self.folder / 'bin'}:{self.environment['PATH']}",
            "SLURM_JOB_ID": str(self.job + (task or 0)),
            "SLURM_JOB_NUM_NODES": self.options["--nodes"],
            "SLURM_CPUS_PER_TASK": self.options["--cpus-per-task"],
            "SLURM_MEM_PER_NODE": str(int(self.options["--mem"].removesuffix("G")) * 1024),
            "SLURM_GPUS_ON_NODE": self.options["--gpus-per-node"],
            "SLURMD_NODENAME": "node0",
            "STAND_IN_FOR_SLURM": str(self.folder),
            "STAND_IN_TASK": name,
        }
        if restarts:
            variables["SLURM_RESTART_COUNT"] = str(restarts)
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                ["bash", self.folder / "script"],
                env=self.environment | variables | more,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.folder / "state" / f"{name}.pid").write_text(str(process.pid))
        return process

    def array_variables(self, task):
        tasks = self.tasks()
        return {
            "SLURM_ARRAY_JOB_ID": str(self.job),
            "SLURM_ARRAY_TASK_ID": str(task),
            "SLURM_ARRAY_TASK_COUNT": str(len(tasks)),
            "SLURM_ARRAY_TASK_MIN": str(tasks[0]),
            "SLURM_ARRAY_TASK_MAX": str(tasks[-1]),
            "SLURM_ARRAY_TASK_STEP": "1",
        }

    def warn(self, process):
        """Sends the signal that the script asked for before its time limit, to its shell."""
        asked = re.fullmatch(r"B:(\w+)@\d+", self.options["--signal"])
        process.send_signal(getattr(signal, f"SIG{asked[1]}"))

    def cancel(self, process, task=None):
        """Does what `scancel` does first: SIGTERM to the shell of a job that is to end."""
        name = f"{self.job}_{task}" if task is not None else f"{self.job}"
        (self.folder / "state" / name).write_text(CANCELLED)
        process.terminate()

    def lose_node(self, process):
        """Ends all processes of a task at once."""
        name = psutil.Process(process.pid).environ()["STAND_IN_TASK"]
        kill_all(self.folder, STAND_IN_TASK=name)
        process.wait()

    def requeued(self):
        """Returns what scripts asked to queue again, in the order in which they did."""
        asked = self.folder / "requeued"
        return asked.read_text().split() if asked.exists() else []

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def end(self):
        """Ends whatever is left of all tasks."""
        kill_all(self.folder)


def kill_all(folder, **variables):
    """Kills a stand-in's processes that have these variables; returns how many there were."""
    asked = {"STAND_IN_FOR_SLURM": str(folder), **variables}
    count = 0
    while found := [each for each in psutil.process_iter() if has(each, asked)]:
        count += len(found)
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(found, timeout=10)
    return count


def has(process, variables):
    try:
        if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        return variables.items() <= process.environ().items()
    except psutil.Error:
        return False


def srun(arguments):
    """Runs a command once a node, as a step of the job; returns the highest exit code.

    As srun does, it kills the step's processes when it is told to end.
    """
    command = list(itertools.dropwhile(lambda word: word.startswith("--"), arguments))
    options = dict(word.partition("=")[::2] for word in arguments[: -len(command)])
    count = int(options.get("--nodes", os.environ["SLURM_JOB_NUM_NODES"]))
    first = int(options.get("--relative", 0))
    assert first + count <= int(os.environ["SLURM_JOB_NUM_NODES"])
    folder, step = os.environ["STAND_IN_FOR_SLURM"], f"{time.time_ns()}"
    nodes = [
        subprocess.Popen(command, env={**os.environ, "SLURM_NODEID": str(i), "STAND_IN_STEP": step})
        for i in range(first, first + count)
    ]
    signal.signal(signal.SIGTERM, lambda *_: kill_all(folder, STAND_IN_STEP=step))
    return max(abs(node.wait()) for node in nodes)


def scontrol(arguments):
    """Notes that a task is to be queued again, and ends its shell, as Slurm does."""
    folder = Path(os.environ["STAND_IN_FOR_SLURM"])
    verb, task = arguments
    assert verb == "requeue"
    with (folder / "requeued").open("a") as requeued:
        requeued.write(f"{task}\n")
    os.kill(int((folder / "state" / f"{task}.pid").read_text()), signal.SIGTERM)
    return 0


def squeue(arguments):
    """Prints the state of one task."""
    asked = dict(word.partition("=")[::2] for word in arguments)
    assert asked.keys() == {"--noheader", "--format", "--jobs"}
    assert asked["--format"] == "%T"
    print((Path(os.environ["STAND_IN_FOR_SLURM"]) / "state" / asked["--jobs"]).read_text())
    return 0


if __name__ == "__main__":
    sys.exit({"srun": srun, "scontrol": scontrol, "squeue": squeue}[sys.argv[1]](sys.argv[2:]))
