"""The counter's ledger as workers see it; work goes on without one that does not answer."""

import contextlib
from typing import Any, cast

import ray
from ray.actor import ActorHandle

from vqpipe.engine.report import Ended
from vqpipe.stages.attempts import Ledger

_ANSWER_S = 30.0
_WARY = 64
"""Tables for which a codec takes notes when its process was started anew; those that were lost with
the one before are the first of them."""


class RemoteLedger:
    """The ledger of beginnings and ends that the counter keeps."""

    def __init__(self, counter: ActorHandle[Any]) -> None:
        self._counter = counter
        self._answers = True

    def begin(self, what: str) -> int:
        """Notes a beginning, for sure; returns how many earlier ones have no end."""
        return self._ask(self._counter.begin, what)

    def end(self, what: str) -> None:
        """Notes an end, some time."""
        self._counter.end.remote(what)

    def begin_shard(self, shard: int, what: str, ended: Ended | None = None) -> int:
        """Notes that a shard is begun, as `begin` does, and that the one before it has ended."""
        return self._ask(self._counter.begin_shard, (shard, what, ended))

    def end_shard(self, ended: Ended) -> None:
        """Notes that a shard has ended, some time."""
        self._counter.end_shard.remote(ended)

    def join(self, codec: str, device: str, warm_up_s: float) -> bool:
        """Notes that a codec is ready; tells whether an earlier process of it was."""
        return bool(self._ask(self._counter.join, codec, device, warm_up_s))

    def agree(self, rows: int) -> int:
        """Returns how many rows a codec of this run hands on together, given what it would."""
        with contextlib.suppress(ray.exceptions.RayError):
            return cast(int, ray.get(self._counter.agree.remote(rows), timeout=_ANSWER_S))
        return rows

    def _ask(self, method: Any, *arguments: Any) -> int:  # noqa: ANN401 (a method of an actor)
        """Tells the counter something for sure; 0 if it does not answer, as often as it did not."""
        answer = method.remote(*arguments)
        if self._answers:
            try:
                return cast(int, ray.get(answer, timeout=_ANSWER_S))
            except ray.exceptions.RayError:  # its node is gone, or nothing moves there
                self._answers = False
        return 0


class WaryLedger:
    """The ledger of a codec: one whose process never died writes nothing in it.

    Beginning and end of every table would be most of what the counter is told. What kills a process
    kills the one that is started in its place as well, and that one takes notes, of everything in
    as many tables as one codec has at a time and more.
    """

    def __init__(self, ledger: Ledger, *, is_again: bool) -> None:
        """Begins with nothing.

        Args:
            ledger: Where notes are taken.
            is_again: Whether this process is in the place of one that died.
        """
        self._ledger = ledger
        self._left = _WARY if is_again else 0
        self._begun: set[str] = set()

    def begin(self, what: str) -> int:
        """Notes a beginning; returns how many earlier ones have no end."""
        if not self._left:
            return 0
        self._begun.add(what)
        return self._ledger.begin(what)

    def end(self, what: str) -> None:
        """Notes an end, if the beginning was."""
        if what in self._begun:
            self._begun.remove(what)
            self._ledger.end(what)

    def pass_table(self) -> None:
        """Notes that a whole table, however many parts it was done in, killed nobody."""
        self._left = max(0, self._left - 1)
