"""Work in a thread of its own, which is left alone as soon as somebody else has done it."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from vqpipe.errands import Errands

_LOOK_S = 5.0
"""Of waiting for one item, between two questions whether it is still wanted."""
_END = object()

Item = TypeVar("Item")


def until_done(items: Iterator[Item], is_done: Callable[[], bool]) -> Iterator[Item]:
    """Yields items as a thread makes them, one when it is asked for; ends early if one never comes.

    Args:
        items: What makes them; closed by the thread, if that comes back to it.
        is_done: Tells whether nobody wants the rest; asked now and then while one takes long.
    """
    errands = Errands("vqpipe reader")
    try:
        while _comes(answer := errands.do(lambda: next(items, _END)), is_done):
            item: Any = answer.result()
            if item is _END:
                return
            del answer  # which holds it
            yield item
            del item
    finally:
        if isinstance(items, Generator):
            errands.do(items.close)
        errands.end()


def _comes(answer: "Future[Any]", is_done: Callable[[], bool]) -> bool:
    """Waits for an answer; tells whether it came before nobody wanted it."""
    while not wait([answer], _LOOK_S).done:
        if is_done():
            return False
    return True
