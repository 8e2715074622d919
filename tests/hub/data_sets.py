"""A server that speaks the routes of the Hugging Face hub by which data sets are written and read.

It keeps what a hub keeps: commits that stand on one another, and large files by their SHA-256.
"""

import base64
import hashlib
import json
import socket
import threading
from contextlib import contextmanager, suppress
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
        """Has requests of a route answered otherwise, one after the other.

        With a status, or one and headers; by `drop`, which closes the connection, or `lose`, which
        does what is asked before; or by a call of a function, and the connection is closed then.
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


READ = ("revision", "tree", "paths-info", "resolve")


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
    if parts[0] == "lfs":
        return "put", None, parts[1:]
    return "/".join(parts[:2]), None, parts[2:]


class Handler(BaseHTTPRequestHandler):
    disable_nagle_algorithm = True  # else each answer takes 40 ms
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.take()

    def do_HEAD(self):
        self.take()

    def do_POST(self):
        self.take()

    def do_PUT(self):
        self.take()

    def take(self):
        hub, url, body = self.server.hub, urlsplit(self.path), self.read_body()
        route, name, rest = parse(url.path)
        hub.requests.append((self.command, route))
        wrong = next((each for fault in hub.faults if (each := fault(route))), None)
        if isinstance(wrong, tuple | int):
            status, *headers = wrong if isinstance(wrong, tuple) else (wrong, {"Retry-After": "0"})
            self.reply(status, *headers, b'{"error": "told to fail"}')
            return
        if wrong in {None, "lose"}:
            answered = self.answer(route, name, rest, url, body)
            if wrong is None:
                self.reply(*answered)
                return
        elif callable(wrong):
            wrong()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def answer(self, route, name, rest, url, body):
        refused = self.refuse_stranger(route)
        if refused:
            return refused
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        host = f"http://{self.headers['Host']}"
        return respond(self.server.hub, route, name, rest, query, body, host)

    def refuse_stranger(self, route):
        hub = self.server.hub
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if route == "put":  # whoever has the address may
            return None
        if token not in hub.writers | hub.readers:
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b"{}"
        if route not in READ and token not in hub.writers:
            return 403, {"X-Error-Message": "You don't have the rights to write"}, b"{}"
        return None

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
        with suppress(OSError):  # whoever asked was killed
            super().handle()


@contextmanager
def serve():
    """Yields the endpoint and the hub behind it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub, server.daemon_threads = Hub(), True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer_json(found, headers=()):
    return 200, {"Content-Type": "application/json", **dict(headers)}, json.dumps(found).encode()


def refuse(status, code):
    return status, {"X-Error-Code": code, "X-Error-Message": code}, b""


def respond(hub, route, name, rest, query, body, host):
    if name is None:
        return respond_outside(hub, route, rest, query, body, host)
    data_set = hub.data_sets.get(name)
    if data_set is None:
        return refuse(404, "RepoNotFound")
    if route == "batch":
        return batch(hub, json.loads(body), host)
    if route == "branch":
        data_set.branches[rest[0]] = data_set.branches["main"]
        return answer_json({})
    commit = data_set.branches.get(rest[0], rest[0])
    if commit not in data_set.commits:
        return refuse(404, "RevisionNotFound")
    page = f"{host}/datasets/{name}"
    if route == "commit":
        return make_commit(hub, data_set, rest[0], commit, body, page)
    return of_files(data_set, name, commit, route, rest, query, body, host)


def respond_outside(hub, route, rest, query, body, host):
    if route == "put":
        return store(hub, rest[0], query, body)
    if route == "api/validate-yaml":
        return validate(json.loads(body)["content"])
    assert route == "api/repos", route
    return create(hub, json.loads(body), host)


def validate(card):
    if "no-such-licence" not in card:
        return answer_json({"errors": [], "warnings": [{"message": "no language"}]})
    said = {"errors": [{"message": '"license" must be one of [...]'}], "warnings": []}
    return 400, {}, json.dumps(said).encode()


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


def of_files(data_set, name, commit, route, rest, query, body, host):
    files = data_set.commits[commit]
    if route == "revision":
        siblings = [{"rfilename": path} for path in files]
        said = {"id": name, "sha": commit, "private": data_set.private, "siblings": siblings}
        return answer_json(said | {"tags": []})
    if route == "tree":
        return tree(files, rest[1:], query, f"{host}/api/datasets/{name}/tree/{rest[0]}")
    if route == "paths-info":
        asked = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
        return answer_json([entry(path, files[path]) for path in asked if path in files])
    if route == "preupload":
        return answer_json({"files": [plan(each, files) for each in json.loads(body)["files"]]})
    assert route == "resolve", route
    return resolve(files, rest[1], commit)


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
