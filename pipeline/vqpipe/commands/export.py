"""Write the codes of a sink in the format that a trainer takes."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import timedelta
from types import FrameType
from typing import Any, Self

from rich.live import Live
from rich.text import Text

from vqpipe import storage
from vqpipe.commands.console import Fields, Prose, describe_bytes, print_fields, stderr, stdout
from vqpipe.commands.sink_jobs import Export
from vqpipe.errors import ConfigError, stopped_by
from vqpipe.export import work
from vqpipe.export.format import FORMATS, Format, load_format
from vqpipe.export.subject import take_subject

_COMMON = {"sink", "out", "to", "workers", "generation", "allow_incomplete", "json"}
"""Options that are of no format."""
_SAY_EVERY_S = 5.0


def run(job: Export) -> None:
    """Writes what is left, and prints what there is then.

    Raises:
        VqpipeError: It could not be done, or not to its end.
    """
    how = make_format(job)
    sink, out = storage.normalise_uri(job.sink), storage.normalise_uri(job.out)
    with _stoppable():
        subject = take_subject(
            sink, generation=job.generation, allow_incomplete=job.allow_incomplete
        )
        export = work.Export(subject, job.to, how.settle(subject), out)
        work.begin(export)
        done = work.find_done(export)
        totals = done or _write(export, job)
    if job.json:
        print(json.dumps({**totals, **_report(export)}))  # noqa: T201
    else:
        described = _describe(export, totals, was_done=done is not None)
        print_fields(stdout(), f"export {out}", described)


def _write(export: work.Export, job: Export) -> dict[str, Any]:
    with _Progress(export) as progress:
        return work.run(export, job.workers or os.cpu_count() or 1, progress.show)


def make_format(job: Export) -> Format:
    """Returns the format that a command asks for, with what it chooses of it.

    Raises:
        ConfigError: If an option is of other formats.
    """
    kind = load_format(job.to)
    own = {each.name for each in fields(kind)}
    for each in fields(Export):
        is_given = getattr(job, each.name) != each.default
        if is_given and each.name not in own | _COMMON:
            option = f"--{each.name.replace('_', '-')}"
            raise ConfigError(
                f"{option} is no option of --to {job.to}, but of {_takers(each.name)}"
            )
    if "seen_at" in own and job.seen_at is None and not storage.is_on_disk(job.out):
        raise ConfigError(
            f"--to {job.to} says in a list where its files are, for a trainer that opens paths: "
            f"say by --seen-at under which path it will see {job.out}"
        )
    return kind(**{name: getattr(job, name) for name in own})


def _takers(option: str) -> str:
    """Returns the formats that have an option."""
    takes = [name for name in FORMATS if option in {f.name for f in fields(load_format(name))}]
    return ", ".join(takes)


def _describe(export: work.Export, totals: dict[str, Any], *, was_done: bool) -> Fields:
    subject, run = export.subject, export.subject.snapshot.run
    views = f", {subject.views} views each" if subject.views > 1 else ""
    size = f"{totals['files']:,} file(s), {describe_bytes(totals['bytes'])}"
    return [
        ("format", export.name),
        ("codes of", f"{subject.snapshot.uri}, run {run.fingerprint[:12]}"),
        ("samples", f"{totals['samples']:,}{views}, of {totals['shards']:,} shard(s)"),
        *_name_columns(export),
        ("written", Prose(size)),
        *([("this run", Prose("nothing was left to do"))] if was_done else []),
        ("output", f"{export.out}/"),
        ("read it", export.format.read_with(subject, export.out)),
    ]


def _name_columns(export: work.Export) -> Fields:
    """Returns where labels and captions came from, and which kept columns the format has not."""
    found = [(what, column) for what, column in _columns(export).items() if column]
    left = ", ".join(_left_out(export))
    return [*found, *([("left out", left)] if left else [])]


def _report(export: work.Export) -> dict[str, Any]:
    """Returns what is said of an export beside its totals."""
    return {
        **_columns(export),
        "left_out": _left_out(export),
        "output": f"{export.out}/",
        "read_with": export.format.read_with(export.subject, export.out),
    }


def _columns(export: work.Export) -> dict[str, str | None]:
    """Returns the columns that labels and captions came from, of a format that has such."""
    names = {each.name for each in fields(export.format)} & {"label", "caption"}
    return {name: getattr(export.format, name) for name in sorted(names, reverse=True)}


def _left_out(export: work.Export) -> list[str]:
    """Returns the kept columns that are not in what was written."""
    there = export.format.columns(export.subject)
    return [name for name in export.subject.kept if name not in there]


class _Progress:
    """Says how far an export is: a live line on a terminal, else a line every few seconds."""

    def __init__(self, export: work.Export) -> None:
        self._console = stderr()
        self._live = Live(console=self._console, transient=True, auto_refresh=False)
        self._shards, self._rows = len(export.subject), export.subject.rows
        self._before: int | None = None
        self._started = self._said = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, shards: int, rows: int) -> None:
        """Says how far it is; the first call is of what earlier commands have done."""
        now = time.monotonic()
        if self._before is None:
            self._before, self._started = rows, now
        rate = (rows - self._before) / max(now - self._started, 1e-3)
        eta = f"ETA {timedelta(seconds=round((self._rows - rows) / rate))}" if rate else "ETA ?"
        line = f"export  {shards:,}/{self._shards:,} shards  {rate:,.0f} rows/s  {eta}"
        if self._console.is_terminal:
            self._live.update(Text(line), refresh=True)
        elif now - self._said >= _SAY_EVERY_S:
            self._said = now
            self._console.print(f"{time.strftime('%H:%M:%S')}  {line}", soft_wrap=True)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turns SIGTERM and Ctrl-C into a clean stop, in the main thread, which alone is told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        raise stopped_by(number)

    before = {each: signal.signal(each, stop) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
