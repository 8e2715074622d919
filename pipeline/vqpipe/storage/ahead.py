"""Many small requests at a time, with a bound on what is held of their answers."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def map_ahead(
    function: Callable[[Item], Answer], items: Iterable[Item], threads: int
) -> Iterator[Answer]:
    """Yields what a function makes of each item, in order, worked out by threads.

    They are ahead by twice their number at most. (`Executor.map` asks for all at once, and keeps
    what the caller does not take quickly enough.)
    """
    ahead: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) == 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:  # of a caller that wants no more, or an item that failed
            for each in ahead:
                each.cancel()


def do_all(function: Callable[[Item], object], items: Iterable[Item], threads: int) -> None:
    """Has threads do something to each item, and returns once all of it is done."""
    for _ in map_ahead(function, items, threads):
        pass
