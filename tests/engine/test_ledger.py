"""What a codec writes down about what it begins."""

import pytest

from vqpipe.engine import ledger
from vqpipe.engine.ledger import WaryLedger
from vqpipe.stages.attempts import Notes


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
    assert book.lines == []


def test_codec_that_was_started_anew_is_wary_for_a_while(monkeypatch):
    monkeypatch.setattr(ledger, "_WARY", 2)
    book = Book()
    book.begin("a")  # by the process before
    wary = WaryLedger(book, is_again=True)
    assert wary.begin("a") == 1
    wary.end("a")
    for table in ("b", "c"):
        assert wary.begin(table) == 0
        wary.end(table)
    assert book.lines[1:] == ["begin a", "end a", "begin b", "end b"]


def test_rows_of_a_table_that_is_written_down_are_too_however_many_there_are(monkeypatch):
    monkeypatch.setattr(ledger, "_WARY", 1)
    book = Book()
    wary = WaryLedger(book, is_again=True)
    wary.begin("table")
    for row in range(5):
        wary.begin(f"row {row}")
        wary.end(f"row {row}")
    assert len(book.lines) == 11
    wary.end("table")
    wary.begin("next")
    assert book.lines[-1] == "end table"


@pytest.mark.parametrize("is_again", [False, True])
def test_ledger_of_codecs_finds_the_killer_one_death_later_at_most(is_again):
    book, deaths = Book(), 0
    wary = WaryLedger(book, is_again=is_again)
    while wary.begin("killer") < 3:
        deaths += 1
        wary = WaryLedger(book, is_again=True)
    assert deaths == 3 + (not is_again)
