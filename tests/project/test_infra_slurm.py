"""The batch scripts of infra/slurm, run as processes by a stand-in for Slurm."""

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
from tests.project.slurm import Slurm, directives, kill_all
from vqpipe.commands import cli
from vqpipe.commands.stage_jobs import Encode

ROOT = Path(__file__).parents[2]
ARRAY = (ROOT / "infra/slurm/array.sbatch").read_text()
CLUSTER = (ROOT / "infra/slurm/cluster.sbatch").read_text()
BIN = Path(sys.executable).parent

COMMAND = """
printf '%s\\n' "$*" >> "$STAND_IN_FOR_SLURM/calls"
if [ "$DOES" = lose-head ]; then
    head=$(cat "$STAND_IN_FOR_SLURM/head")
    kill -KILL "$head"
    while kill -0 "$head"; do :; done
    exit 4
fi
[ "$DOES" = wait ] || exit "$DOES"
trap 'kill $!; exit 2' TERM
sleep 60 &
: > "$STAND_IN_FOR_SLURM/works"
wait
"""
"""What stands in for vqpipe: notes what it is given, ends as it is told, or with 2 if stopped."""


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
    checked = subprocess.run([BIN / "shellcheck", script], capture_output=True, text=True)
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
    words = " ".join(entrypoint(script)).replace(
        "$((SLURM_JOB_NUM_NODES * SLURM_GPUS_ON_NODE))", "8"
    )
    job = cli.parse(words.replace("$part/$SLURM_ARRAY_TASK_COUNT", "0/8").split())
    assert isinstance(job, Encode)
    assert job.device == "cuda"
    assert job.address == ("$head:$port" if script is CLUSTER else None)


def some_job():
    """Returns a job's number, and by it ports and a folder, that no other test has."""
    return 100_000 + secrets.randbelow(900_000)


RAY = """
printf '%s\\n' "$*" >> "$STAND_IN_FOR_SLURM/nodes"
cp --preserve=mode "$RAY_AUTH_TOKEN_PATH" "$STAND_IN_FOR_SLURM/token"
stat --format=%a "$RAY_TMPDIR" > "$STAND_IN_FOR_SLURM/mode"
[[ -z $RAY_FAILS ]] || exit 1
[[ $* != *--head* ]] || echo $$ > "$STAND_IN_FOR_SLURM/head"
mkdir -p "$RAY_TMPDIR/ray"
[[ $* != *--head* ]] || echo started > "$RAY_TMPDIR/ray/ray_current_cluster"
exec sleep 60
"""
"""What stands in for Ray: notes how it is started, and the head says when it is."""


@pytest.fixture
def cluster(tmp_path):
    """The job of several nodes under Slurm's stand-in, with one for vqpipe and one for Ray."""
    (tmp_path / "home").mkdir()
    found = Slurm(
        tmp_path / "slurm", CLUSTER, some_job(), {**os.environ, "HOME": str(tmp_path / "home")}
    )
    found.install("vqpipe", COMMAND)
    found.install("ray", RAY)
    yield found
    found.end()


def nodes(slurm):
    """Returns the options that each node of Ray was started with."""
    lines = (slurm.folder / "nodes").read_text().splitlines()
    return [dict(word.partition("=")[::2] for word in line.split()) for line in lines]


def test_cluster_is_one_head_and_workers_that_know_its_address(cluster):
    process = waiting(cluster, None)
    while len(started := nodes(cluster)) < 4:
        assert process.poll() is None, cluster.log(str(cluster.job))
        time.sleep(0.01)
    cluster.warn(process)
    assert process.wait() == 2
    (head,) = (node for node in started if "--head" in node)
    workers = [node for node in started if "--head" not in node]
    address = f"{head['--node-ip-address']}:{head['--port']}"
    assert [worker["--address"] for worker in workers] == [address] * 3
    command = shlex.split((cluster.folder / "calls").read_text())
    assert command[command.index("--address") + 1] == address
    assert "--actors" not in command  # codecs come with the nodes
    assert cluster.requeued() == [str(cluster.job)]
    assert not kill_all(cluster.folder)  # nothing is left on any node


def test_cluster_token_is_its_owners_alone_and_ends_with_the_job(cluster):
    assert cluster.start(DOES="0").wait() == 0
    token = cluster.folder / "token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(bytes.fromhex(token.read_text())) == 32
    assert list(Path(cluster.environment["HOME"]).iterdir()) == []
    assert (
        token.read_text()
        not in cluster.log(str(cluster.job)) + (cluster.folder / "nodes").read_text()
    )


def test_cluster_folder_is_its_owners_alone_and_ends_with_the_job(cluster):
    assert cluster.start(DOES="0").wait() == 0
    assert (cluster.folder / "mode").read_text() == "700\n"
    assert not Path(f"/tmp/vq{cluster.job}").exists()


