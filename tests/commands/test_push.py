"""`vqpipe push`, in processes of its own, to a server that speaks the hub's routes."""

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import yaml

from tests.hub import data_sets
from tests.sink import sinks
from tests.sink.runs import make_run
from tests.sink.test_card import KEPT, finish
from vqpipe import storage
from vqpipe.commands import cli
from vqpipe.commands import push as push_command
from vqpipe.errors import ConfigError
from vqpipe.schema import File
from vqpipe.sink import parcel
from vqpipe.sink.snapshot import SNAPSHOT, Snapshot

NAME = "org/codes"
SHARDS = 12
READER = "hf_canaryOfAReader"
PUSH = """
import sys, time
from vqpipe.commands import cli, shipment
from vqpipe.sink import parcel
shipment.COMMIT_FILES, shipment._BUNCH_FILES, shipment._READERS = 5, 2, 1
parcel._IN_MEMORY_BYTES = 1_500  # most objects of data/ are larger, and go through files
sleep = time.sleep
time.sleep = lambda seconds: sleep(seconds / 10)
cli.run_to_end(["push", *sys.argv[1:]])
"""
"""With commits so small that a sink of some files takes several, and less patience."""


@pytest.fixture(scope="module")
def sink(tmp_path_factory):
    """A complete sink with rejected samples, a report and what is not to be pushed."""
    return make_sink(tmp_path_factory.mktemp("push") / "codes")


def make_sink(sink, names=None, **how):
    names = names or [f"part{i % 2}/{i:02d}" for i in range(SHARDS)]
    writer = sinks.begin(sink, names, kept=KEPT, **how)
    for index in range(len(names)):
        sinks.commit(writer, index, 4 + index, rejected={1} if index < 2 else ())
    sinks.end(writer)
    finish(writer)
    if Path(str(sink)).is_dir():
        (sink / "report.html").write_text("<html>scores</html>")
        (sink / "staging" / "zz").mkdir(parents=True)
        (sink / "staging" / "zz" / "00000000-00000001.parquet").write_bytes(b"left behind")
        (sink / ".notes").write_text("mine")
    return sink


@pytest.fixture
def hub():
    with data_sets.serve() as (endpoint, hub):
        hub.endpoint = endpoint
        yield hub


def environment(hub, home, token=data_sets.TOKEN, **more):
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    signed = {} if token is None else {"HF_TOKEN": token}
    ours = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",  # whose server is another one
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path[1:]]),
    }
    return plain | signed | ours | more


