"""What workers have done so far, by machine."""

import pickle

from vqpipe.engine.counter import Counter, Share
from vqpipe.engine.laggards import Laggards
from vqpipe.engine.report import Ended, Report
from vqpipe.occupancy import Spent


def test_counter_knows_what_each_machine_did_and_all_together():
    counter = Counter()
    counter.tell(Report(opened=5, spent=Spent(open_s=1)), "10.0.0.1/aaaaaa")
    counter.tell(Report(opened=2, spent=Spent(open_s=1)), "10.0.0.2/bbbbbb")
    counter.tell(Report(encoded=3, spent=Spent(codec_s=0.5)), "10.0.0.2/bbbbbb")
    counter.tell(Report(spent=Spent(codec_s=0.5)), "10.0.0.2/bbbbbb")
    found = pickle.loads(pickle.dumps(counter.read()))
    assert found.shares == {"10.0.0.1/aaaaaa": Share(0, 5), "10.0.0.2/bbbbbb": Share(3, 2)}
    assert (found.opened, found.encoded, found.spent) == (7, 3, Spent(open_s=2, codec_s=1))


def test_counter_of_a_stage_that_only_reads_names_no_machine():
    counter = Counter()
    counter.tell(Report(read=4, opened=4), "")
    assert counter.read().shares == {}
    assert (counter.read().read, counter.read().opened) == (4, 4)


def test_counter_gives_late_shards_to_those_who_have_nothing_left_until_all_are_committed():
    counter = Counter(Laggards(factor=2, least_s=0))
    counter.hand_out(list(range(6)), [1] * 6, "a")
    for shard in range(5):
        counter.begin_shard((shard, f"read {shard}", None))
    assert counter.read(range(5)).laggards == ()
    counter.begin_shard((5, "read 5", None))
    assert counter.again("a") == -1  # it has that one itself
    while (given := counter.again("b")) == -1:
        pass
    assert given == 5
    (late,) = {(each.shard, each.again_on) for each in counter.read().laggards if each.again_on}
    assert late == (5, "b")
    assert counter.read([5]).laggards[-1].node == "a"
    assert counter.again("b") is None


def test_counter_knows_which_shards_are_read_to_their_end_and_at_which_a_process_died():
    counter = Counter()
    counter.hand_out([0, 1, 2, 3], [1] * 4, "a")
    assert [counter.begin_shard((shard, f"read {shard}", None)) for shard in range(3)] == [0, 0, 0]
    counter.end_shard(Ended(0, "read 0", True, Report(read=4, spent=Spent(read_s=2)), "a"))
    ended = Ended(1, "read 1", False, Report(read=1, spent=Spent(read_s=1)), "a")
    assert counter.begin_shard((3, "read 3", ended)) == 0
    assert [counter.is_read(shard) for shard in range(3)] == [True, False, False]
    assert [counter.begin_shard((shard, f"read {shard}", None)) for shard in range(3)] == [0, 0, 1]
    assert (counter.read().read, counter.read().spent) == (5, Spent(read_s=3))


def test_counter_tells_a_codec_that_is_started_anew_so():
    counter = Counter()
    assert [counter.join(name, "cpu", 0.5) for name in ("a", "b", "a")] == [False, False, True]
    assert counter.read().codecs == 2


def test_counter_begins_to_count_failures_anew_once_a_codec_encodes():
    counter = Counter()
    for _ in range(2):
        counter.fail("a", "no device")
    counter.tell(Report(spent=Spent(codec_s=1)), "node")
    assert counter.read().failures == 2
    counter.tell(Report(encoded=1), "node")
    assert counter.read().failures == 0
    counter.fail("a", "no device")
    assert counter.read().failures == 1
