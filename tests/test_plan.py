import io
import itertools
import random
import re
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from pipeline import plan, storage
from pipeline.errors import MismatchError, SourceChangedError, StorageError
from pipeline.plan import Plan, Run, Staged
from pipeline.schema import File, Shard

TAR = Shard("train/a", "webdataset", (File("s3://b/train/a.tar", 2**33, "etag-1"),))
GROUPS = Shard("b-00001", "parquet", (File("/d/b.parquet", 7, "1.5"),), row_groups=(0, 3))
FOLDER = Shard(
    "images-000000",
    "folder",
    (File("/d/x/ä.jpg", 3, "1"), File("/d/x/y/b.jpg", 4, "2"), File("/d/x/a.jpg", 5, "3")),
    root="/d/x",
)
SHARDS = (TAR, GROUPS, FOLDER)
IDENTITY = {"stage": "encode", "keep": ["txt"], "resolution": 256, "key": None, "dtype": "float32"}
FACTS = {"grid": [16, 16], "codebook_size": 1024, "model": "/möbel"}


def run_of(shards, **changes):
    return Run({**IDENTITY, **changes}, FACTS, Plan.of(shards).sha256())


def start(sink, shards=SHARDS, **changes):
    return plan.start_run(str(sink), run_of(shards, **changes), Plan.of(shards))


def changed(shard, which=0, **fields):
    files = list(shard.files)
    files[which] = replace(files[which], **fields)
    return replace(shard, files=tuple(files))


def test_plan_written_and_loaded_gives_the_same_shards(tmp_path):
    listed = Plan.of(SHARDS)
    storage.publish(plan.plan_uri(str(tmp_path)), listed.to_bytes())
    loaded = plan.load_plan(str(tmp_path))
    assert [loaded.shard(i) for i in range(len(loaded))] == sorted(SHARDS, key=lambda s: s.name)
    assert loaded.sha256() == listed.sha256()
    assert [loaded.size(i) for i in range(3)] == [7, 12, 2**33]
    assert [loaded.name(i) for i in range(3)] == loaded.names


def test_plan_bytes_are_parquet_with_one_row_a_shard():
    rows = pq.read_table(io.BytesIO(Plan.of(SHARDS).to_bytes())).to_pylist()
    assert [row["name"] for row in rows] == ["b-00001", "images-000000", "train/a"]
    assert (rows[2]["uri"], rows[2]["size"]) == ("s3://b/train/a.tar", 2**33)


def test_plan_of_any_listing_order_is_the_same():
    digests = {Plan.of(order).sha256() for order in itertools.permutations(SHARDS)}
    assert len(digests) == 1


def test_plan_of_nothing_is_loadable(tmp_path):
    storage.publish(plan.plan_uri(str(tmp_path)), Plan.of([]).to_bytes())
    assert len(plan.load_plan(str(tmp_path))) == 0


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
    assert plan.start_run(str(tmp_path), again, Plan.of(SHARDS)) == first
    assert plan.load_run(str(tmp_path)).facts == FACTS


def test_start_run_crashed_before_run_json_starts_anew(tmp_path):
    storage.publish(plan.plan_uri(str(tmp_path)), Plan.of([TAR]).to_bytes())
    start(tmp_path)
    assert plan.load_plan(str(tmp_path)).sha256() == Plan.of(SHARDS).sha256()


@pytest.mark.parametrize("fields", [("resolution",), ("keep", "dtype"), ("key", "new_field")])
def test_start_run_other_identity_names_exactly_what_differs(tmp_path, fields):
    start(tmp_path)
    before = storage.read(plan.run_uri(str(tmp_path)))
    with pytest.raises(MismatchError) as caught:
        start(tmp_path, **dict.fromkeys(fields, "other"))
    assert re.findall(r"^  (\w+):", caught.value.message, re.MULTILINE) == sorted(fields)
    assert storage.read(plan.run_uri(str(tmp_path))) == before


