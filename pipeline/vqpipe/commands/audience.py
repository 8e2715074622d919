"""Who is told how far a command is: a file of JSON lines, and a function of a program.

Neither can stop a run. The function is called in the thread of the program, where a tracker of
experiments has its run; between two looks at the work, which waits for it.
"""

import errno
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from vqpipe.commands.console import print_warning, stderr
from vqpipe.commands.progress import Progress
from vqpipe.commands.progress_record import measure, stamp
from vqpipe.commands.result import Result
from vqpipe.errors import ConfigError, IncompleteError, VqpipeError

Hook = Callable[[dict[str, Any]], object]
"""What a program wants to be called with each record."""

_EVERY_S = 5.0
_COMMITS_EVERY_S = 1.0
"""Least seconds between two records of commits: of small shards, many come in a second."""


@contextmanager
def told(stage: str, path: str | None, hook: Hook | None) -> Iterator["Audience"]:
    """Has a file and a function told of what a `with` block does, whoever does it.

    Raises:
        ConfigError: If the file cannot be opened.
    """
    audience = Audience(stage, None if path is None else _File(path), hook)
    token = _present.set(audience)
    try:
        yield audience
    except BaseException as error:
        audience.end_with(error)
        raise
    finally:
        _present.reset(token)
        audience.close()


def audience() -> "Audience":
    """Returns who is to be told; nobody outside a command."""
    return _present.get() or Audience("", None, None)


_present: ContextVar["Audience | None"] = ContextVar("audience", default=None)


class Audience:
    """Who is told about one command."""

    def __init__(self, stage: str, file: "_File | None", hook: Hook | None) -> None:
        self._stage, self._file, self._hook = stage, file, hook
        self._about: dict[str, Any] = {"sink": None, "fingerprint": None}
        self._progress: Progress | None = None
        self._said = 0.0
        """When something was last told."""
        self._commits = 0
        self._was_ready = self._has_raised = False

    def begin(self, sink: str, fingerprint: str, progress: Progress) -> None:
        """Tells that the work begins."""
        self._about = {"sink": sink, "fingerprint": fingerprint}
        self._progress = progress
        self._tell("began")

    def look(self) -> None:
        """Tells what is new, if anything is, or it is time; call it as often as you like."""
        if self._progress is None:
            return
        since_s = time.monotonic() - self._said
        if self._progress.has_begun and not self._was_ready:
            self._was_ready = True
            self._tell("ready")
        elif self._progress.shards != self._commits and since_s >= _COMMITS_EVERY_S:
            self._tell("committed")
        elif since_s >= _EVERY_S:
            self._tell("running")

    def end(self, result: Result | None) -> None:
        """Tells how a command has ended."""
        if result:
            why = result.error.message if result.error else None
            self._tell("ended", exit_code=result.exit_code, error=why, totals=result.totals)

    def end_with(self, error: BaseException) -> None:
        """Tells that a command is ended by an error."""
        default = IncompleteError if isinstance(error, KeyboardInterrupt) else VqpipeError
        code = error.exit_code if isinstance(error, VqpipeError) else default.exit_code
        said = error.message if isinstance(error, VqpipeError) else type(error).__name__
        self._tell("ended", exit_code=code, error=said, totals=None)

    def close(self) -> None:
        """Gives the file back."""
        if self._file:
            self._file.close()

    def _tell(self, event: str, **more: Any) -> None:  # noqa: ANN401 (of JSON's types)
        self._said = time.monotonic()
        if not (self._file or self._hook):
            return
        record = {**stamp(event, self._stage), **self._about}
        if self._progress:
            self._commits = self._progress.shards
            record |= measure(self._progress)
        record |= more
        if self._file:
            self._file.write(json.dumps(record) + "\n")
        if self._hook:
            self._call(self._hook, record)

    def _call(self, hook: Hook, record: dict[str, Any]) -> None:
        try:
            hook(record)
        except VqpipeError:  # of a signal that came meanwhile
            raise
        except Exception:  # noqa: BLE001 (whatever a tracker of experiments raises)
            if not self._has_raised:
                _log.exception("on_progress failed, which is said once; the run goes on")
            self._has_raised = True


_log = logging.getLogger("vqpipe")


_MAY_PASS = {errno.ENXIO, errno.ENOSPC, errno.EDQUOT}
"""What may be another matter in a moment: a pipe that nobody reads yet, a disk that is full."""


class _File:
    """A file that lines are appended to, as far as that can be done.

    It may be a pipe: then nothing is written while nobody reads, or too slowly.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._number: int | None = None
        self._is_torn = self._has_failed = False
        try:
            self._open()
        except OSError as error:
            if error.errno not in _MAY_PASS:
                raise ConfigError(
                    f"--progress-file {path} cannot be written: {error.strerror}"
                ) from error
            self._fail(error)

    def write(self, line: str) -> None:
        """Appends a line, in one piece; leaves it out where that cannot be done."""
        data = ("\n" if self._is_torn else "").encode() + line.encode()
        try:
            written = os.write(self._open(), data)
        except OSError as error:
            self._fail(error)
            return
        self._is_torn = written < len(data)

    def close(self) -> None:
        """Closes it."""
        if self._number is not None:
            with suppress(OSError):
                os.close(self._number)
            self._number = None

    def _open(self) -> int:
        if self._number is None:
            how = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
            self._number = os.open(self._path, how, 0o666)
        return self._number

    def _fail(self, error: OSError) -> None:
        """Says once what is the matter; the next line is tried again."""
        self.close()
        if not self._has_failed:
            self._has_failed = True
            said = f"--progress-file {self._path}: {error.strerror}; the run goes on without it"
            print_warning(stderr(), said)