def start(hub, home, sink, *options, to=f"hf://{NAME}", **how):
    return subprocess.Popen(
        [sys.executable, "-c", PUSH, str(sink), to, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(hub, home, **how),
    )


def finish_push(process, expect=0):
    output, errors = process.communicate(timeout=120)
    printed = output + errors
    assert process.returncode == expect, printed
    assert not re.findall(r"(?m)^.*(?:Warning|Traceback).*$", printed), printed
    for secret in (data_sets.TOKEN, "canary"):
        assert secret not in printed
    return printed


def push(hub, home, sink, *options, expect=0, **how):
    return finish_push(start(hub, home, sink, *options, **how), expect)


def create(hub, home, sink, *options, **how):
    return push(hub, home, sink, "--create", *options, **how)


def files_of(sink):
    """Returns what is to be on the hub but for README.md, by path."""
    paths = [path for path in sink.rglob("*") if path.is_file()]
    found = {path.relative_to(sink).as_posix(): path.read_bytes() for path in paths}
    left = ("staging/", ".notes", "README.md")
    return {name: data for name, data in found.items() if not name.startswith(left)}


def assert_is_pushed(hub, sink, branch="main"):
    files = dict(hub.data_sets[NAME].files(branch))
    card = files.pop("README.md")
    assert files.pop(".gitattributes")
    assert files == files_of(sink)
    assert f'"{NAME}"'.encode() in card
    for data in (card, *files.values()):
        assert b"canary" not in data


READ = """
import datasets, json, sys
from huggingface_hub import snapshot_download
name, folder = sys.argv[1:]
snapshot_download(name, repo_type="dataset", local_dir=folder)
found = []
for place in (name, folder):
    for how in ({}, {"streaming": True}):
        rows = datasets.load_dataset(place, split="train", **how)
        listed = sorted(map(dict, rows), key=lambda row: row["key"])
        found.append([rows.features["label"].names, listed])
print(json.dumps(found))
"""


def test_push_is_the_sink_byte_for_byte_and_datasets_loads_its_rows(hub, tmp_path, sink):
    printed = create(hub, tmp_path, sink, "--license", "cc-by-4.0")
    assert_is_pushed(hub, sink)
    assert f"{hub.endpoint}/datasets/{NAME}" in printed
    assert f'datasets.load_dataset("{NAME}", split="train")' in printed
    assert f"{len(files_of(sink)) + 1} files" in printed
    assert "licence" not in printed
    asked = [NAME, str(tmp_path / "down")]
    done = subprocess.run(
        [sys.executable, "-c", READ, *asked],
        env=environment(hub, tmp_path / "cache"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    truth = pyarrow.dataset.dataset(sink / "data").to_table().sort_by("key").to_pylist()
    for names, rows in json.loads(done.stdout.splitlines()[-1]):
        assert names == ["cat", "dog"]
        assert rows == truth
    assert cli.main(["verify", str(tmp_path / "down")]) == 0
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in left if b"canary" in path.read_bytes()]


def test_push_again_sends_nothing(hub, tmp_path, sink):
    create(hub, tmp_path, sink)
    commit = hub.head(NAME)
    hub.requests.clear()
    printed = push(hub, tmp_path, sink)
    assert hub.head(NAME) == commit
    assert not {route for _, route in hub.requests} & {"put", "batch", "commit"}
    assert "0 files" in printed


def test_push_shows_success_last_and_says_whose_it_is_first(hub, tmp_path, sink):
    create(hub, tmp_path, sink)
    _, first, *_, last = states = list(hub.data_sets[NAME].commits.values())
    assert len(states) > 4
    assert {"run.json", "README.md"} <= first.keys()
    assert [index for index, files in enumerate(states) if "_SUCCESS" in files] == [len(states) - 1]
    assert last.keys() > first.keys()
    assert max(hub.sizes) <= 6


@pytest.mark.parametrize("after", [0, 2])
def test_push_killed_at_a_commit_and_run_again_is_complete(after, hub, tmp_path, sink):
    held = {}
    hub.fail("commit", lambda: held["process"].send_signal(signal.SIGKILL), after=after)
    held["process"] = start(hub, tmp_path, sink, "--create")
    held["process"].communicate(timeout=120)
    assert held["process"].returncode == -signal.SIGKILL
    assert len(hub.data_sets[NAME].commits) == 1 + after
    before = set(hub.put)
    push(hub, tmp_path, sink)
    assert_is_pushed(hub, sink)
    assert before
    assert max(Counter(hub.put).values()) == 1, "nothing was sent twice"


TROUBLE = {
    "before anything is sent": [("revision", 503), ("api/repos", 500), ("tree", "drop")],
    "while files are announced": [("preupload", 429), ("batch", 504), ("preupload", "drop")],
    "while files are sent": [("put", 500), ("put", "drop"), ("put", "lose")],
    "at a commit": [("commit", 503)],
    "at a commit that is not made": [("commit", "drop")],
    "at a commit that is made": [("commit", "lose")],
    "at the last look": [("tree", 502)],
}


LESS = {"before anything is sent", "while files are announced", "at a commit", "at the last look"}
"""What is like the others, and left to `make soak`."""


@pytest.mark.parametrize(
    "when", [pytest.param(when, marks=[pytest.mark.soak] * (when in LESS)) for when in TROUBLE]
)
def test_push_through_trouble_that_passes_makes_each_commit_once(when, hub, tmp_path, sink):
    for route, answer in TROUBLE[when]:
        hub.fail(route, answer, after=6 if when == "at the last look" else 0)
    create(hub, tmp_path, sink)
    assert_is_pushed(hub, sink)
    files = len(files_of(sink)) + 1
    assert sum(hub.sizes) == files
    assert len(hub.sizes) == math.ceil(files / 6)


def other_commit(hub, path, branch="main"):
    data_set = hub.data_sets[NAME]
    data_set.add(branch, data_set.files(branch) | {path: b"somebody's"})


def test_push_beside_somebody_else_stops_and_goes_on_when_asked_again(hub, tmp_path, sink):
    hub.fail("commit", lambda: other_commit(hub, "LICENSE"), after=1)
    printed = create(hub, tmp_path, sink, expect=2)
    assert "somebody else changed org/codes" in printed
    push(hub, tmp_path, sink)
    assert hub.data_sets[NAME].files()["LICENSE"] == b"somebody's"
    assert files_of(sink).items() <= hub.data_sets[NAME].files().items()


def test_push_of_a_commit_that_somebody_was_before_of_stops(hub, tmp_path, sink):
    hub.fail("batch", lambda: other_commit(hub, "LICENSE"), after=2)  # is asked again, and then 412
    assert "run the same command again" in create(hub, tmp_path, sink, expect=2)


def test_push_of_a_sink_that_changes_meanwhile_is_refused_by_name(hub, tmp_path):
    sink = make_sink(tmp_path / "codes")
    path = sink / "data" / "part1" / "11.parquet"  # the last one that is read

    def rewrite():
        rows = pq.read_table(path)
        path.unlink()
        pq.write_table(rows, path)

    hub.fail("commit", rewrite)
    printed = create(hub, tmp_path, sink, expect=3)
    assert "part1/11.parquet is not what it was" in printed
    assert "_SUCCESS" not in hub.data_sets[NAME].files()


def test_push_of_a_damaged_object_is_refused_by_name(hub, tmp_path):
    sink = make_sink(tmp_path / "codes")
    path = sink / "data" / "part0" / "04.parquet"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    assert "part0/04.parquet is damaged" in create(hub, tmp_path, sink, expect=4)
    assert "data/part0/04.parquet" not in hub.data_sets[NAME].files()


@pytest.mark.s3
def test_push_from_a_bucket_is_the_same_and_leaves_nothing_on_the_disk(
    hub, tmp_path, sink, bucket, monkeypatch
):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    for path in [path for path in sink.rglob("*") if path.is_file()]:
        storage.publish(f"{bucket}/a/{path.relative_to(sink).as_posix()}", path.read_bytes())
    create(hub, tmp_path, f"{bucket}/a")
    assert_is_pushed(hub, sink)
    assert not list(scratch.iterdir())


def test_push_to_a_branch_leaves_main_alone(hub, tmp_path, sink):
    hub.data_sets[NAME] = data_sets.new_data_set()
    main = hub.head(NAME)
    assert "no branch 'small'" in push(hub, tmp_path, sink, "--revision", "small", expect=4)
    printed = create(hub, tmp_path, sink, "--revision", "small")
    assert_is_pushed(hub, sink, "small")
    assert hub.head(NAME) == main
    assert f'load_dataset("{NAME}", revision="small", split="train")' in printed
    assert f"{hub.endpoint}/datasets/{NAME}/tree/small" in printed


def test_push_private_makes_a_private_data_set_and_refuses_a_public_one(hub, tmp_path, sink):
    create(hub, tmp_path, sink, "--private")
    assert hub.data_sets[NAME].private
    push(hub, tmp_path, sink, "--private")
    hub.data_sets[NAME].private = False
    assert "is public" in push(hub, tmp_path, sink, "--private", expect=4)


def test_push_takes_what_the_sink_has_no_longer_off_the_hub(hub, tmp_path, sink):
    create(hub, tmp_path, sink)
    other_commit(hub, "rejected/part0/10.parquet")
    push(hub, tmp_path, sink)
    assert_is_pushed(hub, sink)


def refusals(make):
    return pytest.mark.parametrize(("case", "code", "said"), make, ids=[each[0] for each in make])


HELD = [
    ("another run", 3, "holds another run: run "),
    ("other files", 3, "such as train.csv"),
    ("a later state", 3, "an earlier state of the same run"),
    ("a run of something else", 3, "its run.json is none that this version of vqpipe reads"),
]


@refusals(HELD)
def test_push_into_what_holds_something_else_is_refused(case, code, said, hub, tmp_path, sink):
    def files():
        if case == "other files":
            return {"train.csv": b"a,b", "README.md": b"# Mine"}
        if case == "a run of something else":
            return {"run.json": b"{}"}
        if case == "another run":
            return files_of(make_sink(tmp_path / "other", ["a"]))
        later = files_of(sink)
        plan = pq.read_table(io.BytesIO(later["plan.parquet"]))
        raised = pa.array([1] * len(plan), pa.int32())
        at = plan.column_names.index("generation")
        buffer = io.BytesIO()
        pq.write_table(plan.set_column(at, plan.schema.field(at), raised), buffer)
        return later | {"plan.parquet": buffer.getvalue()}

    hub.data_sets[NAME] = data_sets.new_data_set(files=files())
    head = hub.head(NAME)
    assert said in push(hub, tmp_path, sink, expect=code)
    assert hub.head(NAME) == head


def test_push_of_an_incomplete_run_wants_to_be_allowed_and_adds_the_rest_later(hub, tmp_path):
    sink = tmp_path / "codes"
    writer = sinks.begin(sink, ("a", "b"), kept=KEPT)
    sinks.commit(writer, 0, 3)
    finish(writer)
    assert "is not complete" in create(hub, tmp_path, sink, expect=2)
    assert NAME not in hub.data_sets
    create(hub, tmp_path, sink, "--allow-incomplete")
    assert "_SUCCESS" not in hub.data_sets[NAME].files()
    sinks.commit(writer, 1, 3)
    sinks.end(writer)
    finish(writer)
    push(hub, tmp_path, sink)
    assert_is_pushed(hub, sink)


NOT_LET = {
    "nobody is signed in": ({"token": None}, "hf auth login"),
    "the token is none": ({"token": "hf_canaryOfAnother"}, "does not know the token"),
    "the token may only read": ({"token": READER}, "does not let you write"),
    "there is no such data set": ({"options": []}, "--create"),
    "the name cannot be": ({"to": "hf://org/codes--or..not"}, "no name that a data set can have"),
    "the hub is out of reach": ({"endpoint": "http://127.0.0.1:9"}, "out of reach"),
    "the client is told to be offline": ({"HF_HUB_OFFLINE": "1"}, "unset it"),
    "the hub fails on": ({"fault": ("revision", *[503] * 9)}, "run the same command again later"),
    "the hub wants a rest": ({"fault": ("commit", (429, {"Retry-After": "3600"}))}, "in 3,600 s"),
    "a signed address is refused": ({"fault": ("put", *[(403, {})] * 99)}, "run the same command"),
    "the licence is none": ({"options": ["--create", "--license", "no-such-licence"]}, "README.md"),
}


@pytest.mark.parametrize("case", NOT_LET)
def test_push_that_cannot_be_says_why_in_one_line(case, hub, tmp_path, sink):
    how, said = NOT_LET[case]
    how, options = dict(how), how.get("options", ["--create"])
    hub.readers.add(READER)
    hub.endpoint = how.pop("endpoint", hub.endpoint)
    if "fault" in how:
        hub.fail(*how.pop("fault"))
    how.pop("options", None)
    printed = push(hub, tmp_path, sink, *options, expect=4, **how)
    assert said in printed
    assert len([line for line in printed.splitlines() if "files are there" not in line]) == 1


def test_push_of_no_sink_of_codes_says_what_it_is(hub, tmp_path):
    sinks.decode(tmp_path / "images")
    assert "a sink of vqpipe decode" in create(hub, tmp_path, tmp_path / "images", expect=3)
    assert "no run.json" in create(hub, tmp_path, tmp_path / "nothing", expect=4)
    assert not hub.data_sets


def item(path, size=10):
    return parcel.Item(path, File(f"s3://bucket/codes/{path}", size, "1"), None)


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([item(f"data/{i:05d}.parquet") for i in range(10_000)], "codes/data has 10,000 entries"),
        ([item(f"data/{i:05d}/a.parquet") for i in range(10_000)], "codes/data has 10,000"),
        ([item("data/a.parquet", 600 * 10**9)], "data/a.parquet is 600.0 GB large"),
    ],
)
def test_push_of_what_the_hub_does_not_take_is_refused_by_name(items, said):
    run = make_run()
    snapshot = Snapshot("s3://bucket/codes", run, SNAPSHOT.empty_table())
    with pytest.raises(ConfigError, match=said):
        push_command.check_limits(parcel.Parcel(snapshot, tuple(items)))
    fits = [item(f"data/{i % 2}/{i:05d}.parquet") for i in range(19_000)]
    push_command.check_limits(parcel.Parcel(snapshot, tuple(fits)))


