"""Runs commands as a user does, and reads what they leave with tools that are not ours."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import duckdb

CHECKPOINT = Path(__file__).parent.parent / "infra" / "demo" / "checkpoint"


def environment_of_a_person():
    """Returns the variables of a shell, without what commands in this process tell Ray by them."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def start(*arguments, cwd=None, environment=os.environ):
    """Starts `vqpipe`, in this folder or another; the caller waits for it or kills it."""
    return subprocess.Popen(
        [sys.executable, "-m", "vqpipe", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "RAY_ADDRESS": ""},
        cwd=cwd,
    )


def run(*arguments, expect=0, timeout_s=240):
    """Runs `vqpipe` to its end; returns what it printed on both streams."""
    return finish(start(*arguments), expect, timeout_s)


def finish(process, expect=0, timeout_s=240):
    """Waits for a command; returns what it printed on both streams, none of it for programmers."""
    try:
        output, errors = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    printed = output + errors
    assert process.returncode == expect, printed
    assert not re.findall(r"(?m)^.*(?:Warning: |Traceback ).*$", printed), printed
    return printed


def start_encode(source, sink, *options, model=CHECKPOINT, resolution=64, cwd=None):
    places = ("--source", source, "--sink", sink, "--model", model)
    return start("encode", *places, "--resolution", resolution, *options, cwd=cwd)


def encode(source, sink, *options, model=CHECKPOINT, resolution=64, cwd=None, **how):
    process = start_encode(source, sink, *options, model=model, resolution=resolution, cwd=cwd)
    return finish(process, **how)


def await_commit(process, sink, pattern="data/**/*.parquet", timeout_s=240):
    """Waits until a command has committed a shard; returns the data objects that are there."""
    deadline = time.monotonic() + timeout_s
    while not (found := sorted(Path(sink).glob(pattern))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing is committed"
        time.sleep(0.05)
    return found


def rows(sink, folder="data", columns="*"):
    """Returns the rows of `data/` or `rejected/` as dictionaries, by DuckDB."""
    files = sorted(Path(sink, folder).rglob("*.parquet"))
    if not files:
        return []
    query = f"SELECT {columns} FROM read_parquet(?) ORDER BY key, row"
    found = duckdb.sql(query, params=[[str(file) for file in files]])
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def codes_by_key(sink):
    found = rows(sink, columns="key, row, codes")
    assert len({row["key"] for row in found}) == len(found)
    return {row["key"]: list(row["codes"]) for row in found}
