from dataclasses import replace

import pytest

from tests.sink.runs import start, tar_shard
from vqpipe.sink import layout
from vqpipe.sink.footer import ORIGIN, parse_footer
from vqpipe.sink.growth import Growth
from vqpipe.sink.plan import Plan
from vqpipe.sink.slot import Attempt, Slot
from vqpipe.sink.start import start_run


@pytest.fixture
def writer(tmp_path):
    """The writer of a plan whose shard `a` has changed since, and `c` has come; `b` is revised."""
    first = start(tmp_path, names=("a", "b"))
    listed = Plan.of([tar_shard("a", version="2"), tar_shard("b"), tar_shard("c")])
    growth = Growth(extend=True, replace_changed=True)
    sink = start_run(first.sink.uri, first.sink.run, listed, growth)
    return replace(first, sink=sink, attempt=Attempt("again", {1: 3}, 5, "13"))


def test_slot_says_which_object_is_made_of_each_shard(writer):
    slots = [writer.slot(index) for index in range(3)]
    assert [slot.name for slot in slots] == ["a", "b", "c"]
    assert [slot.order for slot in slots] == [(1, 0), (0, 3), (1, 0)]
    assert [slot.edition for slot in slots] == ["g1", "r3tagain", "g1"]
    assert [slot.attempt for slot in slots] == [None, writer.attempt, None]


def test_slot_of_what_was_changed_or_is_revised_replaces_and_a_new_one_does_not(writer):
    assert [writer.slot(index).replaces for index in range(3)] == [True, True, False]


def test_slot_stages_rows_where_its_own_edition_is_looked_for(writer):
    uris = [writer.slot(index).range_uri((0, 4), 9, is_cut=True) for index in range(3)]
    name = "00000000-00000004-cut-00000009"
    assert uris[1] == f"{writer.sink.uri}/staging/b/{name}.r3tagain.parquet"
    for index, uri in enumerate(uris):
        slot = writer.slot(index)
        assert uri.startswith(slot.staging_uri + "/")
        assert layout.parse_ranges([uri], slot.edition).total == 9
        assert not layout.is_used_up(uri, (slot.generation, slot.order[1] - 1))
        assert layout.is_used_up(uri, slot.order)


@pytest.mark.parametrize(
    ("said", "is_current"),
    [
        ({}, True),
        ({"revision": 7}, True),
        ({"generation": 0}, False),
        ({"fingerprint": "other"}, False),
        ({"source": {"uri": "s3://photos/a.tar", "size": 100, "version": "1"}}, False),
    ],
)
def test_slot_takes_only_objects_of_its_run_and_version_for_current(writer, said, is_current):
    slot = Slot(writer.sink, 0)
    footer = replace(parse_footer({ORIGIN.encode(): b"{}"}), origin={**slot.origin, **said})
    assert slot.is_current(footer) == is_current