def test_start_run_changed_source_names_the_shards(tmp_path):
    start(tmp_path)
    shards = [changed(TAR, size=1), changed(FOLDER, 2, version="new"), replace(TAR, name="c")]
    with pytest.raises(SourceChangedError) as caught:
        start(tmp_path, shards)
    lines = re.findall(r"^  (\d+) (\w+): (.*)$", caught.value.message, re.MULTILINE)
    assert lines == [
        ("2", "changed", "images-000000, train/a"),
        ("1", "gone", "b-00001"),
        ("1", "new", "c"),
    ]
    assert plan.load_plan(str(tmp_path)).sha256() == Plan.of(SHARDS).sha256()


def test_check_frozen_plan_of_another_run_is_storage_error(tmp_path):
    run = start(tmp_path)
    plan.check_frozen(str(tmp_path), run, plan.load_plan(str(tmp_path)))
    storage.replace(plan.plan_uri(str(tmp_path)), Plan.of([TAR]).to_bytes())
    with pytest.raises(StorageError):
        plan.check_frozen(str(tmp_path), run, plan.load_plan(str(tmp_path)))


def test_check_creates_once_on_a_file_system_holds_and_changes_nothing(tmp_path):
    run = start(tmp_path)
    before = storage.read(plan.run_uri(str(tmp_path)))
    assert plan.check_creates_once(str(tmp_path), run)
    assert storage.read(plan.run_uri(str(tmp_path))) == before


@pytest.mark.parametrize("seed", range(200))
def test_staged_random_ranges_agree_with_a_set_of_rows(seed):
    rng = random.Random(seed)
    total = rng.randrange(12)
    cuts = [sorted(rng.sample(range(total + 1), 2)) for _ in range(rng.randrange(6)) if total]
    ranges = tuple((first, last) for first, last in cuts)
    rows = {row for first, last in ranges for row in range(first, last)}
    staged = Staged(ranges, total)
    assert staged.complete == (rows == set(range(total)))
    assert [row for row in range(-1, total + 2) if staged.holds(row)] == sorted(rows)
    assert not Staged(ranges).complete


@pytest.mark.parametrize("name", ["a", "a/b", "00000000-00000004", "x-of-00000009"])
@pytest.mark.parametrize("ranges", [((0, 4), (4, 9)), ((0, 2**31 - 1),), ((3, 4), (0, 4), (2, 9))])
def test_parse_ranges_of_range_uris_gives_them_back(name, ranges):
    total = max(last for _, last in ranges)
    uris = [plan.range_uri("/s", name, r, total if r[1] == total else None) for r in ranges]
    assert plan.parse_ranges(uris) == Staged(ranges, total)
    assert plan.parse_ranges(uris).complete == (min(ranges)[0] == 0)


def test_parse_ranges_foreign_objects_are_no_ranges():
    assert plan.parse_ranges(["/s/staging/a/notes.txt", "/s/staging/a/x-00000000.parquet"]) == (
        Staged()
    )


def test_staged_shards_with_nested_names_do_not_see_each_other(tmp_path):
    sink = str(tmp_path)
    for name, rows, total in (("a", (0, 4), None), ("a/b", (2, 5), 5), ("a/b/c", (0, 1), 1)):
        storage.publish(plan.range_uri(sink, name, rows, total), b"rows")
    assert plan.staged(sink) == {
        "a": Staged(((0, 4),), None),
        "a/b": Staged(((2, 5),), 5),
        "a/b/c": Staged(((0, 1),), 1),
    }


def test_committed_lists_the_names_of_shards(tmp_path):
    sink = str(tmp_path)
    assert plan.committed(sink) == set()
    assert plan.staged(sink) == {}
    for name in ("a", "a/b", "ü.x"):
        storage.publish(plan.data_uri(sink, name), b"rows")
    (tmp_path / "data" / "notes.txt").write_text("no shard")
    assert plan.committed(sink) == {"a", "a/b", "ü.x"}


@pytest.mark.s3
def test_start_run_and_listings_in_a_bucket_work_as_on_disk(bucket):
    start(bucket + "/run")
    with pytest.raises(MismatchError):
        start(bucket + "/run", resolution=512)
    storage.publish(plan.data_uri(bucket + "/run", "train/a"), b"rows")
    storage.publish(plan.range_uri(bucket + "/run", "b", (0, 2), None), b"rows")
    assert plan.committed(bucket + "/run") == {"train/a"}
    assert plan.staged(bucket + "/run") == {"b": Staged(((0, 2),), None)}
