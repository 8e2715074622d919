"""The head of the cluster that was joined: whether it is still there."""

import contextlib
import math
import socket
import time

import ray

from vqpipe.errors import IncompleteError

_ANSWER_TIMEOUT_S = 2.0
_HEAD_TIMEOUT_S = 30.0


class Head:
    """The head of the cluster that was joined, without which nothing goes on.

    Ray 2.60 ends the driver when its head has not answered for 60 s, with exit code 1 and without a
    word (the C++ side calls exit): this notices before.
    """

    def __init__(self) -> None:
        self._address = str(ray.get_runtime_context().gcs_address)
        self._answered = math.inf  # only one that has answered can cease to

    def is_there(self) -> bool:
        """Tells whether it answers; to be called every few seconds, and before what asks it.

        Ray waits without end for what a head knows that is gone.

        Raises:
            IncompleteError: If it has not been there for half a minute.
        """
        host, _, port = self._address.rpartition(":")
        with contextlib.suppress(OSError):
            place = host.strip("[]"), int(port)
            socket.create_connection(place, timeout=_ANSWER_TIMEOUT_S).close()
            self._answered = time.monotonic()
            return True
        gone_s = time.monotonic() - self._answered
        if gone_s > _HEAD_TIMEOUT_S:
            raise IncompleteError(
                f"the head of the Ray cluster, {self._address}, has not answered for {gone_s:.0f} s"
                ": it or its machine is gone. Everything committed is safe: run the same command "
                "again when there is a cluster"
            )
        return False