@pytest.mark.parametrize(
    ("to", "named", "guess"),
    [
        ("org/codes", "org/codes names", "hf://org/codes"),
        ("https://huggingface.co/datasets/org/codes", "org/codes names", "hf://org/codes"),
        ("hf://codes", "hf://codes names", "hf://org/name"),
        ("hf://user:word@org/codes", "the second argument names", "hf://org/name"),
    ],
)
def test_push_to_what_is_no_data_set_is_refused_before_anything_is_looked_at(
    to, named, guess, tmp_path, capsys
):
    assert cli.main(["push", str(tmp_path), to]) == 4
    said = capsys.readouterr().err
    assert named in said
    assert f"give {guess};" in said
    assert "word" not in said


def test_push_of_no_sink_says_so_to_whom_is_not_signed_in_too(hub, tmp_path):
    said = push(hub, tmp_path, tmp_path / "nothing", expect=4, token=None)
    assert "no run.json" in said


def test_push_keeps_what_somebody_wrote_on_the_hub(hub, tmp_path, sink):
    create(hub, tmp_path, sink)
    files = hub.data_sets[NAME].files()
    card = (
        files["README.md"].decode().replace("tags:", "license: mit\ntags:\n- birds") + "Ask Ada.\n"
    )
    hub.data_sets[NAME].add("main", files | {"README.md": card.encode()})
    printed = push(hub, tmp_path, sink)
    found = hub.data_sets[NAME].files()["README.md"].decode()
    front = yaml.safe_load(found.split("---\n")[1])
    assert front["license"] == "mit"
    assert {"birds", "vqpipe"} <= set(front["tags"])
    assert found.endswith("Ask Ada.\n")
    assert "licence" not in printed
