"""How a stage has ended, for whoever asked for it: a command line, or a program."""

from dataclasses import dataclass, field
from typing import Any

from vqpipe.errors import IncompleteError


@dataclass(frozen=True)
class Result:
    """What a stage leaves, and whether it is complete."""

    sink: str
    """Where it is; of `evaluate`, the folder of its scores inside the sink of codes."""
    fingerprint: str
    """Of the run, as in `run.json`."""
    totals: dict[str, Any] = field(repr=False)
    """What `summary.json` says; of a part while others are left, what it did itself; of a dry run,
    `shards_planned`, `shards_left` and `images_left`."""
    error: IncompleteError | None = None
    """Why it is not complete; None if it is. The same call again goes on with it."""
    evaluation: dict[str, Any] | None = field(default=None, repr=False)
    """Of `evaluate`, what `evaluation.json` says, if it is complete."""

    @property
    def exit_code(self) -> int:
        """What the command would end with: 0 if `_SUCCESS` is written, or its part is through.

        So it does of a dry run.
        """
        return self.error.exit_code if self.error else 0

    def check(self) -> None:
        """Raises the error, if there is one."""
        if self.error:
            raise self.error
