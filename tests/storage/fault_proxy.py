"""An HTTP proxy before a server of objects that does what networks and stores do on bad days.

    with serve(endpoint, seed=1) as proxy:
        ... = proxy.endpoint                              # give this to the client
        proxy.faults = Faults(refuse=0.25, lose=0.1)      # at any time
        proxy.after("GET .*a.tar", lambda: ...)           # at a moment of the run
        proxy.account                                     # what was done how often

What befalls a request depends on the seed, its method and key, and how often the same was asked
before, and on nothing else: not on the order in which the processes of a run come.
"""

import hashlib
import http.client
import re
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
SHARES = ("refuse", "drop", "lose", "cut", "shorten")
TRICKLE_S, TRICKLES = 0.05, 2400
"""Between two bytes, and how many there are before the connection is closed."""
ERRORS = {
    "refuse": (503, "Please reduce your request rate."),
    "SlowDown": (503, "Please reduce your request rate."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "AccessDenied": (403, "Access Denied"),
    "AuthenticationFailed": (401, "Server failed to authenticate the request."),
    "NotImplemented": (501, "A header you provided implies functionality that is not implemented"),
    "MethodNotAllowed": (405, "The specified method is not allowed against this resource."),
    "InvalidArgument": (400, "Unsupported header"),
    "ExpiredToken": (400, "The provided token has expired."),
}


@dataclass(frozen=True)
class Faults:
    """What goes wrong; shares are of requests, in [0, 1], and exclude one another."""

    refuse: float = 0.0
    """Answered 503 SlowDown, not executed."""
    drop: float = 0.0
    """Connection closed without an answer, not executed."""
    lose: float = 0.0
    """Executed, then the connection closed without an answer."""
    cut: float = 0.0
    """Executed; half of the body is sent, all of its length announced, and the connection closed.
    An answer without a body is lost."""
    shorten: float = 0.0
    """Executed; half of what a range asks for is sent and announced. Other answers are cut."""
    first: str | None = None
    """What befalls the first request of every method and key: a share's name or an error code."""
    always: str | None = None
    """What befalls every request; also `trickle`: half of the body at once, then byte by byte."""
    conditional: str | None = None
    """What befalls every PUT with a condition: If-None-Match or If-Match."""
    delay_s: float = 0.0
    """Pause before every answer ..."""
    delayed: str = ""
    """... to a request like 'GET /bucket/key' in which this pattern is found."""


class FaultProxy:
    """The plan and the account of one proxy."""

    def __init__(self, upstream, seed):
        self.faults = Faults()
        self.account = Counter()
        """Requests by what was done to them, `passed` included."""
        self.log = []
        """(method, path, what was done), in the order of the requests."""
        self.endpoint = ""
        self._upstream = urlsplit(upstream).netloc
        self._seed = seed
        self._seen = Counter()
        self._moments = []
        self._lock = threading.Lock()

    def after(self, pattern, action):
        """Calls `action`, once, when the first request like 'GET /bucket/key' has been executed.

        It is called before the answer is sent, so that it has happened when the client goes on.
        """
        self._moments.append((re.compile(pattern), action))

    def choose(self, method, path):
        """Returns what befalls a request, `passed` for nothing."""
        with self._lock:
            faults, key = self.faults, (method, path)
            self._seen[key] += 1
            count = self._seen[key]
        if faults.always:
            return faults.always
        if faults.first and count == 1:
            return faults.first
        drawn = self._draw(method, path, count)
        for name in SHARES:
            drawn -= getattr(faults, name)
            if drawn < 0:
                return name
        return "passed"

    def _draw(self, method, path, count):
        """Returns a number in [0, 1); a bucket's name, which is random in tests, plays no part."""
        key = path.lstrip("/").partition("/")[2]
        digest = hashlib.sha256(f"{self._seed} {method} {key} {count}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    def note(self, method, path, done):
        with self._lock:
            self.account[done] += 1
            self.log.append((method, path, done))

    def executed(self, method, path):
        with self._lock:
            due = [moment for moment in self._moments if moment[0].search(f"{method} {path}")]
            self._moments = [moment for moment in self._moments if moment not in due]
        for _, action in due:
            action()

    def forward(self, method, path, headers, body):
        """Returns status, headers and body of the server; `Host` stays as it was signed."""
        connection = http.client.HTTPConnection(self._upstream, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if name.lower() not in {"expect", "connection", "transfer-encoding"}:
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


@contextmanager
def serve(upstream, seed=0):
    """Yields a `FaultProxy` that passes requests on to an endpoint such as http://127.0.0.1:9."""
    proxy = FaultProxy(upstream, seed)
    methods = {f"do_{name}": _Handler.handle_request for name in METHODS}
    handler = type("Handler", (_Handler,), {"proxy": proxy, **methods})
    server = _Server(("127.0.0.1", 0), handler)
    proxy.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # clients keep connections open
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass  # clients that were killed


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer takes 40 ms
    timeout = 120

    def handle_request(self):
        body = self._read_body()
        done = self.proxy.choose(self.command, self.path)
        conditional = self.proxy.faults.conditional
        has_condition = {"If-None-Match", "If-Match"} & set(self.headers)
        if conditional and has_condition and self.command == "PUT":
            done = conditional
        self.proxy.note(self.command, self.path, done)
        if re.search(self.proxy.faults.delayed, f"{self.command} {self.path}"):
            time.sleep(self.proxy.faults.delay_s)
        if done == "drop":
            self._break_off()
        elif done in ERRORS:
            self._refuse(done)
        else:
            self._pass_on(body, done)

    def _read_body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            raise NotImplementedError("clients announce the length of what they send")
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _pass_on(self, body, done):
        status, headers, content = self.proxy.forward(self.command, self.path, self.headers, body)
        self.proxy.executed(self.command, self.path)
        half = len(content) // 2
        if done == "shorten" and "Range" in self.headers and half:
            self._answer(status, headers, content[:half])
        elif done == "passed":
            self._answer(status, headers, content)
        elif done == "lose" or self.command == "HEAD" or not half:
            self._break_off()
        else:
            self._answer(status, headers, content, sent=half)
            if done == "trickle":
                self._trickle(content[half:-1])
            self._break_off()

    def _trickle(self, content):
        for byte in content[:TRICKLES]:
            time.sleep(TRICKLE_S)
            self.wfile.write(bytes([byte]))

    def _refuse(self, code):
        status, message = ERRORS[code]
        code = "SlowDown" if code == "refuse" else code
        content = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>'
            f"<Message>{message}</Message><RequestId>0</RequestId></Error>"
        )
        self._answer(status, [("Content-Type", "application/xml")], content.encode())

    def _answer(self, status, headers, content, sent=None):
        self.send_response(status)
        sizes = [value for name, value in headers if name.lower() == "content-length"]
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        size = sizes[0] if self.command == "HEAD" and sizes else len(content)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent])

    def _break_off(self):
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *_):
        pass
