"""Standard output and error that a run outlives.

`vqpipe encode ... | head` closes the pipe after ten lines, a terminal goes with its connection, the
disk below `> log` fills up; and the next line that is printed would raise an error in the middle of
a run. It is dropped, and the command goes on to its end and its own exit code.
"""

import contextlib
import os
import sys
from typing import Any, TextIO, cast


class Tolerant:
    """A text stream that drops what cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: Exception | None = None
        """Why something was dropped, unless a reader just had enough."""

    def write(self, text: str) -> int:
        """Writes text, as far as that can be done; returns its length."""
        try:
            self._stream.write(text)
        except (OSError, ValueError) as error:
            self._drop(error)
        return len(text)

    def flush(self) -> None:
        """Hands on what is buffered, as far as that can be done."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._drop(error)

    def _drop(self, error: Exception) -> None:
        """Lets all that is and will be written go nowhere, for libraries and children as well."""
        if not isinstance(error, BrokenPipeError):
            self.failure = self.failure or error
        with contextlib.suppress(OSError, ValueError):  # it is closed
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (whatever a text stream has)
        return getattr(self._stream, name)


def outlive_readers() -> None:
    """Has this process go on when its output cannot be written any more."""
    sys.stdout = cast(TextIO, Tolerant(sys.stdout or _nowhere()))
    sys.stderr = cast(TextIO, Tolerant(sys.stderr or _nowhere()))


def _nowhere() -> TextIO:
    """Returns what a stream that was closed from the start (`>&-`) is replaced by."""
    return open(os.devnull, "w")


def find_failure() -> Exception | None:
    """Returns why not all of standard output could be written, if a reader did not leave."""
    sys.stdout.flush()
    return sys.stdout.failure if isinstance(sys.stdout, Tolerant) else None
