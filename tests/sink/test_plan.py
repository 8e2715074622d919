import io
import itertools
import pickle
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from tests.makers import FOLDER, GROUPS, SHARDS, TAR, changed
from vqpipe import storage
from vqpipe.errors import SourceChangedError
from vqpipe.schema import File
from vqpipe.sink import layout
from vqpipe.sink.digest import digest
from vqpipe.sink.growth import Growth
from vqpipe.sink.plan import Plan
from vqpipe.sink.plan_file import load_plan


def test_plan_written_and_loaded_gives_the_same_shards(tmp_path):
    listed = Plan.of(SHARDS)
    storage.publish(layout.plan_uri(str(tmp_path)), listed.to_bytes())
    loaded = load_plan(str(tmp_path))
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
    storage.publish(layout.plan_uri(str(tmp_path)), Plan.of([]).to_bytes())
    assert len(load_plan(str(tmp_path))) == 0


def test_plan_pickled_is_the_same():
    listed = Plan.of(SHARDS)
    assert listed.names
    assert pickle.loads(pickle.dumps(listed)).shards() == listed.shards()


NEW = replace(TAR, name="train/b")
ALL = Growth(extend=True, replace_changed=True)


def grow(before, *shards, growth=ALL):
    return before.grow(Plan.of(shards), growth, "/sink")


def test_grow_with_nothing_new_is_the_same_plan():
    listed = Plan.of(SHARDS)
    assert grow(listed, *SHARDS[::-1]) is listed


def test_grow_takes_in_what_is_new_as_a_generation_of_its_own():
    first = Plan.of(SHARDS)
    second = grow(first, *SHARDS, NEW, growth=Growth(extend=True))
    third = grow(second, *SHARDS, NEW, replace(TAR, name="a"))
    assert third.names == ["a", "b-00001", "images-000000", "train/a", "train/b"]
    assert [third.generation(i) for i in range(5)] == [2, 0, 0, 0, 1]
    assert third.replaced == []
    assert third.first().sha256() == second.first().sha256() == first.sha256()
    assert third.sha256() != Plan.of([*SHARDS, NEW, replace(TAR, name="a")]).sha256()
    assert grow(third, *SHARDS, NEW, replace(TAR, name="a"), growth=Growth()) is third


def test_grow_keeps_what_a_changed_shard_was():
    first, folder = Plan.of(SHARDS), changed(FOLDER, 1, size=9)
    second = grow(first, changed(TAR, size=1), GROUPS, folder)
    third = grow(second, changed(TAR, size=2), GROUPS, folder)
    assert third.shards() == [GROUPS, folder, changed(TAR, size=2)]
    assert [third.generation(i) for i in range(3)] == [0, 1, 2]
    assert [third.name(i) for i in third.replaced] == ["images-000000", "train/a"]
    assert [row["size"] for row in third.earlier(2)] == [2**33, 1]
    assert third.earlier(0) == []
    assert third.first().sha256() == first.sha256()


def test_grow_back_to_what_a_shard_was_is_another_plan():
    first = Plan.of(SHARDS)
    second = grow(first, changed(TAR, size=1), GROUPS, FOLDER)
    third = grow(second, *SHARDS)
    assert third.shards() == first.shards()
    assert [third.generation(i) for i in range(3)] == [0, 0, 2]
    assert len({plan.sha256() for plan in (first, second, third)}) == 3
    assert third.first().sha256() == first.sha256()


def test_grow_written_and_loaded_is_the_same(tmp_path):
    grown = grow(Plan.of(SHARDS), changed(TAR, version="new"), GROUPS, FOLDER, NEW)
    storage.publish(layout.plan_uri(str(tmp_path)), grown.to_bytes())
    loaded = load_plan(str(tmp_path))
    assert loaded.table.equals(grown.table)
    assert loaded.first().sha256() == Plan.of(SHARDS).sha256()


@pytest.mark.parametrize(
    ("shards", "growth", "words"),
    [
        ([*SHARDS, NEW], Growth(), "--extend"),
        ([*SHARDS, NEW], Growth(replace_changed=True), "--extend"),
        ([changed(TAR, size=1), GROUPS, FOLDER], Growth(extend=True), "--replace-changed"),
        ([GROUPS, FOLDER], ALL, "train/a"),
    ],
)
def test_grow_by_what_is_not_allowed_is_refused_with_the_option(shards, growth, words):
    with pytest.raises(SourceChangedError, match=words):
        grow(Plan.of(SHARDS), *shards, growth=growth)


ODD = [
    replace(TAR, name=name, files=(File(f"s3://b/{name}.tar", size, version),))
    for size, (name, version) in enumerate(
        [("ä/\u2028x", "1"), ('q"uo\\te', "tab\t"), ("emoji 😀", "\x7f"), ("z", "2.50")]
    )
]


def grown():
    """Returns a plan that has grown twice, with names that JSON spells in other letters."""
    first = Plan.of([*SHARDS, *ODD])
    folder, new = changed(FOLDER, 1, size=9), replace(TAR, name="new")
    second = grow(first, changed(TAR, size=1), GROUPS, folder, *ODD, new)
    third = grow(second, *SHARDS, *ODD, new, replace(TAR, name="a"))
    return first, second, third


def test_plan_digests_are_those_of_sinks_that_are_there():
    # As the first version of this module worked them out, from lists of all rows.
    assert [plan.sha256() for plan in (Plan.of([]), Plan.of(SHARDS), *grown())] == [
        "00e149988c6d9b583355eaac4ee9f9a95b1794b4e5b889f19d75312769656cb3",
        "23b34a8943b7510c3cd26270116575c40377863371c63813a416a64ae1ca7973",
        "3e572a5de581fade828060083f62f313e7a0916819c26065a27be8f5aff4d391",
        "dab3a04e3c9f85cdb9a5e432d33eb8ae72e4c25598332953ee497d16cc7423e2",
        "e3e03e18784fa1c327f8f1fa65782c7e707a3bfbc8f0fd0b59e31aab698cde17",
    ]
    first, _, third = grown()
    assert third.first().sha256() == first.sha256()


def test_plan_digest_of_many_shards_is_that_of_lists_of_them():
    files = (File(f"s3://b/{i}.tar", i, str(i)) for i in range(70_000))
    plan = Plan.of(replace(TAR, name=f"{i:06d}", files=(file,)) for i, file in enumerate(files))
    names = ("name", "uri", "size", "version", "first_row_group", "last_row_group", "generation")
    assert plan.sha256() == digest([plan.table[name].to_pylist() for name in names])
    assert plan.sha256() == "f009720f939026c0b6be43dd7c929df7988d938517a801fcc46543bcec978469"


def test_is_same_tells_plans_apart_as_their_digests_do():
    plans = [Plan.of([]), Plan.of(SHARDS), *grown(), Plan.of(SHARDS[::-1])]
    for one, other in itertools.product(plans, plans):
        assert one.is_same(other) == (one.sha256() == other.sha256())


def test_folders_are_the_shards_of_single_images():
    assert Plan.of(SHARDS).folders() == [FOLDER]
