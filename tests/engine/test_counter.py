"""What workers have done so far, by machine."""

import pickle

from vqpipe.engine.counter import Counter, Share


def test_counter_knows_what_each_machine_did_and_all_together():
    counter = Counter()
    counter.opened(5, "10.0.0.1/aaaaaa")
    counter.opened(2, "10.0.0.2/bbbbbb")
    counter.add(3, 0.5, "10.0.0.2/bbbbbb")
    counter.add(0, 0.5, "10.0.0.2/bbbbbb")
    found = pickle.loads(pickle.dumps(counter.read()))
    assert found.shares == {"10.0.0.1/aaaaaa": Share(0, 5), "10.0.0.2/bbbbbb": Share(3, 2)}
    assert (found.opened, found.encoded, found.busy_s) == (7, 3, 1.0)


def test_counter_of_a_stage_that_only_reads_names_no_machine():
    counter = Counter()
    counter.moved(4)
    assert counter.read().shares == {}
    assert (counter.read().read, counter.read().opened) == (4, 4)