def test_cluster_of_another_job_has_other_ports(tmp_path):
    taken = []
    first = some_job()
    for job in (first, first + 1):
        slurm = Slurm(tmp_path / f"{job}", CLUSTER, job, {**os.environ, "HOME": str(tmp_path)})
        slurm.install("vqpipe", COMMAND)
        slurm.install("ray", RAY)
        assert slurm.start(DOES="0").wait() == 0, slurm.log(str(job))
        ports = {v for node in nodes(slurm) for name, v in node.items() if name.endswith("port")}
        taken.append(ports - {"0"})
    assert [len(ports) for ports in taken] == [3, 3]
    assert not taken[0] & taken[1]


def test_cluster_that_is_cancelled_stays_cancelled(cluster):
    process = waiting(cluster, None)
    cluster.cancel(process)
    assert process.wait() == 2
    assert cluster.requeued() == []


def test_cluster_passes_on_what_another_try_does_not_help(cluster):
    assert cluster.start(DOES="4").wait() == 4
    assert cluster.requeued() == []


def test_cluster_whose_ray_does_not_start_ends_with_5(cluster):
    assert cluster.start(DOES="0", RAY_FAILS="yes").wait() == 5
    assert not (cluster.folder / "calls").exists()


def test_cluster_whose_head_is_gone_when_the_command_joins_ends_with_5(cluster):
    assert cluster.start(DOES="lose-head").wait() == 5  # the command says 4: nobody answers
    assert cluster.requeued() == []


def for_this_machine(script, source, sink, **changes):
    """Returns a script that is edited as a person would, for this machine and small images."""
    edits = {
        "s3://EDIT-bucket/images": str(source),
        "s3://EDIT-bucket/codes": str(sink),
        "s3://EDIT-bucket/vqgan": f"{shell.CHECKPOINT} --resolution 64",
        "--device cuda": "--device cpu",
        **changes,
    }
    for before, after in edits.items():
        assert before in script
        script = script.replace(before, after)
    return script


def write_source(folder, shards):
    folder.mkdir()
    for shard in range(shards):
        members = {f"{shard}-{i}.jpg": jpeg(80, 70, seed=shard * 100 + i) for i in range(12)}
        (folder / f"{shard:05d}.tar").write_bytes(tar_of(members))
    return shards * 12


def a_persons(tmp_path):
    """Returns the environment of a person whose home folder is empty."""
    (tmp_path / "home").mkdir()
    return shell.environment_of_a_person() | {
        "HOME": str(tmp_path / "home"),
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }


def keys(sink):
    """Returns how many rows and how many different keys a sink has, by DuckDB."""
    query = f"SELECT count(*), count(DISTINCT key) FROM '{sink}/data/**/*.parquet'"
    (found,) = duckdb.sql(query).fetchall()
    return found


@pytest.mark.soak
@pytest.mark.ray
def test_cluster_of_two_nodes_stopped_at_its_time_limit_goes_on_and_completes(tmp_path):
    images = write_source(tmp_path / "source", 12)
    sink = tmp_path / "codes"
    nodes = {"--nodes=4": "--nodes=2", "--cpus-per-task=64": "--cpus-per-task=2", "256G": "1G"}
    script = for_this_machine(CLUSTER, tmp_path / "source", sink, **nodes)
    slurm = Slurm(tmp_path / "slurm", script, some_job(), a_persons(tmp_path))
    try:
        process = slurm.start()
        shell.await_commit(process, sink)
        slurm.warn(process)
        assert process.wait() == 2, slurm.log(str(slurm.job))
        assert slurm.requeued() == [str(slurm.job)]
        assert not (sink / "_SUCCESS").exists()
        assert slurm.start().wait() == 0, slurm.log(str(slurm.job))
    finally:
        slurm.end()
    assert (sink / "_SUCCESS").exists()
    assert keys(sink) == (images, images)


@pytest.mark.soak
@pytest.mark.ray
def test_array_whose_tasks_are_stopped_and_killed_completes_with_each_image_once(tmp_path):
    images = write_source(tmp_path / "source", 12)
    sink = tmp_path / "codes"
    script = for_this_machine(ARRAY, tmp_path / "source", sink, **{"--array=0-7": "--array=1-2"})
    slurm = Slurm(tmp_path / "slurm", script, some_job(), a_persons(tmp_path))
    try:
        stopped, killed = (slurm.start(task) for task in slurm.tasks())
        shell.await_commit(stopped, sink)
        slurm.warn(stopped)
        slurm.lose_node(killed)  # which Slurm itself queues again
        ended = stopped.wait()
        if ended == 0:  # it was through already
            assert slurm.requeued() == []
        else:
            assert (ended, slurm.requeued()) == (2, [f"{slurm.job}_1"])
        assert not (sink / "_SUCCESS").exists()
        again = {task: slurm.start(task) for task in slurm.tasks()}
        for task, process in again.items():
            assert process.wait() == 0, slurm.log(f"{slurm.job}_{task}")
    finally:
        slurm.end()
    assert json.loads((sink / "_SUCCESS").read_text())["encoded"] == images
    assert keys(sink) == (images, images)
