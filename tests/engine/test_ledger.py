"""What workers write down about what they begin, and what becomes of it when nobody answers."""

import functools

import pyarrow as pa
import pytest
import ray

from tests.engine.counters import Direct
from tests.stages.test_attempts import ITEM, die_at_bad, encode_with_deaths, images
from tests.stages.test_encode import pixels_table
from vqpipe.engine import ledger
from vqpipe.engine.ledger import RemoteLedger, WaryLedger
from vqpipe.engine.pace import Pace
from vqpipe.engine.report import Ended, Report
from vqpipe.stages.attempts import Notes, run_bounded


class Book(Notes):
    """A ledger that remembers what was written in it."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def begin(self, what):
        self.lines.append(f"begin {what}")
        return super().begin(what)

    def end(self, what):
        self.lines.append(f"end {what}")
        super().end(what)


def test_codec_whose_process_never_died_writes_nothing_down():
    book = Book()
    wary = WaryLedger(book, is_again=False)
    for table in ("a", "b"):
        assert wary.begin(table) == 0
        wary.end(table)
        wary.pass_table()
    assert book.lines == []


def test_codec_that_was_started_anew_is_wary_for_some_tables(monkeypatch):
    monkeypatch.setattr(ledger, "_WARY", 2)
    book = Book()
    book.begin("a")  # by the process before
    wary = WaryLedger(book, is_again=True)
    assert wary.begin("a") == 1
    wary.end("a")
    wary.pass_table()
    for table in ("b", "c"):
        assert wary.begin(table) == 0
        wary.end(table)
        wary.pass_table()
    assert book.lines[1:] == ["begin a", "end a", "begin b", "end b"]


def test_part_that_was_written_down_is_so_to_its_end(monkeypatch):
    monkeypatch.setattr(ledger, "_WARY", 1)
    book = Book()
    wary = WaryLedger(book, is_again=True)
    wary.begin("part of one")
    wary.pass_table()  # another table, of two at a time
    wary.end("part of one")
    assert book.lines == ["begin part of one", "end part of one"]


def live(table, run, book, deaths, *, batch_size, is_wary):
    """Does a table as a codec's actor does; one that is wary writes nothing in its first life."""
    noted = WaryLedger(book, is_again=deaths > 0) if is_wary else book
    work = functools.partial(run_bounded, run=run, ledger=noted, item=ITEM)
    return pa.concat_tables(Pace(batch_size, lambda rows: rows).parts(table, work))


@pytest.mark.parametrize("batch_size", [1, 4, 16])
@pytest.mark.parametrize(("killer", "before"), [(0, "good"), (100, "good"), (100, "rejected")])
def test_codec_finds_the_killer_a_death_later_wherever_it_is(killer, before, batch_size):
    pictures = images(130, {killer})
    table = pixels_table(pictures)
    if before == "rejected":  # which cost nothing, and are done one batch after the other
        said = [None] * 130
        said[:killer] = ["corrupt"] * killer
        table = table.set_column(
            table.schema.get_field_index("reason"),
            "reason",
            pa.array(said, table.schema.field("reason").type),
        )
        at = table.schema.get_field_index(ITEM.column)
        items = table[ITEM.column].to_pylist()
        items[:killer] = [None] * killer
        table = table.set_column(
            at, table.schema.field(at), pa.array(items, table.schema.field(at).type)
        )
    ways = (functools.partial(live, batch_size=batch_size, is_wary=each) for each in (True, False))
    found, deaths = encode_with_deaths(table, die_at_bad, 40, next(ways))
    always, fewest = encode_with_deaths(table, die_at_bad, 40, next(ways))
    assert found.to_pylist() == always.to_pylist()
    assert found["reason"].to_pylist()[killer] == "codec_crashed"
    assert found["reason"].to_pylist().count("codec_crashed") == 1
    assert deaths == fewest + 1


def test_counter_that_does_not_answer_once_knows_of_all_shards_all_the_same(monkeypatch):
    counter, answers = Direct(), iter([True, False])

    def get(answer, timeout):
        assert timeout > 0
        if next(answers, False):
            return answer
        raise ray.exceptions.GetTimeoutError("on purpose")

    monkeypatch.setattr(ledger.ray, "get", get)
    told = RemoteLedger(counter)
    counter.real.hand_out([0, 1, 2, 3], [1] * 4, "a")
    for shard in range(4):
        assert told.begin_shard(shard, f"read {shard}") == 0
        told.end_shard(Ended(shard, f"read {shard}", True, Report(read=2), "a"))
    assert counter.real.again("b") is None, "nothing is left that a spare task waits for"
    assert counter.real.read().read == 8
    assert [counter.real.begin(f"read {shard}") for shard in range(4)] == [0] * 4
