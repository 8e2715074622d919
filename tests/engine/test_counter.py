"""What workers have done so far, by machine."""

import pickle

from vqpipe.engine.counter import Counter, Share
from vqpipe.engine.laggards import Laggards
from vqpipe.occupancy import Spent


def test_counter_knows_what_each_machine_did_and_all_together():
    counter = Counter()
    counter.opened(5, Spent(open_s=1), "10.0.0.1/aaaaaa")
    counter.opened(2, Spent(open_s=1), "10.0.0.2/bbbbbb")
    counter.add(3, Spent(codec_s=0.5), "10.0.0.2/bbbbbb")
    counter.add(0, Spent(codec_s=0.5), "10.0.0.2/bbbbbb")
    found = pickle.loads(pickle.dumps(counter.read()))
    assert found.shares == {"10.0.0.1/aaaaaa": Share(0, 5), "10.0.0.2/bbbbbb": Share(3, 2)}
    assert (found.opened, found.encoded, found.spent) == (7, 3, Spent(open_s=2, codec_s=1))


def test_counter_of_a_stage_that_only_reads_names_no_machine():
    counter = Counter()
    counter.moved(4)
    assert counter.read().shares == {}
    assert (counter.read().read, counter.read().opened) == (4, 4)


def test_counter_gives_late_shards_to_those_who_have_nothing_left_until_all_are_committed():
    counter = Counter(Laggards(factor=2, least_s=0))
    counter.hand_out(list(range(6)), [1] * 6, "a")
    for shard in range(5):
        counter.began(shard)
    assert counter.read(range(5)).laggards == ()
    counter.began(5)
    assert counter.again("a") == -1  # it has that one itself
    while (given := counter.again("b")) == -1:
        pass
    assert given == 5
    (late,) = {(each.shard, each.again_on) for each in counter.read().laggards if each.again_on}
    assert late == (5, "b")
    assert counter.read([5]).laggards[-1].node == "a"
    assert counter.again("b") is None
