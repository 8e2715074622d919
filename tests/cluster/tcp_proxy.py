"""A TCP proxy before a server, for connections that break and a server that is away for a while.

with serve(port) as proxy:
    ... = proxy.port                   # give this to the client
    proxy.cut_after(b"/tail", 700)     # the next connection that asks for this, amid the answer
    proxy.cut()                        # all connections that there are
    proxy.refuse()                     # and every other one, until
    proxy.accept()
"""

import socket
import threading
from contextlib import contextmanager, suppress

from tests.storage.ports import free_port


class TcpProxy:
    """One proxy."""

    def __init__(self, upstream):
        self.port = free_port()
        self.cuts = 0
        """Answers that were cut short."""
        self._upstream = upstream
        self._budgets = []
        self._open = set()
        self._listener = None
        self._lock = threading.Lock()

    def cut_after(self, needle, size):
        """Has a connection end after so many bytes of its answer, the next that asks for that."""
        self._budgets.append((needle, size))

    def cut(self):
        """Ends all connections."""
        with self._lock:
            sockets, self._open = self._open, set()
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def refuse(self):
        """Ends all connections, and has nobody listen."""
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
        self._listener.close()
        self.cut()

    def accept(self):
        """Listens, from now on."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._take, args=(self._listener,), daemon=True).start()

    def _take(self, listener):
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        """Passes on what both sides say, until one has ended."""
        with client, socket.create_connection(("127.0.0.1", self._upstream)) as server:
            with self._lock:
                self._open |= {client, server}
            budget = [None]  # bytes that may still come back
            back = threading.Thread(target=self._pass, args=(server, client, budget, False))
            back.start()
            self._pass(client, server, budget, True)
            back.join()
            with self._lock:
                self._open -= {client, server}

    def _pass(self, source, target, budget, is_request):
        with suppress(OSError):
            while data := source.recv(4096):
                if is_request:
                    self._find_budget(data, budget)
                elif budget[0] is not None:
                    data, budget[0] = data[: budget[0]], budget[0] - len(data)
                target.sendall(data)
                if budget[0] is not None and budget[0] <= 0:
                    self.cuts += 1
                    break
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _find_budget(self, request, budget):
        for each in self._budgets:
            if each[0] in request:
                self._budgets.remove(each)
                budget[0] = each[1]
                return


@contextmanager
def serve(upstream):
    """Serves a proxy before a port of this machine."""
    proxy = TcpProxy(upstream)
    proxy.accept()
    try:
        yield proxy
    finally:
        with suppress(OSError):
            proxy.refuse()
