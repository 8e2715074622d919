"""A server that speaks the routes of the Hugging Face hub by which data sets are written and read.

It keeps what a hub keeps: commits that stand on one another, and large files by their SHA-256.
"""

import base64
import hashlib
import json
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_canaryThatNobodyMayEverSee"
SIGNATURE = "X-Amz-Signature=canaryOfASignedAddress"
PAGE = 7
"""Entries of a page of a listing: so few that every listing has several."""
APART = (".parquet",)
"""Ends of names of files that are kept apart, as a data set's first .gitattributes has it."""


def sha256_of(data):
    return hashlib.sha256(data).hexdigest()


def git_of(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class DataSet:
    """One repository."""

    private: bool = False
    commits: dict = field(default_factory=dict)
    """{commit: {path: bytes}}, in order."""
    branches: dict = field(default_factory=dict)

    def add(self, branch, files):
        number = f"{len(self.commits)}{branch}{id(self)}".encode()
        commit = hashlib.sha1(number).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit

    def files(self, branch="main"):
        return self.commits[self.branches[branch]]


def new_data_set(private=False, files=()):
    made = DataSet(private)
    made.add("main", {".gitattributes": b"*.parquet filter=lfs\n", **dict(files)})
    return made


class Hub:
    """What a server keeps, and what it is told to do wrong."""

    def __init__(self):
        self.data_sets = {}
        self.blobs = {}
        self.requests = []
        """(method, route) of each, in order."""
        self.put = []
        """SHA-256 of what was sent, in order."""
        self.sizes = []
        """Operations of each commit."""
        self.faults = []
        """Of functions that are asked of each request, and return what to do instead, or None."""
        self.writers = {TOKEN}
        self.readers = set()

    def fail(self, route, *answers, after=0):
        """Has the next requests of a route answered otherwise: a status, `drop`, or `lose`.

        `drop` closes the connection, and `lose` does what is asked before it does that. A function
        is called instead, and the connection closed.
        """
        left, passed = list(answers), [after]

        def decide(found):
            if found != route or not left:
                return None
            if passed[0]:
                passed[0] -= 1
                return None
            return left.pop(0)

        self.faults.append(decide)

    def head(self, name, branch="main"):
        return self.data_sets[name].branches[branch]


ROUTES = ("revision", "tree", "paths-info", "preupload", "commit", "branch")


def parse(path):
    """Returns route, name of the data set, and what stands behind."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    if parts[:2] == ["api", "datasets"]:
        route = parts[4] if len(parts) > 4 else "revision"
        return route, "/".join(parts[2:4]), parts[5:] or ["main"]
    if parts[:1] == ["datasets"] and parts[-4:] == ["info", "lfs", "objects", "batch"]:
        return "batch", "/".join(parts[1:3]).removesuffix(".git"), []
    if parts[:1] == ["datasets"] and parts[3:4] == ["resolve"]:
        return "resolve", "/".join(parts[1:3]), [parts[4], "/".join(parts[5:])]
    return "/".join(parts[:2]), None, parts[2:]


@contextmanager
def serve():
    """Yields the endpoint and the hub behind it."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self):
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else self.chunks()
            url = urlsplit(self.path)
            route, name, rest = parse(url.path)
            if route.startswith("lfs/"):
                route, rest = "put", [route[4:]]
            hub.requests.append((self.command, route))
            wrong = next((each for fault in hub.faults if (each := fault(route))), None)
            if wrong is not None:
                if wrong == "lose":
                    self.answer(route, name, rest, url, body)
                if callable(wrong):
                    wrong()
                if not isinstance(wrong, int):
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.reply(wrong, {"Retry-After": "1"}, b'{"error": "told to fail"}')
                return
            self.reply(*self.answer(route, name, rest, url, body))

        do_GET = do_HEAD = do_POST = do_PUT = do

        def chunks(self):
            found = b""
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    found += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            return found

        def answer(self, route, name, rest, url, body):
            writes = self.command != "GET" and self.command != "HEAD" and route != "paths-info"
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            if route != "put":
                if token not in hub.writers | hub.readers:
                    said = "Invalid credentials in Authorization header"
                    return 401, {"X-Error-Message": said}, b"{}"
                if writes and token not in hub.writers:
                    return 403, {"X-Error-Message": "You don't have the rights to write"}, b"{}"
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            host = f"http://{self.headers['Host']}"
            return respond(hub, route, name, rest, query, body, host)

        def reply(self, status, headers, body):
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_):
            pass

        def handle(self):
            try:
                super().handle()
            except (ConnectionError, OSError):  # whoever asked was killed
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer_json(found, headers=()):
    return 200, {"Content-Type": "application/json", **dict(headers)}, json.dumps(found).encode()


def refuse(status, code):
    return status, {"X-Error-Code": code, "X-Error-Message": code}, b""


def respond(hub, route, name, rest, query, body, host):
    if route == "api/validate-yaml":
        licence = "no-such-licence" in json.loads(body)["content"]
        errors = [{"message": '"license" must be one of [...]'}] if licence else []
        status, headers, said = answer_json({"errors": errors, "warnings": []})
        return (400 if errors else status), headers, said
    if route == "api/repos":
        return create(hub, json.loads(body), host)
    if route == "put":
        return store(hub, rest[0], query, body)
    data_set = hub.data_sets.get(name)
    if data_set is None:
        return refuse(404, "RepoNotFound")
    if route == "batch":
        return batch(hub, json.loads(body), host)
    return of_data_set(hub, data_set, route, name, rest, query, body, host)


