import functools
import re
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.makers import FOLDER, GROUPS, SHARDS, TAR, changed
from tests.sink.runs import IDENTITY, facts_of_codes, make_run
from tests.storage.intercept import Amid
from vqpipe import storage
from vqpipe.code_layout import CodeLayout
from vqpipe.errors import ConfigError, MismatchError, SourceChangedError, StorageError
from vqpipe.sink import layout
from vqpipe.sink.growth import Growth
from vqpipe.sink.plan import Plan
from vqpipe.sink.plan_file import find_plan, load_plan
from vqpipe.sink.run import (
    check_creates_once,
    check_frozen,
    find_run,
    load_run,
    open_sink,
    parse_run,
)
from vqpipe.sink.start import start_run

OTHER = {
    "keep": ["other"],
    "resolution": 512,
    "background": [0, 0, 0],
    "max_pixels": 1,
    "eager": True,
}
"""Another value of each field whose value is no text."""
NO_GROWTH = Growth()
FACTS = {**facts_of_codes(CodeLayout.grid(16, 16, 1024)), "model": "/möbel"}


def run_of(shards, facts=(), **changes):
    return make_run(plan_sha256=Plan.of(shards).sha256(), facts=FACTS | dict(facts), **changes)


def start(sink, shards=SHARDS, growth=NO_GROWTH, **changes):
    return start_run(str(sink), run_of(shards, **changes), Plan.of(shards), growth).run


@pytest.mark.parametrize("field", IDENTITY["encode"])
def test_fingerprint_changed_identity_field_differs(field):
    other = OTHER.get(field, "other")
    assert run_of(SHARDS, **{field: other}).fingerprint != run_of(SHARDS).fingerprint


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(changed(shard, which, **fields), id=f"{shard.name}-{which}-{fields}")
        for shard in SHARDS
        for which in range(len(shard.files))
        for fields in ({"size": 1}, {"version": "new"}, {"uri": "/elsewhere"})
    ]
    + [replace(GROUPS, row_groups=groups) for groups in (None, (0, 2), (1, 3))]
    + [replace(FOLDER, files=FOLDER.files[::-1]), replace(TAR, name="train/b")],
)
def test_fingerprint_changed_shard_differs(other):
    named = {shard.name: shard for shard in SHARDS}
    named.pop("train/a" if other.name == "train/b" else other.name)
    shards = [*named.values(), other]
    assert run_of(shards).fingerprint != run_of(SHARDS).fingerprint


def test_fingerprint_other_facts_stays():
    later = run_of(SHARDS, facts={"created": "later"})
    assert later.fingerprint == run_of(SHARDS).fingerprint


def test_run_json_round_trip_keeps_bytes_and_fingerprint():
    run = run_of(SHARDS)
    again = parse_run(run.to_json(), "sink")
    assert again.to_json() == run.to_json()
    assert again.fingerprint == run.fingerprint


def test_start_run_twice_returns_the_first(tmp_path):
    first = start(tmp_path)
    again = run_of(SHARDS, facts={"created": "later"})
    assert start_run(str(tmp_path), again, Plan.of(SHARDS), Growth()).run == first
    assert load_run(str(tmp_path)).facts == run_of(SHARDS).facts


def test_start_run_crashed_before_run_json_starts_anew(tmp_path):
    listed = Plan.of([TAR])
    storage.publish(layout.first_plan_uri(str(tmp_path), listed.sha256()), listed.to_bytes())
    start(tmp_path)
    assert load_plan(str(tmp_path)).sha256() == Plan.of(SHARDS).sha256()


def test_start_run_crashed_before_plan_parquet_goes_on_from_the_first_plan(tmp_path):
    start(tmp_path)
    (tmp_path / "plan.parquet").unlink()
    assert load_plan(str(tmp_path)).sha256() == Plan.of(SHARDS).sha256()
    assert find_plan(str(tmp_path)) is not None
    with pytest.raises(SourceChangedError):
        start(tmp_path, [*SHARDS, replace(TAR, name="c")])
    start(tmp_path)
    assert Plan(pq.read_table(tmp_path / "plan.parquet")).sha256() == Plan.of(SHARDS).sha256()


def test_start_run_without_any_plan_left_says_what_to_bring_back(tmp_path):
    run = start(tmp_path)
    first = layout.first_plan_uri(str(tmp_path), run.plan_sha256)
    (tmp_path / "plan.parquet").unlink()
    storage.delete(first)
    for command in (start, load_plan):
        with pytest.raises(StorageError, match=first):
            command(str(tmp_path))


