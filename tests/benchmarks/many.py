"""Sources and sinks of any number of shards that nobody has to store: names, listings, footers."""

import contextlib
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from vqpipe.schema import File, Shard

BUCKET = "bench"
SOURCE, SINK = f"s3://{BUCKET}/photos", f"s3://{BUCKET}/run"
BYTES = 400_000_000
"""Of a tar of a thousand photos."""
_PAGE = 1000
_ENTRY = (
    "<Contents><Key>{}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>"
    "<ETag>&quot;{}&quot;</ETag><Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


def name(index):
    """Returns the name of a shard; names are in order of their numbers."""
    return f"train/{index:07d}"


def version(index):
    """Returns the ETag of a file."""
    return hashlib.md5(b"%d" % index).hexdigest()


def size(index):
    """Returns the bytes of a tar."""
    return BYTES + index % 1009


def tar(index):
    """Returns the file of a shard."""
    return File(f"{SOURCE}/{name(index)}.tar", size(index), version(index))


def shard(index):
    """Returns a shard of the source."""
    return Shard(name(index), "webdataset", (tar(index),))


def data(index, sink=SINK):
    """Returns the object of a committed shard, as it is listed."""
    return File(f"{sink}/data/{name(index)}.parquet", 500_000 + index % 1009, version(-index))


def page(entries, following=None):
    """Returns a page of a listing.

    Args:
        entries: Key, ETag and bytes of each object.
        following: Token of the next page, if there is one.
    """
    token = f"<NextContinuationToken>{following}</NextContinuationToken>" if following else ""
    more = f"<IsTruncated>{'true' if following else 'false'}</IsTruncated>{token}"
    listed = "".join(_ENTRY.format(*entry) for entry in entries)
    return f"<ListBucketResult>{more}{listed}</ListBucketResult>".encode()


class Handler(BaseHTTPRequestHandler):
    """Answers as S3 does where one lists, looks and reads; what is listed is made up."""

    protocol_version = "HTTP/1.1"
    shards, folder = 0, Path()
    requests = 0

    def handle(self):
        with contextlib.suppress(ConnectionError):  # of a command that is stopped
            super().handle()

    def do_GET(self):
        type(self).requests += 1
        url = urlsplit(self.path)
        asked = parse_qs(url.query)
        if "list-type" in asked:
            self._list(asked)
        else:
            self._get(unquote(url.path).removeprefix(f"/{BUCKET}/"))

    do_HEAD = do_GET  # noqa: N815 (so it is called)

    def _list(self, asked):
        keys = {"photos/": "photos/{}.tar", "run/data/": "run/data/{}.parquet"}
        key = keys.get(asked.get("prefix", [""])[0])
        count = self.shards if key else 0
        self.list_some(asked, count, lambda i: (key.format(name(i)), version(i), size(i)))

    def list_some(self, asked, count, entry, rest=None):
        """Answers with a page of a listing.

        Args:
            asked: The query.
            count: How many objects there are.
            entry: Returns key, ETag and bytes of one.
            rest: Token of what comes behind them, if anything does.
        """
        first = int(asked.get("continuation-token", ["0"])[0])
        last = min(first + int(asked.get("max-keys", [_PAGE])[0]), count)
        self.answer(200, page(map(entry, range(first, last)), last if last < count else rest))

    def _get(self, key):
        try:
            found = (self.folder / key).read_bytes()
        except OSError:
            self.answer(404, b"")
            return
        self.give(found, hashlib.md5(found).hexdigest())

    def give(self, found, tag):
        """Answers with an object, or what is asked for of it."""
        first, end = 0, len(found)
        if asked := self.headers.get("Range"):
            first, last = asked.removeprefix("bytes=").split("-")
            first, end = (int(first), int(last) + 1) if first else (max(0, end - int(last)), end)
        self.answer(206 if asked else 200, found[first:end], tag)

    def answer(self, code, body, tag=None):
        """Answers a request."""
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Fri, 02 Jan 2026 03:04:05 GMT")
        if tag:
            self.send_header("ETag", f'"{tag}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve(shards, folder, port):
    """Serves, for the length of a block, a bucket with so many tars and as many objects of a run.

    Args:
        shards: How many.
        folder: What there is to read, by key.
        port: Where.
    """
    handler = type("Handler", (Handler,), {"shards": shards, "folder": Path(folder)})
    with serve_by(handler, port):
        yield handler


@contextlib.contextmanager
def serve_by(handler, port):
    """Serves by a handler of requests, for the length of a block."""
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
