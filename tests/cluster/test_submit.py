"""vqpipe submit, jobs, logs and stop on a real Ray cluster of two nodes, one with a logical GPU."""

import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from tests.cluster import dashboard, tcp_proxy
from tests.cluster.scrapes import scraping
from tests.makers import jpeg, tar_of
from tests.shadows import ran, shadow
from tests.storage.ports import free_port
from vqpipe.commands.console import harmless

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PATH = os.environ["PATH"].split(os.pathsep)
START_TIMEOUT_S = 90
STOP_TIMEOUT_S = 5
NODE_PORTS = (
    "node-manager-port",
    "object-manager-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
)


@dataclass(frozen=True)
class Cluster:
    dashboard: str
    env: dict[str, str]
    cwd: Path = ROOT
    """Where commands of ours are given."""

    def list(self, what):
        """Returns what Ray's state API knows of all nodes or actors, dead ones too."""
        answer = subprocess.run(
            [BIN / "ray", "list", what, "--detail", "--format=json", f"--address={self.dashboard}"],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        is_list = answer.returncode == 0 and answer.stdout.startswith("[")
        return json.loads(answer.stdout) if is_list else []

    def vqpipe(self, *arguments, **env):
        """Runs a command line of ours to its end."""
        return subprocess.run(
            [sys.executable, "-m", "vqpipe", *map(str, arguments)],
            env=self.env | env,
            cwd=self.cwd,
            capture_output=True,
            text=True,
            timeout=240,
        )

    def start(self, *arguments):
        """Starts a command line of ours."""
        return subprocess.Popen(
            [sys.executable, "-m", "vqpipe", *map(str, arguments)],
            env=self.env | {"PYTHONUNBUFFERED": "1"},
            cwd=self.cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def jobs(self):
        """Returns what `vqpipe jobs` says."""
        return json.loads(self.vqpipe("jobs", "--address", self.dashboard, "--json").stdout)["jobs"]

    def start_job(self, entrypoint):
        """Starts a job that is not ours, as Ray's own client does; returns its name."""
        token = Path(self.env["RAY_AUTH_TOKEN_PATH"]).read_text()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        asked = json.dumps({"entrypoint": entrypoint}).encode()
        request = urllib.request.Request(f"{self.dashboard}/api/jobs/", asked, headers)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["submission_id"]

    def read_log(self, job):
        """Returns the lines of a job's log file."""
        logs = Path(self.env["RAY_AUTH_TOKEN_PATH"]).parent / "session_latest" / "logs"
        return (logs / f"job-driver-{job}.log").read_text().splitlines()

    def submit(self, *arguments, **env):
        return self.vqpipe("submit", "encode", "--address", self.dashboard, "--", *arguments, **env)


@pytest.fixture(scope="module")
def cluster():
    with ray_head() as (found, folder, gcs, _):
        worker = (f"--address=127.0.0.1:{gcs}", "--num-cpus=1", "--num-gpus=1")
        with started(folder, found.env, worker) as process:
            wait_for_nodes(found, 2, process, folder)
            yield found


@contextlib.contextmanager
def ray_head():
    """Runs a cluster of one node without GPUs, with ports and folder of its own.

    Nodes and commands are started in a folder with files that are called as ours are.
    """
    # Ray's sockets live in the folder, and their paths may have 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="vq", dir="/tmp"))
    gcs, dashboard, client = free_port(), free_port(), free_port()
    shadows = shadow(folder / "shadows")
    found = Cluster(f"http://127.0.0.1:{dashboard}", environment(folder), shadows)
    options = (
        *("--head", f"--port={gcs}", f"--ray-client-server-port={client}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *("--num-cpus=2", "--num-gpus=0"),
    )
    try:
        with started(folder, found.env, options) as process:
            wait_for_nodes(found, 1, process, folder)
            yield found, folder, gcs, process
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def environment(folder):
    """Returns the environment of a cluster with a token of its own, and without its Python in PATH.

    `ray start` listens on all interfaces, and takes the token in the home folder if there is one.
    """
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return inherited | {
        "PATH": os.pathsep.join(each for each in PATH if Path(each) != BIN),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_metrics_report_interval_ms": "500",  # else ten seconds, which a job here does not take
    }


@contextlib.contextmanager
def started(folder, env, options):
    """Runs a Ray node for the length of a `with` block."""
    ports = {name: free_port() for name in NODE_PORTS}
    command = [
        *(BIN / "ray", "start", "--block", "--disable-usage-stats", f"--temp-dir={folder}"),
        *("--node-ip-address=127.0.0.1", "--object-store-memory=100000000"),
        *(f"--{name}={port}" for name, port in ports.items()),
        *options,
    ]
    with (folder / "output.txt").open("ab") as output:
        process = subprocess.Popen(
            command,
            env=env,
            cwd=folder / "shadows",
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            stop(process)


def stop(process):
    """Ends a node and all it started: it does so itself, but may first drain for half a minute."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for_nodes(cluster, count, process, folder):
    deadline = time.monotonic() + START_TIMEOUT_S
    while sum(node["state"] == "ALIVE" for node in cluster.list("nodes")) < count:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Ray did not start:\n{(folder / 'output.txt').read_text()}")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    for shard in range(2):
        members = {f"{shard}-{i}.jpg": jpeg(80, 70, seed=shard * 100 + i) for i in range(12)}
        members[f"{shard}-bad.jpg"] = b"no image"
        (folder / f"{shard:05d}.tar").write_bytes(tar_of(members))
    return folder


def options(source, sink, resolution=64):
    model = ROOT / "infra/demo/checkpoint"
    places = ("--source", source, "--sink", sink, "--model", model)
    return (*places, "--resolution", resolution)


@pytest.fixture(scope="module")
def watched(cluster, source, tmp_path_factory):
    """A finished job: what its command returned, its sink, and what Ray's exporters said of it."""
    sink = tmp_path_factory.mktemp("remote") / "codes"
    asked = (*options(source, sink), "--progress-file", sink.parent / "progress.jsonl")
    with scraping(Path(cluster.env["RAY_AUTH_TOKEN_PATH"]).parent) as heard:
        return cluster.submit(*asked), sink, heard


@pytest.fixture(scope="module")
def submitted(watched):
    """A finished job: what its command returned, and its sink."""
    return watched[:2]


def read_until(stream, words):
    """Returns the lines up to the first with these words in it."""
    lines = []
    while words not in (lines[-1] if lines else ""):
        line = stream.readline()
        assert line, "".join(lines)
        lines.append(line)
    return "".join(lines)


def codes(sink):
    rows = duckdb.sql(
        f"SELECT key, row, codes FROM '{sink}/data/*.parquet' ORDER BY key"
    ).fetchall()
    assert rows
    return rows


def node_of(cluster, has_gpu):
    (node,) = (
        node["node_id"]
        for node in cluster.list("nodes")
        if ("GPU" in node["resources_total"]) == has_gpu
    )
    return node


@pytest.mark.ray
@pytest.mark.slow
def test_submit_complete_job_shows_its_log_and_ends_with_0(submitted):
    finished, sink = submitted
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "2 of 2 committed" in finished.stdout
    assert (sink / "_SUCCESS").exists()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("submitted")
def test_submit_where_files_are_called_as_ours_are_runs_none_of_them(cluster):
    assert not ran(cluster.cwd)


@pytest.mark.ray
@pytest.mark.slow
def test_submit_progress_file_of_the_job_tells_from_beginning_to_end(submitted):
    file = submitted[1].parent / "progress.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    events = [each["event"] for each in records]
    assert (events[0], events[-1], events.count("ready")) == ("began", "ended", 1)
    assert {each["sink"] for each in records} == {str(submitted[1])}
    assert records[-1]["exit_code"] == 0
    assert records[-1]["shards_done"] == records[-1]["shards_total"] == 2
    totals = records[-1]["totals"]
    assert (totals["encoded"], totals["rejected"]) == (24, 2)
    assert records[-1]["images_done"] == 26


def repeated(source, folder):
    """Returns a source that takes a minute or more."""
    folder.mkdir()
    for number in range(500):
        (folder / f"{number:05d}.tar").hardlink_to(source / "00000.tar")
    return folder


def printed(output, what):
    """Returns the words of a command that is printed to be pasted."""
    (found,) = re.findall(rf"(?m)^ +{what} +vqpipe (.+)$", output)
    return shlex.split(found)


@pytest.mark.ray
@pytest.mark.slow
def test_submit_left_goes_on_and_is_taken_up_followed_and_stopped(cluster, source, tmp_path):
    asked = options(repeated(source, tmp_path / "many"), tmp_path / "codes")
    words = ("submit", "encode", "--address", cluster.dashboard, "--", *asked)
    first = cluster.start(*words)
    log = read_until(first.stdout, "left to do")
    first.send_signal(signal.SIGINT)
    said = first.communicate(timeout=60)[1]
    assert first.returncode == 2, said
    assert "left by SIGINT" in said
    name = re.search(r"job (vqpipe-encode-\w+-1) on", said)[1]
    second = cluster.start(*words)
    follower = cluster.start(*printed(said, "follow it"))
    assert log in read_until(second.stdout, "the codec is on")  # from the beginning again
    read_until(follower.stdout, "the codec is on")
    second.send_signal(signal.SIGTERM)
    left = second.communicate(timeout=60)[1]
    assert (second.returncode, "left by SIGTERM" in left) == (2, True), left
    assert f"job {name} on" in left
    assert "taken up" in left
    stopped = cluster.vqpipe(*printed(left, "stop it"))
    assert stopped.returncode == 0, stopped.stderr
    assert "stopped by SIGTERM; everything committed is safe" in stopped.stdout
    assert "by itself, with exit code 2" in stopped.stdout
    assert printed(stopped.stdout, "to resume") == [str(word) for word in words]
    output, errors = follower.communicate(timeout=60)
    assert follower.returncode == 2, errors
    assert "stopped by SIGTERM; everything committed is safe" in output
    (job,) = (each for each in cluster.jobs() if each["job"] == name)
    assert (job["state"], job["command"]) == ("stopped", "encode")
    assert job["sink"] == str(tmp_path / "codes")


LINES = """
import os, sys, time
folder, lines = sys.argv[1:]
for gate in range(3):
    while not os.path.exists(f"{folder}/{gate}"):
        time.sleep(0.05)
    for line in range(int(lines)):
        print(f"{gate} {line} " + "\N{SNOWMAN}" * (line % 7), flush=True)
sys.exit(7)
"""
"""A job that says more whenever a file is there."""


@pytest.mark.ray
@pytest.mark.slow
def test_logs_through_connections_that_break_has_each_line_once(cluster, tmp_path):
    port = int(cluster.dashboard.rpartition(":")[2])
    words = (sys.executable, "-c", LINES, str(tmp_path), "400")
    name = cluster.start_job(shlex.join(words))
    with tcp_proxy.serve(port) as proxy:
        for size in (900, 3000, 5000):  # amid a line, of which some are known by then
            proxy.cut_after(b"/logs/tail", size)
        (tmp_path / "0").touch()
        address = f"http://127.0.0.1:{proxy.port}"
        follower = cluster.start("logs", name, "--address", address)
        shown = read_until(follower.stdout, "0 399 ")
        proxy.cut()
        (tmp_path / "1").touch()
        shown += read_until(follower.stdout, "1 399 ")
        proxy.refuse()
        said = read_until(follower.stderr, "does not answer")
        (tmp_path / "2").touch()
        proxy.accept()
        rest, errors = follower.communicate(timeout=120)
    assert follower.returncode == 7, errors
    assert f"{address} answers again" in errors
    assert errors.count("does not answer") == 0, said
    assert proxy.cuts == 3
    assert (shown + rest).splitlines() == [harmless(line) for line in cluster.read_log(name)]


@pytest.mark.ray
@pytest.mark.soak
def test_submit_two_nodes_gives_the_codes_of_one_machine(cluster, source, submitted, tmp_path):
    alone = cluster.vqpipe("encode", *options(source, tmp_path / "codes"))
    assert alone.returncode == 0, alone.stderr
    assert codes(submitted[1]) == codes(tmp_path / "codes")


@pytest.mark.ray
@pytest.mark.soak
def test_submit_plan_measures_on_the_cluster_and_writes_nothing(cluster, source, tmp_path):
    asked = ("--for-gpus", "1", "8", "--sample", "64", "--json")
    words = (*options(source, tmp_path / "codes"), *asked)
    done = cluster.vqpipe("submit", "plan", "--address", cluster.dashboard, "--", *words)
    assert done.returncode == 0, done.stderr
    (said,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert (said["images"], said["good"]) == (26, 24)
    assert said["measured"]["coding"]["kind"] == "cpu", "its GPU is one in name"
    assert said["measured"]["start_up"]["end_s"] is None
    assert not (tmp_path / "codes").exists()
    (job,) = [each for each in cluster.jobs() if each["command"] == "plan"]
    assert (job["sink"] or None, job["exit_code"]) == (None, 0)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("submitted")
def test_submit_two_nodes_encodes_on_the_one_with_the_gpu(cluster):
    encoders = [
        actor["node_id"] for actor in cluster.list("actors") if "CodecActor" in actor["class_name"]
    ]
    assert set(encoders) == {node_of(cluster, has_gpu=True)}


@pytest.mark.ray
@pytest.mark.slow
def test_submit_job_tells_prometheus_what_it_does(watched):
    _, sink, heard = watched
    fingerprint = json.loads((sink / "run.json").read_text())["fingerprint"]
    ours = {"stage": "encode", "run": fingerprint[:12]}
    assert 0 < heard.total("ray_vqpipe_images_total", **ours) <= 24
    assert 0 < heard.total("ray_vqpipe_rejections_total", reason="not_an_image", **ours) <= 2
    assert heard.total("ray_vqpipe_read_samples_total", **ours) <= 26
    assert heard.kinds["ray_vqpipe_images"] == "counter"
    assert heard.kinds["ray_vqpipe_shards_left"] == "gauge"
    assert heard.kinds["ray_vqpipe_batch_seconds"] == "histogram"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("panel", "query"), dashboard.queries())
def test_submit_job_answers_every_question_of_the_dashboard(watched, panel, query):
    if "gpu_" in query:
        pytest.skip("there is no GPU to tell of")
    for name, labels in dashboard.numbers(query):
        assert labels <= watched[2].labels(name), f"{panel}: {name}"


@pytest.mark.ray
@pytest.mark.slow
def test_submit_failing_job_passes_its_exit_code_and_reason_on(cluster, source, submitted):
    failed = cluster.submit(*options(source, submitted[1], resolution=32))
    assert failed.returncode == 3, failed.stdout + failed.stderr
    assert "resolution: the sink has 64, this command asks for 32" in failed.stdout


@pytest.mark.fault(32)
@pytest.mark.ray
@pytest.mark.slow
def test_submit_wrong_token_is_config_error_that_does_not_repeat_it(cluster, source, tmp_path):
    token = tmp_path / "token"
    token.write_text(canary := secrets.token_hex(32))
    sink = tmp_path / "codes"
    refused = cluster.submit(*options(source, sink), RAY_AUTH_TOKEN_PATH=str(token))
    assert refused.returncode == 4, refused.stdout + refused.stderr
    assert "RAY_AUTH_TOKEN_PATH" in refused.stderr
    assert canary not in refused.stdout + refused.stderr
    assert not sink.exists()


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.slow
def test_submit_cluster_lost_while_the_job_runs_is_incomplete(source, tmp_path):
    with ray_head() as (lost, _, _, head):
        arguments = (
            "--address",
            lost.dashboard,
            "--reconnect-s",
            "10",
            "--",
            *options(source, tmp_path / "codes"),
        )
        job = subprocess.Popen(
            [sys.executable, "-m", "vqpipe", "submit", "encode", *map(str, arguments)],
            env=lost.env,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        read_until(job.stdout, "Running entrypoint")
        os.killpg(head.pid, signal.SIGKILL)
        _, errors = job.communicate(timeout=120)
    assert job.returncode == 2, errors
    assert "run the same command" in errors


def test_submit_unreachable_dashboard_is_config_error_with_advice(source, tmp_path):
    port = free_port()
    nowhere = Cluster(f"http://127.0.0.1:{port}", dict(os.environ))
    refused = nowhere.submit(*options(source, tmp_path / "codes"))
    assert refused.returncode == 4, refused.stdout + refused.stderr
    assert nowhere.dashboard in refused.stderr
    assert "http://head:8265" in refused.stderr