@pytest.mark.parametrize("verb", ["publish", "read"])
def test_start_run_twice_at_once_with_other_sources_agrees_on_one(tmp_path, verb):
    """Whatever the later one does, the earlier one's plan and work stay."""
    sink, more = str(tmp_path), [*SHARDS, replace(TAR, name="c")]
    before = []

    def first():
        before.append(start(sink))
        storage.publish(layout.data_uri(sink, "train/a"), b"days of work")

    uri = layout.run_uri(sink)
    with Amid(verb, uri, first), pytest.raises(SourceChangedError, match="1 new: c"):
        start(sink, more)
    assert load_run(sink) == before[0]
    check_frozen(open_sink(sink, before[0]))
    assert load_plan(sink).sha256() == Plan.of(SHARDS).sha256()
    assert start(sink) == before[0]
    assert start(sink, more, Growth(extend=True)) == before[0]
    assert len(load_plan(sink)) == 4


def test_start_run_that_grows_a_plan_beside_another_loses_nothing(tmp_path):
    sink = str(tmp_path)
    start(sink)
    b, c = (replace(TAR, name=name) for name in "bc")
    growth = Growth(extend=True, replace_changed=True)
    other = functools.partial(start, sink, [*SHARDS, b], growth)
    with Amid("replace_if", layout.plan_uri(sink), other):
        start(sink, [*SHARDS, b, c], growth)
    plan = load_plan(sink)
    assert dict(zip(plan.names, plan.table["generation"].to_pylist(), strict=True)) == {
        "b": 1, "b-00001": 0, "c": 2, "images-000000": 0, "train/a": 0,
    }  # fmt: skip


@pytest.mark.fault(17)
@pytest.mark.parametrize("fields", [("resolution",), ("keep", "dtype"), ("key", "new_field")])
def test_start_run_other_identity_names_exactly_what_differs(tmp_path, fields):
    start(tmp_path)
    before = storage.read(layout.run_uri(str(tmp_path)))
    with pytest.raises(MismatchError) as caught:
        start(tmp_path, **{field: OTHER.get(field, "other") for field in fields})
    assert re.findall(r"^  (\w+):", caught.value.message, re.MULTILINE) == sorted(fields)
    assert storage.read(layout.run_uri(str(tmp_path))) == before


def test_start_run_changed_source_names_the_shards(tmp_path):
    start(tmp_path)
    shards = [changed(TAR, size=1), changed(FOLDER, 2, version="new"), replace(TAR, name="c")]
    with pytest.raises(SourceChangedError) as caught:
        start(tmp_path, shards)
    lines = re.findall(r"^  (\d+) (\w+): (.*)$", caught.value.message, re.MULTILINE)
    assert lines == [
        ("1", "new", "c"),
        ("2", "changed", "images-000000, train/a"),
        ("1", "gone", "b-00001"),
    ]
    assert load_plan(str(tmp_path)).sha256() == Plan.of(SHARDS).sha256()


def test_start_run_beside_a_plan_of_something_else_is_a_mismatch(tmp_path):
    start(tmp_path)
    pq.write_table(pa.table({"name": ["a"]}), tmp_path / "plan.parquet")
    with pytest.raises(MismatchError, match=re.escape("plan.parquet")):
        start(tmp_path)


def test_check_frozen_plan_of_another_run_is_storage_error(tmp_path):
    run = start(tmp_path)
    check_frozen(open_sink(str(tmp_path), run))
    storage.replace(layout.plan_uri(str(tmp_path)), Plan.of([TAR]).to_bytes())
    with pytest.raises(StorageError):
        check_frozen(open_sink(str(tmp_path), run))


def test_check_creates_once_on_a_file_system_holds_and_changes_nothing(tmp_path):
    run = start(tmp_path)
    before = storage.read(layout.run_uri(str(tmp_path)))
    assert check_creates_once(open_sink(str(tmp_path), run))
    assert storage.read(layout.run_uri(str(tmp_path))) == before


@pytest.mark.s3
def test_start_run_and_listings_in_a_bucket_work_as_on_disk(bucket):
    start(bucket + "/run")
    with pytest.raises(MismatchError):
        start(bucket + "/run", resolution=512)
    storage.publish(layout.data_uri(bucket + "/run", "train/a"), b"rows")
    storage.publish(layout.range_uri(bucket + "/run", "b", (0, 2), None), b"rows")
    assert layout.list_committed(bucket + "/run").keys() == {"train/a"}
    assert layout.list_staged(bucket + "/run").keys() == {"b"}


def test_start_in_a_place_that_has_other_files_is_refused(base):
    storage.publish(f"{base}/data/mine.parquet", b"somebody's own")

    with pytest.raises(ConfigError, match=r"no empty place: .*mine\.parquet is there"):
        start(base)

    assert find_run(base) is None
    assert storage.read(f"{base}/data/mine.parquet") == b"somebody's own"


def test_start_in_a_place_that_has_something_beside_data_is_fine(base):
    storage.publish(f"{base}/notes.txt", b"mine")
    storage.publish(f"{base}/data/notes.txt", b"mine")

    start(base)

    assert find_run(base) is not None
