"""Everything that can go wrong, at once and for a long time: `make soak`.

A few thousand images, bad ones among them, go from S3 to S3 through a proxy that refuses, drops,
loses and cuts short. Workers are killed at random moments, drivers too, at times two of them work
at once; then one is left to finish. The result must be that of a run which nothing happened to:
read by DuckDB, then by `vqpipe verify --deep`. Ends with an account.

python -m tests.faults.soak --seed 7
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import boto3
import s3fs
from rich.console import Console

from tests import shell
from tests.faults import corpus
from tests.faults.killer import KINDS, Killer, descendants
from tests.images import poison
from tests.storage.fault_proxy import Faults, serve
from tests.storage.servers import AWS, serve_moto
from vqpipe.commands.console import print_fields

SHARDS, IMAGES, RESOLUTION = 48, 120, 96
FAULTS = Faults(refuse=0.2, drop=0.02, lose=0.02, cut=0.02)
LIFE_S = (0, 15)
"""How long a driver lives after its first commit, before it is killed."""
PATIENCE_S = 1200
LAST_KILLS = 12
"""After which the last driver is left to finish."""
OPTIONS = (
    "--resolution",
    RESOLUTION,
    "--max-pixels",
    corpus.MAX_PIXELS,
    "--max-rejected",
    0.5,
    "--allow-damaged-shards",
)
BUCKET = "soak"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--rounds", type=int, default=8, help="drivers that are killed")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        endpoint = stack.enter_context(serve_moto(folder / "server.log"))
        proxy = stack.enter_context(serve(endpoint, seed=arguments.seed))
        os.environ |= AWS
        (folder / "site").mkdir()
        os.environ["PYTHONPATH"] = str(poison.write_site(folder / "site"))
        soak(folder, endpoint, proxy, arguments)


def soak(folder, endpoint, proxy, arguments):
    expected = corpus.write(folder / "source", SHARDS, IMAGES)
    started = time.monotonic()
    shell.encode(folder / "source", folder / "whole", *OPTIONS, timeout_s=PATIENCE_S)
    alone = time.monotonic() - started
    print(f"{len(expected):,} samples, {alone:.0f} s when nothing happens", flush=True)
    upload(folder / "source", endpoint)
    os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
    proxy.faults = FAULTS
    started = time.monotonic()
    kills = torment(random.Random(arguments.seed), arguments.rounds, commits(endpoint))
    seconds = time.monotonic() - started
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    store = s3fs.S3FileSystem(endpoint_url=endpoint, skip_instance_cache=True)
    store.get(f"{BUCKET}/sink/", str(folder / "sink"), recursive=True)
    assert all(kills[kind] for kind in (*KINDS, "driver")), f"not everything was killed: {kills}"
    assert all(proxy.account[what] for what in ("refuse", "drop", "lose", "cut")), proxy.account
    check(folder / "sink", folder / "whole", expected)
    verified = shell.run("verify", f"s3://{BUCKET}/sink", "--deep", "--share", 1)
    print(verified)
    account(kills, proxy.account, expected, alone, seconds)


def upload(source, endpoint):
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=BUCKET)
    for path in source.iterdir():
        client.upload_file(str(path), BUCKET, f"source/{path.name}")


def commits(endpoint):
    """Returns a function that counts the committed shards, without the proxy in between."""
    client = boto3.client("s3", endpoint_url=endpoint)

    def count():
        return client.list_objects_v2(Bucket=BUCKET, Prefix="sink/data/")["KeyCount"]

    return count


def torment(rng, rounds, committed):
    """Runs drivers, most of which are killed, until one ends well; returns kills by kind."""
    kills = Counter()
    for number in range(rounds):
        drivers, lifetime = [start_driver() for _ in range(1 + number % 2)], rng.uniform(*LIFE_S)
        with Killer(descendants(drivers[0].pid), every_s=6, rng=rng) as killer:
            wait_for_one(drivers, committed)
            wait(drivers, lifetime)
        kills += killer.count()
        alive = [driver for driver in drivers if driver.poll() is None]
        for driver in alive:
            driver.send_signal(rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
        kills["driver"] += len(alive)
        codes = [driver.wait(timeout=120) for driver in drivers]
        print(
            f"round {number}: drivers ended with {codes}, {committed()} shards committed",
            flush=True,
        )
        assert set(codes) <= {0, 2, -signal.SIGKILL}, "a driver failed by itself"
    last = start_driver()
    # Not for ever: the image that hangs takes its opener a minute, which then has to live so long.
    with Killer(descendants(last.pid), every_s=10, most=LAST_KILLS, rng=rng) as killer:
        assert last.wait(timeout=PATIENCE_S) == 0
    return kills + killer.count()


def start_driver():
    places = ("--source", f"s3://{BUCKET}/source", "--sink", f"s3://{BUCKET}/sink")
    arguments = ("encode", *places, "--model", shell.CHECKPOINT, *OPTIONS)
    return subprocess.Popen(
        [sys.executable, "-m", "vqpipe", *map(str, arguments)],
        env={**os.environ, "RAY_ADDRESS": ""},
    )


def wait_for_one(drivers, committed):
    before = committed()
    wait(drivers, PATIENCE_S, lambda: committed() > before)


def wait(drivers, seconds, done=lambda: False):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(driver.poll() is None for driver in drivers):
        if done():
            return
        time.sleep(0.5)


def check(sink, whole, expected):
    """Checks that every sample is once in data or rejected, with the codes of the quiet run."""
    codes = shell.codes_by_key(sink)
    rejected = [(row["key"], row["reason"]) for row in shell.rows(sink, "rejected")]
    assert codes == shell.codes_by_key(whole), "codes differ from those of the quiet run"
    assert sorted(codes) == sorted(key for key, reason in expected.items() if reason is None)
    assert sorted(rejected) == sorted((k, reason) for k, reason in expected.items() if reason)
    assert (sink / "_SUCCESS").exists()
    assert not list((sink / "staging").rglob("*.parquet"))


def account(kills, requests, expected, alone, seconds):
    refused = sum(count for what, count in requests.items() if what != "passed")
    reasons = Counter(reason for reason in expected.values() if reason)
    fields = [
        ("samples", f"{len(expected):,} in {SHARDS} tars"),
        ("killed", ", ".join(f"{count} {kind}" for kind, count in sorted(kills.items()))),
        ("requests", f"{requests.total():,}, of which {refused:,} went wrong"),
        *((f"  {what}", f"{count:,}") for what, count in sorted(requests.items())),
        ("rejections", f"{reasons.total():,}, each where it belongs"),
        *((f"  {reason}", f"{count:,}") for reason, count in sorted(reasons.items())),
        ("seconds", f"{seconds:,.0f} against {alone:,.0f} undisturbed"),
        ("lost", f"{seconds - alone:,.0f} s, and no sample"),
    ]
    print_fields(Console(highlight=False), "soak", fields)


if __name__ == "__main__":
    main()
