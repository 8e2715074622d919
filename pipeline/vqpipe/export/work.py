"""An export from its beginning to its end: shard by shard, in processes, each done once.

What is done is known by marks in the place that is written to, so that a command that was killed is
run again and goes on. Nothing depends on the order in which shards are done, nor on who does them.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from vqpipe import storage
from vqpipe.errors import (
    AccountingError,
    ConfigError,
    DamagedError,
    IncompleteError,
    MachineError,
    MismatchError,
    StorageError,
)
from vqpipe.export import place
from vqpipe.export.format import Format, Made
from vqpipe.export.subject import Subject
from vqpipe.sink.parts import open_part
from vqpipe.sink.samples import whole_samples

_DIGEST = 64
OnDone = Callable[[int, int], None]
"""Told how many shards and rows are done, those of earlier commands among them."""


@dataclass(frozen=True)
class Export:
    """What is exported, how, and where to; can be sent to any process."""

    subject: Subject
    name: str
    """Of the format."""
    format: Format
    """As it has settled on the subject."""
    out: str
    """URI, as normalised by `storage`."""

    def identity(self) -> dict[str, Any]:
        """Returns all that what is written depends on."""
        snapshot = self.subject.snapshot
        return {
            "format": self.name,
            "options": asdict(self.format),
            "fingerprint": snapshot.run.fingerprint,
            "snapshot": snapshot.digest,
            "vqpipe": version("vqpipe"),
        }

    def do(self, index: int) -> Made:
        """Writes all that is made of one shard, and marks it as done.

        Raises:
            AccountingError: If the format has not taken all of its rows.
            VqpipeError: If the shard cannot be read, or nothing be written.
        """
        subject, part = self.subject, self.subject.shard(index)
        with open_part(subject.snapshot, index, self.format.columns(subject)) as groups:
            samples = whole_samples(groups, subject.views)
            made = self.format.write_shard(subject, index, samples, self.out)
        if made.rows != part.rows:
            raise AccountingError(
                f"{part.name}: {made.rows:,} of its {part.rows:,} rows were written as {self.name}"
            )
        place.mark(self.out, index, made)
        return made


def begin(export: Export) -> None:
    """Holds what is exported against what is in its place, and writes it there if nothing is.

    Raises:
        ConfigError: If something else is in its place.
        MismatchError: If it is another export; names what differs.
    """
    sink, out = export.subject.snapshot.uri, export.out
    if out == sink:
        raise ConfigError(f"{out} is the sink itself, which an export would spoil; give another")
    if f"{out}/".startswith(f"{sink}/"):
        raise ConfigError(f"{out} is inside the sink {sink}, which it would spoil; give another")
    if _find(place.identity_uri(out)) is None and _is_foreign(out):
        raise ConfigError(f"{out} is not empty, and no export is in it; give another place")
    document = json.dumps(export.identity(), indent=2).encode() + b"\n"
    storage.publish(place.identity_uri(out), document)
    _check_same(export, _find(place.identity_uri(out)) or {})


def _is_foreign(out: str) -> bool:
    """Tells whether something is in a place, and no other command has begun there just now."""
    return bool(storage.list_files(out)) and _find(place.identity_uri(out)) is None


def _find(uri: str) -> dict[str, Any] | None:
    """Returns a JSON object; None if there is none."""
    try:
        found = json.loads(storage.read(uri))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise MismatchError(
            f"{uri} is none that vqpipe export wrote: give another place"
        ) from error
    return dict(found)


def _check_same(export: Export, found: dict[str, Any]) -> None:
    asked = json.loads(json.dumps(export.identity()))
    pair = _flat(found), _flat(asked)
    names = dict.fromkeys((*pair[1], *pair[0]))
    differing = [name for name in names if pair[0].get(name) != pair[1].get(name)]
    if differing:
        lines = "\n".join(
            f"  {name}: {_brief(pair[0].get(name))} there, {_brief(pair[1].get(name))} here"
            for name in differing
        )
        cure = "Give another place, or the options of that one"
        if differing == ["snapshot"]:
            cure += ". The sink has changed since: --generation takes it as it was before it grew"
        raise MismatchError(f"{export.out} holds another export; these differ:\n{lines}\n{cure}")


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    """Returns what is said of an export, options beside all else."""
    options = dict(identity.get("options") or {})
    said = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    return {name: value for name, value in identity.items() if name != "options"} | said


def _brief(value: object) -> str:
    """Returns a value for a person: of a digest its beginning."""
    text = "nothing" if value is None else str(value)
    return text if len(text) < _DIGEST else text[:12]


def find_done(export: Export) -> dict[str, Any] | None:
    """Returns what `_SUCCESS` says of an export that is complete; None if it is not.

    Marks and pieces that are left of it are removed.

    Raises:
        DamagedError: If it was complete, and other files are there now.
    """
    done = _find(place.success_uri(export.out))
    if done is None:
        return None
    files = place.list_made(export.out)
    count, size = len(files), sum(file.size for file in files)
    if (count, size) != (done["files"], done["bytes"]):
        raise DamagedError(
            f"{export.out} was complete and is not any more: it has {count:,} files of {size:,} "
            f"bytes, and {done['files']:,} of {done['bytes']:,} were written. Remove all that is "
            "there and run the same command again"
        )
    place.sweep(export.out)  # of a command that was killed when all was written
    return done


def run(export: Export, workers: int, on_done: OnDone) -> dict[str, Any]:
    """Writes all that is left, and what is about all of it; returns what `_SUCCESS` says.

    Args:
        export: One that has begun.
        workers: Processes; 1 is this one.
        on_done: Told at first what earlier commands have done, then after each shard.

    Raises:
        VqpipeError: If it cannot be done; the same call again goes on with it.
    """
    try:
        return _find(place.success_uri(export.out)) or _write(export, workers, on_done)
    except (FileNotFoundError, IncompleteError, StorageError):
        done = _find(place.success_uri(export.out))  # another command was first, and has swept
        if done is None:
            raise
        return done
    finally:
        if _find(place.success_uri(export.out)):
            place.sweep(export.out)


def _write(export: Export, workers: int, on_done: OnDone) -> dict[str, Any]:
    marks = place.list_marks(export.out)
    total = place.read_marks(marks.values())
    left = [index for index in range(len(export.subject)) if index not in marks]
    on_done(len(marks), total.rows)
    for done, made in enumerate(_do_all(export, left, workers), len(marks) + 1):
        total += made
        on_done(done, total.rows)
    total += export.format.finish(export.subject, export.out)
    totals = _totals(export, total)
    storage.publish(place.success_uri(export.out), json.dumps(totals, indent=2).encode() + b"\n")
    return totals


def _totals(export: Export, made: Made) -> dict[str, Any]:
    subject = export.subject
    if made.rows != subject.rows:
        raise AccountingError(
            f"{made.rows:,} rows were written to {export.out}, and the sink has {subject.rows:,}"
        )
    return {
        "format": export.name,
        "snapshot": subject.snapshot.digest,
        "shards": len(subject),
        "samples": subject.samples,
        **asdict(made),
    }


def _do_all(export: Export, left: list[int], workers: int) -> Iterator[Made]:
    """Yields what was written of each shard, as they are done."""
    count = min(workers, len(left))
    if count <= 1:
        yield from map(export.do, left)
        return
    context = multiprocessing.get_context("spawn")  # a fork lacks the threads of stores' clients
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(count, context, _start_worker, (export,)) as pool:
        with _ignoring_interrupts():  # so will the processes, while they start as well
            asked = {pool.submit(_do, index) for index in left}
        try:
            for done in as_completed(asked):
                asked.discard(done)
                yield done.result()
        except BrokenProcessPool as error:
            raise MachineError(
                f"one of {count} processes of the export died, for want of memory as a rule: run "
                "the same command again, with fewer --workers"
            ) from error
        finally:
            if asked:  # of an export that failed or was stopped: nobody waits for what they do
                _end(set(multiprocessing.active_children()) - others)


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Has Ctrl-C do nothing, in the main thread, and in processes that start meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(workers: set[multiprocessing.process.BaseProcess]) -> None:
    for worker in workers:
        worker.terminate()


_export: Export | None = None
"""What this process, a worker, works on."""


def _start_worker(export: Export) -> None:
    global _export  # noqa: PLW0603 (it is sent once, not with every shard)
    _export = export
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do(index: int) -> Made:
    assert _export is not None
    return _export.do(index)
