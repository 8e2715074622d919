"""A real Prometheus that watches a run, by the config that Ray writes for one.

It is asked what the dashboard asks. Debian packages it.
"""

import contextlib
import json
import math
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from tests.cluster import dashboard
from tests.cluster.test_submit import options, ray_head, stop
from tests.makers import jpeg, tar_of
from tests.storage.ports import free_port

PROMETHEUS = shutil.which("prometheus")
READY_S = 120
SHARDS, IMAGES = 24, 40

pytestmark = [
    pytest.mark.ray,
    pytest.mark.soak,
    pytest.mark.skipif(PROMETHEUS is None, reason="no prometheus (Debian: apt-get install)"),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Asks Prometheus about the time of a run, once it is over."""
    root = tmp_path_factory.mktemp("watched")
    source = root / "source"
    source.mkdir()
    for shard in range(SHARDS):
        members = {f"{shard}-{i}.jpg": jpeg(300, 300, seed=i) for i in range(IMAGES)}
        members[f"{shard}-bad.jpg"] = b"no image"
        (source / f"{shard:03}.tar").write_bytes(tar_of(members))
    with ray_head() as (cluster, folder, _, _), prometheus(folder, root / "data") as ask:
        begun = time.time()
        done = cluster.submit(*options(source, root / "codes", resolution=256))
        assert done.returncode == 0, done.stdout + done.stderr
        ended = time.time()

        def about_the_run(query):
            return ask("query_range", query=query, start=begun, end=ended + 30, step=2)

        yield about_the_run


@contextlib.contextmanager
def prometheus(folder, data):
    """Yields what asks a Prometheus, which scrapes all nodes of a cluster every second."""
    port = free_port()
    config = folder / "session_latest/metrics/prometheus/prometheus.yml"
    quick = Path(f"{data}.yml")
    quick.write_text(config.read_text().replace("10s", "1s"))
    command = [
        *(PROMETHEUS, f"--config.file={quick}", f"--storage.tsdb.path={data}"),
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with Path(f"{data}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        await_ready(f"http://127.0.0.1:{port}/-/ready", process)

        def ask(verb, **words):
            asked = f"http://127.0.0.1:{port}/api/v1/{verb}?{urllib.parse.urlencode(words)}"
            with urllib.request.urlopen(asked, timeout=30) as answer:
                return json.load(answer)["data"]["result"]

        yield ask
    finally:
        stop(process)


def await_ready(url, process):
    deadline = time.monotonic() + READY_S
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        assert process.poll() is None, "Prometheus has ended"
        assert time.monotonic() < deadline, "Prometheus does not answer"


@pytest.mark.parametrize(("panel", "query"), dashboard.queries())
def test_prometheus_answers_what_the_dashboard_asks(answers, panel, query):
    try:
        found = answers(query)
    except urllib.error.HTTPError as error:
        pytest.fail(f"{panel}: {error.read().decode()}")
    values = [float(value) for each in found for _, value in each["values"]]
    if "gpu_" in query:
        assert not values, "there is no GPU to tell of"
    else:
        assert any(map(math.isfinite, values)), panel


def test_prometheus_counts_the_images_of_the_run(answers):
    (series,) = answers("sum(ray_vqpipe_images_total)")
    counts = [float(value) for _, value in series["values"]]
    assert counts == sorted(counts)
    assert 0 < counts[-1] <= SHARDS * IMAGES
