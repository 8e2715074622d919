"""What a command takes on a source of 10^5 or 10^6 shards, as a whole: begun, and taken up at 99 %.

    python -m tests.benchmarks.resume [--shards 100000 1000000] [--done 0.99]

`vqpipe encode` itself, with a small checkpoint, against a store over HTTP: first from nothing until
it commits, then stopped; then, once most of its shards have an object and their sums, to the end.
Real are the command, its Ray, the plan, and all that is written (moto). **Made up** are the tars,
which all have the same two photos, and the objects of the shards that are done, each the first
object that the command wrote, under another name. Store and command share the machine's cores.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks import machine, many, scale
from tests.makers import jpeg, tar_of
from tests.storage.fault_proxy import HOP_BY_HOP, FaultProxy
from tests.storage.ports import free_port
from tests.storage.servers import AWS, serve_moto
from vqpipe import storage
from vqpipe.schema import File
from vqpipe.sink import layout
from vqpipe.sink.footer import HISTOGRAM, ORIGIN, Footer, pack_histogram, parse_footer
from vqpipe.sink.objects import pack_object
from vqpipe.sink.run import load_run, open_sink

COMMAND = [sys.executable, "-m", "vqpipe", "encode", "--source", many.SOURCE, "--sink", many.SINK]
HOW = ["--model", "infra/demo/checkpoint", "--resolution", "32"]
FEW = 3
"""Objects that the first command commits before it is stopped."""
TAR = tar_of({f"{index}.jpg": jpeg(48, 48, index) for index in range(2)})
TAG = many.version(0)
"""ETag of each of them."""
_OBJECT = re.compile(r"run/data/train/(\d+)\.parquet")
_TAR = re.compile(r"photos/train/(\d+)\.tar")


class Handler(many.Handler):
    """A store of tars and done shards that are made up; what it does not know, moto does."""

    store = None

    def do_GET(self):  # noqa: N802 (so it is called)
        url = urlsplit(self.path)
        asked = parse_qs(url.query)
        key = unquote(url.path).removeprefix(f"/{many.BUCKET}/")
        prefix = asked.get("prefix", [""])[0] if "list-type" in asked else None
        if prefix == "photos/":
            tar = (TAG, len(TAR))
            self.list_some(asked, self.store.shards, lambda i: (f"photos/{many.name(i)}.tar", *tar))
        elif prefix == "run/data/" and self.store.done:
            self._list_objects(asked)
        elif _TAR.fullmatch(key):
            self.store.see("tar")
            self.give(TAR, TAG)
        elif (found := _OBJECT.fullmatch(key)) and int(found[1]) < self.store.done:
            self.give(self.store.object(int(found[1])), many.version(-int(found[1])))
        else:
            self._pass_on()

    do_HEAD = do_GET  # noqa: N815 (so it is called)

    def _list_objects(self, asked):
        token = asked.get("continuation-token", ["0"])[0]
        if not token.isdigit():
            self._pass_on(self.path.replace(f"continuation-token={token}", ""))  # of moto: one page
            return
        size = len(self.store.object(0))
        self.list_some(
            asked,
            self.store.done,
            lambda i: (f"run/data/{many.name(i)}.parquet", many.version(-i), size),
            "stored",
        )

    def _pass_on(self, path=None):
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length) if length else None
        path = path or self.path
        status, headers, found = self.store.moto.forward(self.command, path, self.headers, body)
        if self.command == "PUT" and status == 200:
            self.store.see("success" if "_SUCCESS" in path else path.split("/")[3])
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        size = dict(headers).get("Content-Length") if self.command == "HEAD" else len(found)
        self.send_header("Content-Length", str(size or 0))
        self.end_headers()
        self.wfile.write(found)

    do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815


class Store:
    """What there is, and when it was first asked for or written, by `time.monotonic`."""

    def __init__(self, shards, upstream):
        self.shards, self.done = shards, 0
        self.moto = FaultProxy(upstream, seed=0)
        self.first, self.counts = {}, {}
        self._lock = threading.Lock()
        self._said = self._table = None

    def see(self, what):
        """Notes a request of some kind."""
        with self._lock:
            self.first.setdefault(what, time.monotonic())
            self.counts[what] = self.counts.get(what, 0) + 1

    def forget(self):
        """Begins to note anew."""
        self.first, self.counts = {}, {}

    def copy(self, data, done):
        """Says that so many shards have an object like this one."""
        self._table = pq.read_table(pa.BufferReader(data))
        self._said = parse_footer(pq.read_metadata(pa.BufferReader(data)).metadata)
        self.done = done
        sizes = {len(self.object(index)) for index in (0, 7, done // 2, done - 1)}
        assert len(sizes) == 1, sizes

    def footer(self, index):
        """Returns what the object of a shard says of itself."""
        source = {"uri": _tar(index).uri, "size": len(TAR), "version": TAG}
        origin = self._said.origin | {"shard": many.name(index), "source": source}
        return Footer(origin, self._said.histogram)

    @lru_cache(maxsize=64)  # noqa: B019 (there is one store)
    def object(self, index):
        """Returns the object of a shard that is done."""
        footer = self.footer(index)
        said = {ORIGIN: json.dumps(footer.origin), HISTOGRAM: pack_histogram(footer.histogram)}
        return pack_object(self._table.replace_schema_metadata(None), said)


def _tar(index):
    return File(f"{many.SOURCE}/{many.name(index)}.tar", len(TAR), TAG)


@contextmanager
def serve(store):
    """Serves a store for the length of a block."""
    port = free_port()
    handler = type("Bound", (Handler,), {"store": store})
    with many.serve_by(handler, port):
        yield f"http://127.0.0.1:{port}"


def run(store, log, stop_after=None):
    """Runs the command; returns when what happened, in seconds from its start, and its memory."""
    store.forget()
    begun, peak, at = time.monotonic(), 0, 0.0
    with Path(log).open("w") as output:
        process = subprocess.Popen([*COMMAND, *HOW], stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            if (now := scale.peak_bytes(process.pid)) > peak:
                peak, at = now, time.monotonic() - begun
            if stop_after and store.counts.get("data", 0) >= stop_after:
                process.send_signal(signal.SIGTERM)
                stop_after = None
            time.sleep(0.2)
    seen = {what: at - begun for what, at in store.first.items()}
    return seen | {
        "exit": time.monotonic() - begun,
        "peak": peak,
        "at": at,
        "rc": process.returncode,
    }


def pretend(store, share):
    """Turns a sink that was begun into one of which a share is done, with the sums of that."""
    sink = open_sink(many.SINK, load_run(many.SINK))
    objects = list(layout.list_committed(many.SINK).values())
    data = storage.read(objects[0].uri)
    bench = scale.Bench(int(store.shards * share), "/nowhere")
    bench.sink = sink
    for area in ("data", "totals"):
        for file in storage.list_files(f"{many.SINK}/{area}"):
            storage.delete(file.uri)
    store.copy(data, bench.shards)
    size, version = len(store.object(0)), many.version

    def listed(index):
        uri = layout.data_uri(many.SINK, many.name(index))
        return File(uri, size, version(-index))

    def footer(file):
        return store.footer(int(_OBJECT.search(file.uri)[1]))

    tars = {"tar": _tar, "size": lambda _: len(TAR), "version": lambda _: TAG}
    with mock.patch.multiple(many, data=listed, **tars):
        bench.publish_parts(footer)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shards", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--done", type=float, default=0.99)
    options = parser.parse_args()
    print(machine.in_words())
    for shards in options.shards:
        with tempfile.TemporaryDirectory() as folder:
            measure(shards, options.done, Path(folder))


def measure(shards, share, folder):
    """Prints what both commands take."""
    with serve_moto(folder / "moto.log") as upstream:
        store = Store(shards, upstream)
        with serve(store) as endpoint:
            os.environ.update(AWS | {"AWS_ENDPOINT_URL": endpoint})
            store.moto.forward("PUT", f"/{many.BUCKET}", {}, None)
            say(f"{shards:,} shards, from nothing", run(store, folder / "first.log", FEW), 2)
            pretend(store, share)
            say(f"{shards:,} shards, {share:.1%} done", run(store, folder / "second.log"), 0)
            print((folder / "second.log").read_text())


def say(what, seen, code):
    """Prints a line, and stops where the command ended otherwise."""
    words = {"tar": "first tar asked for", "data": "first shard committed", "success": "_SUCCESS"}
    said = [f"{word} after {seen[key]:.1f} s" for key, word in words.items() if key in seen]
    said.append(f"end after {seen['exit']:.1f} s")
    memory = f"driver {seen['peak'] / 1e6:,.0f} MB, reached after {seen['at']:.0f} s"
    print(f"{what}: {', '.join(said)}; {memory}", flush=True)
    assert seen["rc"] == code, seen


if __name__ == "__main__":
    main()
