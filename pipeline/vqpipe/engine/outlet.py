"""Where finished blocks leave a graph of Ray Data, which may be stopped before its end.

Ray Data works in threads of the driver. One that still calls Ray's C++ side after that has been
shut down ends the process at once, with exit code 1 and without a word (Ray 2.60,
`CoreWorkerProcessImpl::GetCoreWorker`): all of them have to be at rest before.
"""

import contextlib
import queue
import threading
from typing import Any, cast

import ray.data
from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

from vqpipe.engine.committer import Block

_AHEAD = 16
"""Blocks that the graph may be ahead of the commits."""
_PATIENCE_S = 10.0
"""How long a thread of Ray Data's may take to come to rest."""
_LOOK_S = 0.2
_END = object()


def remember_executors(context: DataContext) -> None:
    """Has what runs the graphs of a context be known, so that it can be stopped."""
    context.custom_execution_callback_classes = [_Remembered]


class _Remembered(ExecutionCallback):
    """Is told by Ray Data of every executor of this process that begins."""

    executors: list[Any] = []  # noqa: RUF012 (of all of them: Ray Data makes an object for each)

    def before_execution_starts(self, executor: Any) -> None:  # noqa: ANN401 (Ray's own)
        self.executors.append(executor)


class Outlet:
    """The finished blocks of a graph, handed over by a thread that runs it."""

    def __init__(self, dataset: ray.data.Dataset) -> None:
        self._blocks: queue.Queue[Any] = queue.Queue(_AHEAD)
        self._is_stopped = threading.Event()
        _Remembered.executors.clear()
        self._thread = threading.Thread(target=self._run, args=(dataset,), daemon=True)
        self._thread.start()

    def take(self, wait_s: float) -> tuple[list[Block], bool]:
        """Returns all blocks that are there, and whether they are the last.

        Args:
            wait_s: Most seconds to wait for the first.

        Raises:
            Exception: Whatever ended the graph.
        """
        found: list[Block] = []
        with contextlib.suppress(queue.Empty):
            item = self._blocks.get(timeout=wait_s)
            while True:
                if item is _END:
                    return found, True
                if isinstance(item, BaseException):
                    raise item
                found.append(cast(Block, item))
                item = self._blocks.get_nowait()
        return found, False

    def close(self) -> None:
        """Stops the graph if it has not ended, and waits until its threads do nothing more."""
        self._is_stopped.set()
        for executor in _Remembered.executors:
            executor.shutdown(force=False)  # which it does once, and not before it has started
        self._thread.join(_PATIENCE_S)
        for executor in filter(threading.Thread.is_alive, _Remembered.executors):
            executor.join(_PATIENCE_S)
        _Remembered.executors.clear()

    def _run(self, dataset: ray.data.Dataset) -> None:
        try:
            for bundle in dataset.iter_internal_ref_bundles():
                for block in bundle.blocks:
                    rows, size = block.metadata.num_rows, block.metadata.size_bytes
                    if rows != 0:  # a spare task that had nothing to do
                        self._put(Block(block.ref, rows or 0, size or 0))
                if self._is_stopped.is_set():
                    return
            self._put(_END)
        except BaseException as error:  # noqa: BLE001 (handed to the main thread, which raises it)
            self._put(error)

    def _put(self, item: object) -> None:
        while not self._is_stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._blocks.put(item, timeout=_LOOK_S)
                return
