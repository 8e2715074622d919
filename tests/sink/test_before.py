"""Sinks that version 0.1.0 wrote before its modules were called `vqpipe`: read, and gone on with.

`before.tar.gz` holds a finished run of three shards of eight images each, of which one is truncated
(`codes/`), what they were decoded to (`images/`), and the run with its last shard staged as far as
row 6 (`unfinished/`).
"""

import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import shell
from vqpipe import storage
from vqpipe.commands import cli
from vqpipe.sink import success, todo
from vqpipe.sink.commit import commit_rows
from vqpipe.sink.footer import read_footer
from vqpipe.sink.run import load_run, open_sink
from vqpipe.sink.totals import read_totals
from vqpipe.sink.writer import Writer
from vqpipe.stages.encode import CodesProduct

FINGERPRINT = "3410b4a9446190e4efcc568c32c9f0a4008943d5ffb726f6af9a91416a73fc16"
KEPT = pa.schema([pa.field("txt", pa.string())])


@pytest.fixture
def before(tmp_path):
    with tarfile.open(Path(__file__).with_name("before.tar.gz")) as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path


def test_run_written_before_has_its_fingerprint(before):
    said = json.loads((before / "codes/run.json").read_text())["fingerprint"]
    assert said == FINGERPRINT == load_run(str(before / "codes")).fingerprint


@pytest.mark.parametrize("sink", ["codes", "images"])
def test_sink_written_before_is_verified_and_inspected(before, sink, capsys):
    assert cli.main(["verify", str(before / sink)]) == 0
    assert "FAILED" not in capsys.readouterr().out
    assert cli.main(["inspect", str(before / sink), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["complete"] is True
    assert said["samples"] == {"codes": 24, "images": 21}[sink]


def test_run_begun_before_is_gone_on_with_to_the_same_rows(before):
    uri = str(before / "unfinished")
    sink = open_sink(uri, load_run(uri))
    ((index, staged),) = todo.unfinished(sink).items()
    assert (index, staged.ranges, staged.total) == (2, ((0, 3), (3, 6)), None)
    whole = before / "codes/data/002.parquet"
    codes = pq.read_schema(whole).field("codes")
    writer = Writer(sink, CodesProduct(KEPT, codes, (4, 4), 1024))
    # Row 5 is rejected: rows 6 and 7 are at places 5 and 6.
    (receipt,) = commit_rows(rows_of(whole, [5, 6], writer.product.rows), writer).to_pylist()
    assert receipt["committed"] == 8
    found = read_totals(sink)
    success.mark_success(sink, found)
    assert shell.rows(before / "unfinished") == shell.rows(before / "codes")
    assert shell.rows(before / "unfinished", "rejected") == shell.rows(before / "codes", "rejected")
    new, old = (
        read_footer(storage.stat(f"{before}/{name}/data/002.parquet")).origin
        for name in ("unfinished", "codes")
    )
    audit = ("audited", "psnr_images", "psnr_db_sum")  # the rows were put into staging without one
    assert {**new, **{name: old[name] for name in audit}} == old


def rows_of(path, places, kind):
    """Returns rows of an object in `data/`, by their places there, as they come from the codec."""
    found = pq.read_table(path).take(places)
    head = {"shard": [2, 2], "total": [None, 8], "passed_over": [0, 0]}
    columns = {name.removeprefix("kept."): name for name in kind.names}
    values = {columns[name]: found[name].combine_chunks() for name in found.column_names}
    values |= {name: pa.array(each) for name, each in head.items()}
    none = pa.nulls(len(found))
    return pa.table(
        [values.get(name, none).cast(kind.field(name).type) for name in kind.names], schema=kind
    )
