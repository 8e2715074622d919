"""A server that speaks the routes of the Hugging Face hub which its client reads models by."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def commit_of(files):
    """Returns the name of a commit with these files, `{path: bytes}`."""
    names = b"".join(name.encode() + hashlib.sha1(data).digest() for name, data in files.items())
    return hashlib.sha1(names).hexdigest()


@contextmanager
def serve(repositories):
    """Yields the endpoint, and the list of paths of files that are fetched from it.

    Args:
        repositories: `{"org/name": {revision: {path: bytes}}}`, or the code of an error in place of
            the revisions, as in `GatedRepo`.
    """
    fetched = []

    class Handler(BaseHTTPRequestHandler):
        disable_nagle_algorithm = True  # else each answer takes 40 ms
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.answer()

        def answer(self):
            status, headers, body = respond(repositories, self.path.partition("?")[0])
            if self.command == "GET" and "ETag" in headers:
                fetched.append(self.path)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def respond(repositories, path):
    """Returns status, headers and body for a path of one of the three routes."""
    parts = path.strip("/").split("/")
    is_api = parts[:2] == ["api", "models"]
    org, name, route, revision, *rest = [*parts[2 if is_api else 0 :], "", "", "", "main"][:99]
    repository = repositories.get(f"{org}/{name}", "RepoNotFound")
    if isinstance(repository, str):
        return refuse({"GatedRepo": 403, "RepoNotFound": 401}.get(repository, 500), repository)
    revisions = repository | {commit_of(files): files for files in repository.values()}
    if revision not in revisions:
        return refuse(404, "RevisionNotFound")
    files = revisions[revision]
    if is_api:
        return answer_json(list_tree(files) if route == "tree" else describe(org, name, files))
    place = "/".join(part for part in rest if part not in {"", "main"})
    if place not in files:
        return refuse(404, "EntryNotFound")
    headers = {"ETag": f'"{hashlib.sha1(files[place]).hexdigest()}"'}
    return 200, headers | {"X-Repo-Commit": commit_of(files)}, files[place]


def refuse(status, code):
    return status, {"X-Error-Code": code, "X-Error-Message": code}, b""


def answer_json(values):
    return 200, {"Content-Type": "application/json"}, json.dumps(values).encode()


def describe(org, name, files):
    siblings = [{"rfilename": path} for path in files]
    return {"id": f"{org}/{name}", "sha": commit_of(files), "siblings": siblings, "tags": []}


def list_tree(files):
    return [
        {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        for path, data in files.items()
    ]
