"""Commands on one sink, in any order of their storage calls, over a source that changes meanwhile.

A seed is a schedule: which commands there are, which of them makes the next storage call, which
dies at which call, when a shard's files change or become what they were before, how many views a
sample has, and what kind of store it is. The store is a dictionary, the commands are the real ones
but for Ray. Whenever `_SUCCESS` is there and speaks of the plan, all that it promises is looked up,
by pyarrow and, at the end, by DuckDB.

    python -m tests.faults.schedules --first 0 --count 1000
"""

import argparse
import atexit
import contextlib
import functools
import hashlib
import io
import json
import random
import sys
import threading
import traceback
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.sink.runs import KEPT, facts_of_codes, facts_of_kept, make_run, tar_shard
from tests.storage.intercept import Crash
from vqpipe import schema, storage
from vqpipe.code_layout import CodeLayout
from vqpipe.errors import SourceChangedError, VqpipeError
from vqpipe.inspection import verify as verification
from vqpipe.rejections import UNKNOWN, Reason, Rejection
from vqpipe.schema import File, Sample
from vqpipe.sink import layout, publication, success, todo, totals
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.growth import Growth
from vqpipe.sink.objects import read_asides
from vqpipe.sink.plan import Plan
from vqpipe.sink.plan_file import load_plan
from vqpipe.sink.run import is_complete, load_run, open_sink
from vqpipe.sink.slot import Attempt
from vqpipe.sink.start import start_run
from vqpipe.sink.writer import Writer
from vqpipe.stages.encode import CodesProduct
from vqpipe.stages.read import read_rows

SINK = "/sink"
CODES = CodeLayout.grid(2, 3, 16)
FACTS = {**facts_of_codes(CODES), **facts_of_kept(KEPT)}
KINDS = ("resume", "extend", "replace", "both", "retry")
GROWTH = {
    "resume": Growth(),
    "extend": Growth(extend=True),
    "replace": Growth(replace_changed=True),
    "both": Growth(extend=True, replace_changed=True),
    "retry": Growth(extend=True, replace_changed=True),
}
HARMLESS = {0, 2, 3}
"""Exit codes that such commands may end with; the store answers, and nothing is damaged."""
MOST_RERUNS = 6


@dataclass(frozen=True)
class Habits:
    """What kind of store it is."""

    names_by_content: bool = False
    """An object has the version that an equal one had before, as an ETag has."""
    is_careless: bool = False
    """Conditions are ignored; one command at a time is all that is promised there."""
    lists_late: float = 0.0
    """Share of listings that say what the one before said."""

    @classmethod
    def draw(cls, rng):
        return cls(
            names_by_content=rng.random() < 0.5,
            is_careless=rng.random() < 0.15,
            lists_late=0.3 if rng.random() < 0.15 else 0.0,
        )


class Store:
    """`vqpipe.storage.verbs` in memory; each verb is one step, taken at once."""

    def __init__(self, habits, rng):
        self.objects, self.changes = {}, 0
        self._habits, self._rng = habits, rng
        self._versions, self._answers = {}, {}
        self.writers = {}

    def _put(self, uri, data):
        self.changes += 1
        self.objects[uri] = data
        self.writers[uri] = threading.current_thread()
        by_content = hashlib.md5(data).hexdigest()
        self._versions[uri] = by_content if self._habits.names_by_content else str(self.changes)

    def _file(self, uri):
        return File(uri, len(self.objects[uri]), self._versions[uri])

    def list_files(self, uri, *, recursive=True):
        found = [self._file(name) for name in sorted(self.objects) if name.startswith(uri + "/")]
        if not recursive:
            found = [file for file in found if "/" not in file.uri[len(uri) + 1 :]]
        before = self._answers.get((uri, recursive), found)
        self._answers[uri, recursive] = found
        return before if self._rng.random() < self._habits.lists_late else found

    def stat(self, uri):
        if uri not in self.objects:
            raise FileNotFoundError(uri)
        return self._file(uri)

    def read(self, uri):
        self.stat(uri)
        return self.objects[uri]

    def read_tail(self, file, size):
        data = self.read(file.uri)
        if len(data) < file.size:
            raise SourceChangedError(file.uri)
        return data[max(0, file.size - size) : file.size]

    def open_file(self, file):
        if file.uri not in self.objects or self._file(file.uri) != file:
            raise SourceChangedError(file.uri)
        return io.BytesIO(self.objects[file.uri])

    def publish(self, uri, data):
        is_new = uri not in self.objects or self._habits.is_careless
        if is_new:
            self._put(uri, data)
        return is_new

    def replace(self, uri, data):
        self._put(uri, data)

    def replace_if(self, file, data):
        is_same = file.uri in self.objects and self._file(file.uri) == file
        if is_same:
            self._put(file.uri, data)
        return is_same

    def list_in_time(self):
        """Has every listing be as it should from now on."""
        self._habits = replace(self._habits, lists_late=0.0)

    def delete(self, uri):
        if self.objects.pop(uri, None) is not None:
            self.changes += 1


