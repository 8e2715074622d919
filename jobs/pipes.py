"""Standard output and error that outlive their readers.

`vqpipe encode ... | head` closes the pipe after ten lines, and the next line that is printed would
raise `BrokenPipeError` in the middle of a run. Nobody reads it any more, so it is dropped, and the
command goes on to its end and its own exit code.
"""

import os
import sys
from typing import Any, TextIO, cast


class Tolerant:
    """A text stream that drops what is written to a pipe whose reader has gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes text, as far as anybody reads it; returns its length."""
        try:
            self._stream.write(text)
        except BrokenPipeError:
            self._drop()
        return len(text)

    def flush(self) -> None:
        """Hands on what is buffered, as far as anybody reads it."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        """Lets all that is and will be written go nowhere, for libraries and children as well."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (whatever a text stream has)
        return getattr(self._stream, name)


def outlive_readers() -> None:
    """Has this process go on when nobody reads its output any more."""
    sys.stdout = cast(TextIO, Tolerant(sys.stdout))
    sys.stderr = cast(TextIO, Tolerant(sys.stderr))