def create(hub, asked, host):
    assert asked["type"] == "dataset"
    name = f"{asked['organization']}/{asked['name']}"
    if name in hub.data_sets:
        return 409, {}, b'{"error": "You already created this dataset repo"}'
    is_private = asked.get("visibility") == "private" or asked.get("private") is True
    hub.data_sets[name] = new_data_set(is_private)
    return answer_json({"url": f"{host}/datasets/{name}"})


def batch(hub, asked, host):
    objects = []
    for each in asked["objects"]:
        action = {"upload": {"href": f"{host}/lfs/{each['oid']}?{SIGNATURE}"}}
        objects.append(each | ({} if each["oid"] in hub.blobs else {"actions": action}))
    return answer_json({"transfer": "basic", "objects": objects})


def store(hub, oid, query, body):
    assert query, "the address is signed"
    if sha256_of(body) != oid:
        return 400, {}, b'{"error": "the content is not what was announced"}'
    hub.blobs[oid] = body
    hub.put.append(oid)
    return 200, {}, b""


def of_data_set(hub, data_set, route, name, rest, query, body, host):
    if route == "branch":
        data_set.branches[rest[0]] = data_set.branches["main"]
        return answer_json({})
    commit = data_set.branches.get(rest[0], rest[0])
    if commit not in data_set.commits:
        return refuse(404, "RevisionNotFound")
    files = data_set.commits[commit]
    if route == "revision":
        siblings = [{"rfilename": path} for path in files]
        said = {"id": name, "sha": commit, "private": data_set.private, "siblings": siblings}
        return answer_json(said | {"tags": []})
    if route == "tree":
        return tree(files, rest[1:], query, f"{host}/api/datasets/{name}/tree/{rest[0]}")
    if route == "paths-info":
        asked = parse_qs(body.decode())["paths"] if body[:1] != b"{" else json.loads(body)["paths"]
        return answer_json([entry(path, files[path]) for path in asked if path in files])
    if route == "preupload":
        return answer_json({"files": [plan(each, files) for each in json.loads(body)["files"]]})
    if route == "resolve":
        return resolve(files, rest[1], commit)
    assert route == "commit", route
    return make_commit(hub, data_set, rest[0], commit, body, f"{host}/datasets/{name}")


def is_apart(path):
    return path.endswith(APART)


def entry(path, data):
    plain = {"type": "file", "path": path, "size": len(data)}
    if not is_apart(path):
        return plain | {"oid": git_of(data)}
    pointer = b"version https://git-lfs.github.com/spec/v1\n" + sha256_of(data).encode()
    apart = {"oid": sha256_of(data), "size": len(data), "pointerSize": len(pointer)}
    return plain | {"oid": git_of(pointer), "lfs": apart}


def tree(files, below, query, url):
    base = "".join(f"{part}/" for part in below)
    entries = {}
    for path, data in sorted(files.items()):
        if path.startswith(base):
            parts = path[len(base) :].split("/")
            folders = [base + "/".join(parts[:depth]) for depth in range(1, len(parts))]
            for folder in folders if query.get("recursive", "").lower() == "true" else folders[:1]:
                entries[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
            if not folders or query.get("recursive", "").lower() == "true":
                entries[path] = entry(path, data)
    start = int(query.get("cursor", 0))
    page = list(entries.values())[start : start + PAGE]
    more = start + PAGE < len(entries)
    recursive = query.get("recursive", "false")
    following = f'<{url}?recursive={recursive}&cursor={start + PAGE}>; rel="next"'
    return answer_json(page, {"Link": following} if more else {})


def plan(asked, files):
    path = asked["path"]
    mode = "lfs" if is_apart(path) else "regular"
    there = files.get(path)
    oid = None if there is None else sha256_of(there) if mode == "lfs" else git_of(there)
    return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}


def resolve(files, path, commit):
    if path not in files:
        return refuse(404, "EntryNotFound")
    data = files[path]
    found = sha256_of(data) if is_apart(path) else git_of(data)
    return 200, {"ETag": f'"{found}"', "X-Repo-Commit": commit}, data


def make_commit(hub, data_set, branch, parent, body, page):
    lines = [json.loads(line) for line in body.splitlines()]
    header = lines.pop(0)["value"]
    if header.get("parentCommit", parent) != parent:
        return 412, {"X-Error-Message": "A commit has happened since. Please refresh"}, b"{}"
    files = dict(data_set.commits[parent])
    for each in lines:
        value = each["value"]
        if each["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif each["key"] == "lfsFile":
            files[value["path"]] = hub.blobs[value["oid"]]
        else:
            assert each["key"] == "deletedFile"
            del files[value["path"]]
    commit = data_set.add(branch, files)
    hub.sizes.append(len(lines))
    return answer_json({"commitUrl": f"{page}/commit/{commit}", "commitOid": commit})