VERBS = [name for name in vars(Store) if hasattr(storage, name) and not name.startswith("_")]


class AtOnce:
    """A pool without threads: what it is given is done in order, each call a step of its own."""

    def __init__(self, _):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, item):
        future = Future()
        future.set_result(function(item))
        return future


class Actor(threading.Thread):
    """A command that goes on by one storage call whenever it is told to, until one is its last."""

    def __init__(self, name, work, calls):
        super().__init__(name=name, daemon=True)
        self.code, self.trace = None, None
        self._work, self._calls = work, calls
        self._go, self._waits = threading.Semaphore(0), threading.Semaphore(0)

    def step(self):
        """Has it make its next call; returns when it is about to make another, or is at its end."""
        self._go.release() if self.is_alive() else self.start()
        self._waits.acquire()

    def run(self):
        try:
            self._work()
            self.code = 0
        except Crash:
            self.code = "killed"
        except VqpipeError as error:
            self.code = error.exit_code
            self.trace = f"{type(error).__name__}: {error.message}"
        except BaseException:  # noqa: BLE001 (a violation, reported with its seed)
            self.code, self.trace = "traceback", traceback.format_exc()
        self._waits.release()

    def pause(self):
        """Waits for the turn that the next call is made in; that may never come."""
        self._waits.release()
        self._go.acquire()
        self._calls -= 1
        if not self._calls:
            raise Crash


