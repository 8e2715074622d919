import time
import weakref

import duckdb
import numpy as np
import pytest
from scipy.spatial import distance

from tests.sink import sinks
from vqpipe.inspection import drift
from vqpipe.sink import totals
from vqpipe.sink.footer import read_footer


def turn(listed):
    for row in listed:
        row["codes"] = row["codes"] and [0] * 6


def histogram(sink, files):
    codes = duckdb.sql(f"SELECT unnest(codes) FROM '{sink}/data/{files}.parquet'").fetchall()
    return np.bincount([code for (code,) in codes], minlength=16)


def test_measure_drift_is_scipys_distance_of_each_shard_that_has_codes(tmp_path):
    writer = sinks.begin(tmp_path)
    sinks.commit(writer, 0, 20, rejected=(3,))
    sinks.commit(writer, 1, 20, change=turn)
    sinks.commit(writer, 2, 2, rejected=(0, 1))
    total = totals.read_totals(writer.sink).histogram
    found = drift.measure_drift(writer.sink, total)
    assert [(each.shard, each.samples) for each in found] == [("b", 20), ("a", 19)]
    for each in found:
        pair = histogram(tmp_path, each.shard), histogram(tmp_path, "*")
        assert each.distance == pytest.approx(distance.jensenshannon(*pair, base=2))


def test_measure_drift_holds_few_histograms_at_a_time(tmp_path, monkeypatch):
    names = [f"{index:02d}" for index in range(60)]
    writer = sinks.begin(tmp_path, names)
    sinks.fill(writer, len(names), len(names), rejected=0)
    held, most = set(), []

    def read(file):
        footer = read_footer(file)
        held.add(file.uri)
        weakref.finalize(footer, held.discard, file.uri)
        most.append(len(held))
        return footer

    def measure(*_):
        time.sleep(0.002)  # as long as of a large codebook
        return 0.5

    monkeypatch.setattr(drift, "read_footer", read)
    monkeypatch.setattr(drift.metrics, "jensen_shannon", measure)
    monkeypatch.setattr(drift, "_READERS", 4)
    found = drift.measure_drift(writer.sink, np.ones(16, np.int64))
    assert len(found) == len(names)
    assert max(most) <= 4
