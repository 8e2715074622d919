import itertools
from types import SimpleNamespace

import pyarrow as pa
import pytest

from pipeline import cluster, tasks, watchdog
from pipeline.errors import NoProgressError
from pipeline.images import Preprocess, open_images
from pipeline.stages import open_rows
from pipeline.tasks import Counts, open_views
from tests.test_stages import eight, read

__all__ = ["eight"]  # a fixture


class Head:
    def check(self):
        pass


@pytest.fixture
def alone(monkeypatch):
    """A graph that hands nothing on, a cluster without anything, and a clock of whole seconds."""
    seconds = itertools.count()
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    monkeypatch.setattr(watchdog, "_pump", lambda *_: None)
    monkeypatch.setattr(watchdog, "_POLL_S", 0.001)
    monkeypatch.setattr(cluster, "Head", Head)
    monkeypatch.setattr(cluster, "resources", dict)
    monkeypatch.setattr(cluster, "free_resources", dict)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("field", ["encoded", "opened", "read"])
def test_watch_images_that_are_opened_or_encoded_are_progress_and_those_read_are_not(
    monkeypatch, field
):
    polls = (Counts(**{field: min(number, 40)}) for number in itertools.count(1))
    monkeypatch.setattr(watchdog, "_poll", lambda *_: next(polls))
    seen = []
    with pytest.raises(NoProgressError, match="for 10 s"):
        seen.extend(watchdog.watch(None, None, 10, "cpu"))
    assert (len(seen) > 40) == (field != "read")


def test_open_views_says_from_time_to_time_how_many_are_through(eight, monkeypatch):
    said = []
    counter = SimpleNamespace(opened=SimpleNamespace(remote=said.append))
    monkeypatch.setattr(tasks, "open_sandboxed", open_images)
    monkeypatch.setattr(tasks, "_AT_A_TIME", 3)
    table, how = pa.concat_tables(read(eight)), Preprocess(8)
    opened = open_views(table, how, counter)
    assert opened.equals(open_rows(table, how))
    assert said == []  # it took no time
    monkeypatch.setattr(tasks, "_SAY_EVERY_S", -1)
    assert open_views(table, how, counter).equals(opened)
    assert said == [3, 3, 2]
