"""Ports of 127.0.0.1 for servers that must be told theirs, each given out once.

A port that the kernel picks and that is closed again may be picked a second time before a server
takes it, for another server or for the near end of any connection. These lie below the range that
the kernel picks from (32768 and up) and above that of Ray's workers (10002 to 19999).
"""

import random
import socket

_PORTS = range(20_000, 32_000)
_given: set[int] = set()


def free_port():
    """Returns a port that nobody listens on and that was not returned before."""
    left = [port for port in _PORTS if port not in _given]
    random.shuffle(left)  # other test sessions on this machine choose too
    port = next(port for port in left if _is_free(port))
    _given.add(port)
    return port


def _is_free(port):
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
