"""Which shards are late, by arithmetic on a clock of the test's own."""

import pytest

from vqpipe.engine.laggards import Laggards

MB = 10**6


def laggards(count, took_s=10.0, nodes=2):
    """Returns what is known after so many shards of a megabyte, each of which took so long."""
    found = Laggards(factor=4, least_s=60)
    for shard in range(count):
        found.hand_out([shard], [MB], f"node {shard % nodes}")
        found.begin(shard, 0.0)
        found.commit([shard], took_s)
    return found


def begin(found, shard, node="node 0", size=MB, at=0.0):
    found.hand_out([shard], [size], node)
    found.begin(shard, at)


def test_nothing_is_late_before_some_are_committed():
    found = laggards(4)
    begin(found, 9)
    found.look(10_000)
    assert found.found == []
    assert found.again("node 1", 10_000) is None


@pytest.mark.parametrize(("took_s", "late_s"), [(1.0, 60.0), (10.0, 60.0), (100.0, 400.0)])
def test_shard_is_late_after_four_times_the_usual_and_a_minute_at_least(took_s, late_s):
    found = laggards(5, took_s)
    begin(found, 9)
    found.look(late_s)
    assert found.found == []
    found.look(late_s + 1)
    assert [late.shard for late in found.found] == [9]
    (late,) = found.found
    assert (late.seconds, late.usual_s, late.node, late.again_on) == (
        late_s + 1,
        took_s,
        "node 0",
        None,
    )


def test_larger_shard_is_given_more_time_and_a_smaller_one_no_less():
    found = laggards(5, took_s=100.0)
    begin(found, 8, size=10 * MB)
    begin(found, 9, size=1)
    assert found.again("node 1", 4000) == 9
    assert found.again("node 1", 4000) is None
    assert found.again("node 1", 4001) == 8


def test_late_shard_goes_to_another_node_once_and_is_said_to():
    found = laggards(5)
    begin(found, 9)
    assert found.again("node 0", 100) is None
    assert found.again("node 1", 100) == 9
    assert [late.again_on for late in found.found] == ["node 1"]
    assert found.again("node 2", 100) is None


def test_shard_that_is_late_again_is_done_three_times_in_all():
    found = laggards(5)
    begin(found, 9)
    given = [found.again(f"node {i}", 100.0 * i) for i in range(1, 6)]
    assert given == [9, 9, None, None, None]


def test_shards_behind_a_late_one_are_given_away_after_it():
    found = laggards(5)
    found.hand_out([7, 8, 9], [MB] * 3, "node 0")
    found.begin(7, 0)
    assert [found.again("node 1", 100) for _ in range(4)] == [7, 8, 9, None]
    found.begin(8, 101)  # the first task goes on after all
    found.commit([8], 102)
    assert found.again("node 1", 120) is None


def test_shards_behind_one_that_is_in_time_stay_where_they_are():
    found = laggards(5)
    found.hand_out([7, 8], [MB] * 2, "node 0")
    found.begin(7, 50)
    assert found.again("node 1", 100) is None


def test_committed_shard_is_never_given_away():
    found = laggards(5)
    begin(found, 9)
    found.commit([9], 100)
    assert found.again("node 1", 1000) is None
    found.hand_out([9], [MB], "node 0")  # its task is done again, after a death
    found.begin(9, 1000)
    found.look(9999)
    assert found.found == []


def test_shard_begun_anew_after_a_death_has_its_time_from_then_on():
    found = laggards(5)
    begin(found, 9, at=0)
    begin(found, 9, node="node 2", at=90)
    assert found.again("node 1", 100) is None
    assert found.again("node 1", 151) == 9


def test_usual_time_is_that_of_the_last_ones():
    found = laggards(1000, took_s=1.0)
    for shard in range(1000, 1200):
        begin(found, shard, at=0)
        found.commit([shard], 50.0)
    assert found.usual_s(MB) == 50.0


def test_shard_that_is_read_to_its_end_is_late_no_more_and_all_is_over():
    found = laggards(5)
    begin(found, 9)
    assert not found.is_over
    found.end(9)
    assert found.is_over
    assert found.is_read(9)
    found.look(1000)
    assert found.found == []
    assert found.again("node 1", 1000) is None


def test_shard_that_another_has_read_is_known_to_be():
    found = laggards(5)
    begin(found, 9)
    assert found.again("node 1", 100) == 9
    assert not found.is_read(9)
    found.end(9)
    assert found.is_read(9)
    assert found.is_read(3)
