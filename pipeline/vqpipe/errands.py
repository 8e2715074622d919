"""Work in a thread of its own that nobody has to wait for."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")


class Errands:
    """A thread that does one thing after the other, until it is told that nothing more comes.

    A daemon: what never ends keeps no process.
    """

    def __init__(self, name: str) -> None:
        self._asked: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=_run, args=(self._asked,), daemon=True, name=name).start()

    def do(self, work: Callable[[], Result]) -> "Future[Result]":
        """Has something done after all that was asked for before; returns what will come of it."""
        answer: Future[Result] = Future()
        self._asked.put((work, answer))
        return answer

    def end(self) -> None:
        """Lets the thread end, as soon as it has done what it was asked for."""
        self._asked.put(None)


def _run(asked: "SimpleQueue[Any]") -> None:
    while (errand := asked.get()) is not None:
        work, answer = errand
        try:
            answer.set_result(work())
        except BaseException as error:  # noqa: BLE001 (raised where it was asked for)
            answer.set_exception(error)
        del errand, work, answer  # and what they hold
