"""Reads a shard in a child process, which it may take down with it.

Parsers of damaged files may crash, and with them the worker; a worker that died over a shard three
times reads it like this. It is slower, so that no shard begins here.

    parent                                   child
    the shard, as a line of JSON  ──────►    reads it as any worker does
    samples, one after the other  ◄──────    Arrow's stream of batches of one row; the first says
                                             how many samples the shard claims to have, and the last
                                             one may be an error of ours
    goes away                     ──────►    ends

The child reads from the store, so that it gets the environment and, with it, the credentials.
Nothing that comes back is unpickled.
"""

import contextlib
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, BinaryIO

import pyarrow as pa

from vqpipe import errors
from vqpipe.errors import ConfigError, MachineError
from vqpipe.rejections import Loss, Reason, Rejection
from vqpipe.schema import KEPT, File, Sample, Selection, Shard
from vqpipe.sources import count_rows, read_shard
from vqpipe.stages.attempts import ATTEMPTS, NOT_THE_INPUT, ended, keep_reading
from vqpipe.stages.samples import columns_of

_KILLED = "signal SIGKILL"
"""What no parser sends itself."""

_COUNT = -2
"""Row number of what is no sample: `lost` holds how many the shard claims to have, if it does."""
_ERROR = -1
"""Row number of what is no sample: `reason` holds an error's class, `message` its text."""


def claimed_rows(shard: Shard, selection: Selection) -> int | None:
    """Returns how many samples a shard claims to have, if it does."""
    try:
        return count_rows(shard, selection)
    except NOT_THE_INPUT:
        raise
    except Exception:  # noqa: BLE001 (a parser's; reading the shard says what is wrong with it)
        return None


def read_quarantined(shard: Shard, selection: Selection, kept: pa.Schema) -> Iterator[Sample]:
    """Yields a shard's samples; the row at which a child dies for the third time is the last.

    Raises:
        ConfigError: If a child does not even start.
        MachineError: If children are killed from outside.
        VqpipeError: Whatever reading raises of our own.
    """
    row = deaths = 0
    total: int | None = None
    while deaths < ATTEMPTS:
        with _Child({"selection": asdict(selection), "first": row}, shard, kept) as child:
            for sample in child.samples():
                yield sample
                row, deaths = row + 1, 0
            death, total = child.death(), child.total or total
        if death is None:
            return
        deaths += 1
    if not child.started:
        raise ConfigError(
            f"the process that reads damaged shards does not start ({death}); it needs some 300 MB "
            "of memory, and Python as this one has it"
        )
    if death == _KILLED:
        raise MachineError(
            f"the process that reads {shard.files[0].uri} was killed {ATTEMPTS} times at row "
            f"{row}, which the kernel does when memory runs out; nothing was rejected for it. Give "
            "the workers more memory, or leave the file out, and run the same command again"
        )
    cause = f"the process that read it ended with {death}"
    yield ended(row, shard.name, cause, Loss.of(total, row))


class _Child:
    """The process that reads: `main` below."""

    def __init__(self, task: dict[str, Any], shard: Shard, kept: pa.Schema) -> None:
        self._kept = kept
        self.started = False
        self.total: int | None = None
        path = os.pathsep.join(each or os.getcwd() for each in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vqpipe.stages.quarantine"],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdin is not None
        task |= {"shard": asdict(shard), "kept": kept.serialize().to_pybytes().hex()}
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()

    def __enter__(self) -> "_Child":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for channel in (self._process.stdin, self._process.stdout):
            assert channel is not None
            with contextlib.suppress(BrokenPipeError):  # the task was never read
                channel.close()

    def samples(self) -> Iterator[Sample]:
        """Yields what the child reads until it is done or dies.

        Raises:
            VqpipeError: What the child raised.
        """
        with contextlib.suppress(OSError, StopIteration, pa.ArrowInvalid):  # the stream breaks off
            stream = pa.ipc.open_stream(self._process.stdout)
            stream.read_next_batch()
            self.started = True
            self.total = stream.read_next_batch()["lost"][0].as_py()
            for batch in stream:
                yield _unpack(batch, self._kept)

    def death(self) -> str | None:
        """Returns how the child died, for a person; None if it has come to the end."""
        code = self._process.wait()
        if code == 0:
            return None
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _unpack(batch: pa.RecordBatch, kept: pa.Schema) -> Sample:
    values = {name: batch[name][0].as_py() for name in _READ}
    if values["row"] == _ERROR:
        raise _error(values["reason"], values["message"])
    reason, message, lost, lost_by = (values.pop(name) for name in _REJECTION)
    loss = lost_by and Loss(lost, lost_by)
    return Sample(
        **values,
        rejection=reason and Rejection(Reason(reason), message, loss),
        kept={name: batch[KEPT + name] for name in kept.names},
    )


_REJECTION = ("reason", "message", "lost", "lost_by")
_DATA = "data"
_READ = ("row", "key", _DATA, "passed_over", *_REJECTION)


def _error(name: str, message: str) -> Exception:
    kind: type[Exception] = getattr(errors, name, None) or (
        MemoryError if "Memory" in name else ImportError
    )
    return kind(message)


def main(task: dict[str, Any], target: BinaryIO) -> None:
    """Writes the samples of a shard to a stream of Arrow's."""
    kept = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(task["kept"])))
    selection = _selection(task["selection"])
    shard = _shard(task["shard"])
    nothing = _pack(Sample(_ERROR, None), kept).slice(0, 0)
    with pa.ipc.new_stream(target, nothing.schema) as stream:
        stream.write_batch(nothing)  # it has started
        target.flush()
        total = None
        with contextlib.suppress(*NOT_THE_INPUT):  # reading raises them again
            total = claimed_rows(shard, selection)
        stream.write_batch(_pack_word(_COUNT, kept, {"lost": total}))
        target.flush()
        try:
            samples = keep_reading(
                lambda: read_shard(shard, selection, kept), shard.name, lambda: total
            )
            for sample in itertools.islice(samples, task["first"], None):
                stream.write_batch(_pack(sample, kept))
                target.flush()
        except NOT_THE_INPUT as error:
            said = {"reason": type(error).__name__, "message": str(error)}
            stream.write_batch(_pack_word(_ERROR, kept, said))


def _selection(values: dict[str, Any]) -> Selection:
    """Returns a selection of what JSON made of it: lists are tuples there."""
    lists = {name: tuple(each) for name, each in values.items() if isinstance(each, list)}
    return Selection(**{**values, **lists})


def _shard(values: dict[str, Any]) -> Shard:
    groups = values["row_groups"] and tuple(values["row_groups"])
    files = tuple(File(**file) for file in values["files"])
    return Shard(**{**values, "files": files, "row_groups": groups})


def _pack(sample: Sample, kept: pa.Schema) -> pa.RecordBatch:
    return pa.record_batch(columns_of([sample], kept, _DATA))


def _pack_word(number: int, kept: pa.Schema, said: dict[str, Any]) -> pa.RecordBatch:
    """Returns what is no sample, under a row number that says what it is."""
    batch = _pack(Sample(number, None), kept)
    columns = {name: batch[name] for name in batch.schema.names}
    put = {name: pa.array([value], batch.schema.field(name).type) for name, value in said.items()}
    return pa.record_batch(columns | put)


def _end_with_parent() -> None:
    """Ends the process when the worker closes its side, be it by dying."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    asked = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what a library may print is not for the parent
        main(asked, answers)
    os._exit(0)  # the thread above holds standard input