@contextlib.contextmanager
def standing_in(store):
    """Has storage be a store, of which each call of an actor waits for its turn."""

    def call(real, *arguments, **options):
        actor = threading.current_thread()
        if isinstance(actor, Actor):
            actor.pause()
        return real(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        for verb in VERBS:
            patch.setattr(storage, verb, functools.partial(call, getattr(store, verb)))
        patch.setattr(storage, "sweep", lambda _: None)
        for name, module in sys.modules.items():
            if name.startswith("vqpipe.") and hasattr(module, "ThreadPoolExecutor"):
                patch.setattr(module, "ThreadPoolExecutor", AtOnce)
        yield


VIEWS = (1, 3)
"""Of a sample, in every other schedule."""


def codes_of(name, version, row, view):
    """Returns the codes of a view of one sample of one version of a shard, the only ones."""
    digest = hashlib.sha256(f"{name} {version} {row} {view}".encode()).digest()
    return [byte % CODES.codebook_size for byte in digest[: CODES.length]]


@dataclass
class Source:
    """Shards that come, change, and become again what they were."""

    rng: random.Random
    views: int
    """Of a sample."""
    history: dict[str, list[str]] = field(default_factory=dict)
    totals: dict[tuple[str, str], int] = field(default_factory=dict)

    def __post_init__(self):
        for name in "abc"[: self.rng.randrange(1, 4)]:
            self._change(name)

    def _change(self, name):
        version = str(len(self.totals))
        self.totals[name, version] = self.rng.randrange(9)
        self.history.setdefault(name, []).append(version)

    def change(self):
        """Has something happen; returns what."""
        name = self.rng.choice(sorted(self.history))
        kind, versions = self.rng.random(), self.history[name]
        if kind < 0.3:
            name = f"n{len(self.history)}"
            self._change(name)
        elif kind < 0.65 and len(versions) > 1:
            versions.append(versions[-2])
        else:
            self._change(name)
        return f"{name} is {self.history[name][-1]}"

    def listed(self):
        return Plan.of(tar_shard(n, version=versions[-1]) for n, versions in self.history.items())


def rows_of(writer, index, staged, source, rng):
    """Yields what the codec brings to the commit of a shard, in pieces.

    On a bad day a shard cannot be read to its end, and its last row says so.
    """
    name, version = writer.sink.plan.name(index), writer.sink.plan.source(index)["version"]
    if source.history[name][-1] != version and not staged.complete:
        raise SourceChangedError(f"{name} is another version by now")
    total = source.totals[name, version]
    end = rng.randrange(total) if total and rng.random() < 0.1 else total
    samples = [_sample(name, row, _is_bad(writer, index, row, rng)) for row in range(end)]
    if end < total:
        samples.append(Sample(end, None, rejection=Rejection(Reason.SHARD_DAMAGED, "cut", UNKNOWN)))
    kept = pa.schema([])
    for read in read_rows(samples, index, staged, kept, rng.randrange(1, 9)):
        rows = [
            _encode(row, name, version, view, source.views)
            for row in read.to_pylist()
            for view in range(source.views)
        ]
        yield pa.Table.from_pylist(rows, schema=writer.product.rows)


def _is_bad(writer, index, row, rng):
    return row % 3 == 1 and not (writer.slot(index).attempt and rng.random() < 0.5)


def _sample(name, row, is_bad):
    rejection = Rejection(Reason.CORRUPT, "bad") if is_bad else None
    return Sample(row, f"{name}/{row}", None if is_bad else b"image", rejection)


def _encode(row, name, version, view, views):
    """Returns a view's row; of every other bad sample, only the last view is rejected."""
    row = row | {"view": view}
    is_good = row["reason"] == "corrupt" and row["row"] % 2 == 0 and view < views - 1
    if row.pop("image") is None and not is_good:
        return row
    size = {"width": 1, "height": 1, "crop": [0, 0, 1, 1], "flip": False}
    codes = {"codes": codes_of(name, version, row["row"], view)}
    return row | size | codes | {"reason": None, "message": None}


def command(kind, source, seed):
    """Does what a command does, in a plain loop."""
    rng, listed = random.Random(seed), source.listed()
    views = {"views": source.views} if source.views > 1 else {}
    asked = make_run(plan_sha256=listed.sha256(), facts=FACTS | views)
    sink = start_run(SINK, asked, listed, GROWTH[kind])
    writer = Writer(sink, CodesProduct(KEPT, schema.codes_field(CODES), CODES, source.views))
    left = todo.unfinished(sink)
    again = todo.retriable(sink, left) if kind == "retry" else {}
    if again:
        revisions = {index: staged.revision + 1 for index, staged in again.items()}
        attempt = Attempt(f"{rng.getrandbits(64):x}", revisions, 5, "13")
        writer = replace(writer, attempt=attempt)
    if left or again:
        storage.delete(layout.success_uri(SINK))
    blocks = [
        rows
        for index, staged in (left | again).items()
        for rows in rows_of(writer, index, staged, source, rng)
    ]
    rng.shuffle(blocks)
    adds_up = random.Random(seed + 1)
    for rows in blocks:
        commit_rows(rows, writer)
        _add_up_some(sink, adds_up)
    _add_up_some(sink, adds_up)
    found = totals.read_totals(sink)
    success.mark_success(sink, found, writer.attempt.tag if writer.attempt else None)


def _add_up_some(sink, rng):
    """Adds up some shards at times, as a worker does beside a run; what it meets ends nothing."""
    places = range(len(sink.plan))
    if places and rng.random() < 0.3:
        with contextlib.suppress(VqpipeError):
            totals.add_part(sink, rng.sample(places, rng.randint(1, len(places))))


@functools.lru_cache(maxsize=4096)
def parse(data):
    """Returns rows of an object, as pyarrow reads them."""
    return pq.read_table(pa.BufferReader(data))


class World:
    """One schedule: source, store, commands, and what was found wrong."""

    def __init__(self, seed, habits=None):
        self.rng = random.Random(seed)
        self.habits = habits or Habits.draw(self.rng)
        self.source = Source(self.rng, VIEWS[seed % 2])
        self.store = Store(self.habits, random.Random(seed))
        self.problems, self.log, self.working = [], [str(self.habits)], []
        self._changes, self._overlaps = self.rng.choice((0.01, 0.05)), self.rng.choice((0.03, 0.2))
        self._stays = self.rng.choice((0.3, 0.8))
        self._checked = None

    def run(self):
        """Runs the schedule; returns what was found wrong."""
        publication._load_plan.cache_clear()  # by version, and each world numbers them anew
        with standing_in(self.store):
            waiting = [self._draw(number) for number in range(self.rng.randrange(2, 5))]
            self._interleave(waiting)
            self._complete()
        return self.problems

    def _draw(self, number):
        kind, seed = self.rng.choice(KINDS), self.rng.getrandbits(32)
        calls = self.rng.randrange(1, 60) if self.rng.random() < 0.3 else 0
        work = functools.partial(command, kind, self.source, seed)
        return Actor(f"{number} {kind}" + (f", killed at {calls}" if calls else ""), work, calls)

    def _interleave(self, waiting):
        last, working = None, self.working
        while waiting or working:
            if waiting and (not working or self._overlap()):
                working.append(waiting.pop(0))
            goes_on = last in working and self.rng.random() < self._stays
            actor = last if goes_on else self.rng.choice(working)
            actor.step()
            if actor.code is not None:
                working.remove(actor)
                self._note_end(actor)
            if self.rng.random() < self._changes:
                self.log.append(self.source.change())
            self._check()
            last = actor

    def _overlap(self):
        return not self.habits.is_careless and self.rng.random() < self._overlaps

    def _note_end(self, actor):
        self.log.append(f"{actor.name}: {actor.code} {actor.trace or ''}")
        if actor.code != "killed" and actor.code not in HARMLESS:
            self.problems.append(f"ended with {actor.code}: {actor.trace}")

    def _complete(self):
        """Has the same command run until it ends with 0; it must, and soon."""
        for number in range(MOST_RERUNS):
            actor = Actor(
                f"rerun {number}", functools.partial(command, "both", self.source, number), 0
            )
            while actor.code is None:
                actor.step()
            self._note_end(actor)
            if actor.code == 0:
                self._check_end()
                return
        self.problems.append(f"stuck: {actor.trace}")

    def _check(self):
        if self._checked != self.store.changes:
            self._checked = self.store.changes
            self.problems += self._broken_promises()

    def _broken_promises(self):
        """Yields what `_SUCCESS` says and is not so, if it is there and speaks of the plan."""
        objects = self.store.objects
        if f"{SINK}/_SUCCESS" not in objects:
            return
        said, plan = json.loads(objects[f"{SINK}/_SUCCESS"]), load_plan(SINK)
        if said["plan_sha256"] != plan.sha256():
            return
        counts = Counter()
        for row in plan.table.select(["name", "version"]).to_pylist():
            yield from self._broken_shard(**row, counts=counts)
        if not (self.habits.lists_late or self._is_revising()):
            found = {name: counts[name] for name in ("encoded", "rejected")}
            if any(said[name] != count for name, count in found.items()):
                yield f"_SUCCESS says {said}, and there are {found}"

    def _is_revising(self):
        """Tells whether what `_SUCCESS` counts may change now: it is withdrawn before and after.

        Between the two, another command may write it; that command looks again, and withdraws it.
        """
        writer = self.store.writers[f"{SINK}/_SUCCESS"]
        is_looking = isinstance(writer, Actor) and writer.code is None
        return is_looking or any("retry" in actor.name for actor in self.working)

    def _broken_shard(self, name, version, counts):
        data = self.store.objects.get(f"{SINK}/data/{name}.parquet")
        if data is None:
            yield f"_SUCCESS, and {name} has no object"
            return
        bad = self.store.objects.get(f"{SINK}/rejected/{name}.parquet")
        rows = parse(data).select(["row", "view", "codes"]).to_pylist()
        good = list(dict.fromkeys(row["row"] for row in rows))
        every = [(row, view) for row in good for view in range(self.source.views)]
        if [(row["row"], row["view"]) for row in rows] != every:
            yield f"_SUCCESS, and views of {name} are missing, or not in order"
        reasons = parse(bad).select(["row", "reason"]).to_pydict().values() if bad else ((), ())
        rejected = dict(zip(*reasons, strict=True))
        if self._is_revising():  # `rejected/` repeats what is in `data/`, and comes after it
            rejected |= self._rejections(name)
        found = sorted({*good, *rejected} if self._is_revising() else [*good, *rejected])
        total = self.source.totals[name, version]
        if "shard_damaged" in rejected.values() and len(found) <= total + 1:
            total = len(found)  # one of them may stand for what nobody knows to be none
        if found[:total] != list(range(total)) or (len(found) > total and not self._is_revising()):
            yield f"_SUCCESS, and of {total} rows of {name} there are {[*good]} and {[*rejected]}"
        if any(r["codes"] != codes_of(name, version, r["row"], r["view"]) for r in rows):
            yield f"_SUCCESS, and codes of {name} are not those of version {version}"
        counts.update(encoded=len(good), rejected=len(rejected))

    def _rejections(self, name):
        """Returns row and reason of each rejection that a shard's object has in itself."""
        _, found = read_asides(self.store.stat(f"{SINK}/data/{name}.parquet"))
        return dict(zip(found["row"].to_pylist(), found["reason"].to_pylist(), strict=True))

    def _check_end(self):
        """Checks a sink whose last command has ended with 0, by DuckDB and by `vqpipe verify`."""
        if not is_complete(SINK):
            self.problems.append("the last command ended with 0, and the sink is not complete")
            return
        self.problems += self._broken_promises()
        names = {n: versions[-1] for n, versions in self.source.history.items()}
        tables = [parse(self.store.objects[f"{SINK}/data/{name}.parquet"]) for name in names]
        data = pa.concat_tables([table.select(["key", "view", "codes"]) for table in tables])
        twice = "SELECT key FROM data GROUP BY key, view HAVING count(*) > 1"
        with _database().cursor() as connection:
            connection.register("data", data)
            self.problems += [
                f"{key} is there twice" for (key,) in connection.sql(twice).fetchall()
            ]
            found = connection.sql("SELECT key, view, codes FROM data").fetchall()
        self.problems += [
            f"codes of {key} are not those of the last version"
            for key, view, codes in found
            if list(codes) != codes_of(*_place(key, names), view)
        ]
        self.store.list_in_time()
        breaches = verification.verify(open_sink(SINK, load_run(SINK)), is_complete=True)
        late = {"foreign"} if self.habits.lists_late else set()
        self.problems += [
            f"{b.check}: {b.where}: {b.message}" for b in breaches if b.check not in late
        ]


@functools.cache
def _database():
    connection = duckdb.connect()
    atexit.register(connection.close)  # its threads must not outlive the interpreter
    return connection


def _place(key, versions):
    name, row = key.split("/")
    return name, versions[name], int(row)


def find_problems(seeds, habits=None):
    """Yields what goes wrong, with the schedule in which it does."""
    for seed in seeds:
        world = World(seed, habits)
        problems = list(dict.fromkeys(world.run()))
        if problems:
            yield f"seed {seed}: " + "\n  ".join([*problems, "schedule:", *world.log])


def main():
    parser = argparse.ArgumentParser(description="Runs schedules; ends with 1 if one goes wrong.")
    parser.add_argument("--first", type=int, default=0, help="seed to begin with")
    parser.add_argument("--count", type=int, default=1000, help="how many")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.count)
    found = 0
    for problem in find_problems(seeds):
        found += 1
        print(problem, flush=True)
    print(f"{options.count:,} schedules from seed {options.first}: {found:,} went wrong")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
