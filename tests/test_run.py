import re
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import layout, storage
from pipeline.errors import MismatchError, SourceChangedError, StorageError
from pipeline.plan import Growth, Plan, load_plan
from pipeline.run import Run, check_creates_once, check_frozen, load_run, start_run
from tests.makers import FOLDER, GROUPS, SHARDS, TAR, changed

IDENTITY = {"stage": "encode", "keep": ["txt"], "resolution": 256, "key": None, "dtype": "float32"}
NO_GROWTH = Growth()
FACTS = {"grid": [16, 16], "codebook_size": 1024, "model": "/möbel"}


def run_of(shards, **changes):
    return Run({**IDENTITY, **changes}, FACTS, Plan.of(shards).sha256())


def start(sink, shards=SHARDS, growth=NO_GROWTH, **changes):
    return start_run(str(sink), run_of(shards, **changes), Plan.of(shards), growth)[0]


@pytest.mark.parametrize("field", IDENTITY)
def test_fingerprint_changed_identity_field_differs(field):
    assert run_of(SHARDS, **{field: "other"}).fingerprint != run_of(SHARDS).fingerprint


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
    run = run_of(SHARDS)
    assert replace(run, facts={"created": "later"}).fingerprint == run.fingerprint


def test_run_json_round_trip_keeps_bytes_and_fingerprint():
    run = run_of(SHARDS)
    again = Run.from_json(run.to_json())
    assert again.to_json() == run.to_json()
    assert again.fingerprint == run.fingerprint


def test_start_run_twice_returns_the_first(tmp_path):
    first = start(tmp_path)
    again = Run(IDENTITY, {**FACTS, "created": "later"}, Plan.of(SHARDS).sha256())
    assert start_run(str(tmp_path), again, Plan.of(SHARDS), Growth())[0] == first
    assert load_run(str(tmp_path)).facts == FACTS


def test_start_run_crashed_before_run_json_starts_anew(tmp_path):
    storage.publish(layout.plan_uri(str(tmp_path)), Plan.of([TAR]).to_bytes())
    start(tmp_path)
    assert load_plan(str(tmp_path)).sha256() == Plan.of(SHARDS).sha256()


@pytest.mark.fault(17)
@pytest.mark.parametrize("fields", [("resolution",), ("keep", "dtype"), ("key", "new_field")])
def test_start_run_other_identity_names_exactly_what_differs(tmp_path, fields):
    start(tmp_path)
    before = storage.read(layout.run_uri(str(tmp_path)))
    with pytest.raises(MismatchError) as caught:
        start(tmp_path, **dict.fromkeys(fields, "other"))
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
    check_frozen(str(tmp_path), run, load_plan(str(tmp_path)))
    storage.replace(layout.plan_uri(str(tmp_path)), Plan.of([TAR]).to_bytes())
    with pytest.raises(StorageError):
        check_frozen(str(tmp_path), run, load_plan(str(tmp_path)))


def test_check_creates_once_on_a_file_system_holds_and_changes_nothing(tmp_path):
    run = start(tmp_path)
    before = storage.read(layout.run_uri(str(tmp_path)))
    assert check_creates_once(str(tmp_path), run)
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
