"""Work in a thread of its own, which is left alone as soon as somebody else has done it."""

import threading
from collections.abc import Callable, Generator, Iterator
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

_LOOK_S = 5.0
"""Of waiting for one item, between two questions whether it is still wanted."""

Item = TypeVar("Item")


def until_done(items: Iterator[Item], is_done: Callable[[], bool]) -> Iterator[Item]:
    """Yields items as a thread makes them, one when it is asked for; ends early if one never comes.

    Args:
        items: What makes them; closed by the thread, if that comes back to it.
        is_done: Tells whether nobody wants the rest; asked now and then while one takes long.
    """
    asked: SimpleQueue[str] = SimpleQueue()
    made: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_make, args=(items, asked, made), daemon=True).start()
    try:
        while (found := _ask(asked, made, is_done)) is not None:
            item, error = found
            if error:
                raise error
            yield item
    finally:
        asked.put(_STOP)


_NEXT, _STOP = "next", "stop"


def _ask(asked: "SimpleQueue[str]", made: "SimpleQueue[Any]", is_done: Callable[[], bool]) -> Any:  # noqa: ANN401
    """Returns the next item, or its error, as a pair; None if there is none, or no one wants it."""
    asked.put(_NEXT)
    while True:
        try:
            return made.get(timeout=_LOOK_S)
        except Empty:
            if is_done():
                return None


def _make(items: Iterator[Any], asked: "SimpleQueue[str]", made: "SimpleQueue[Any]") -> None:
    while asked.get() == _NEXT:
        try:
            item = next(items)
        except StopIteration:
            made.put(None)
            return
        except BaseException as error:  # noqa: BLE001 (raised where it was asked for)
            made.put((None, error))
            return
        made.put((item, None))
        del item
    if isinstance(items, Generator):
        items.close()
