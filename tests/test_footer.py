import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import footer, storage
from pipeline.footer import pack_histogram, read_data, read_footer
from pipeline.schema import REJECTED


def write_parquet(path, metadata, column=b"x"):
    with pq.ParquetWriter(path, pa.schema([("a", pa.binary())])) as writer:
        writer.write_table(pa.table({"a": [column]}))
        writer.add_key_value_metadata(metadata)


def test_histogram_packed_and_unpacked_is_the_same():
    histogram = np.random.default_rng(0).integers(0, 2**32, 1000)
    assert footer.unpack_histogram(pack_histogram(histogram)).tolist() == histogram.tolist()
    assert footer.unpack_histogram(pack_histogram(np.array([2**40]))).tolist() == [2**32 - 1]


@pytest.mark.parametrize("padding", [0, 2**20], ids=["small_file", "large_file"])
def test_read_footer_larger_than_the_first_read_is_read_whole(tmp_path, padding):
    histogram = np.random.default_rng(0).integers(0, 2**32, 65_536)
    path = tmp_path / "a.parquet"
    column = np.random.default_rng(1).bytes(padding)
    write_parquet(path, {"vqpipe": '{"seen": 1}', "vqpipe.histogram": pack_histogram(histogram)},
                  column)  # fmt: skip
    end = path.read_bytes()[-8:-4]
    assert int.from_bytes(end, "little") > 128 * 2**10
    found = read_footer(storage.stat(str(path)))
    assert found.origin == {"seen": 1}
    assert np.array_equal(found.histogram, histogram)


def test_read_data_of_some_columns_looks_at_no_other(tmp_path):
    picture = np.random.default_rng(0).bytes(4000)
    table = pa.table({"row": [1], "picture": [picture]})
    data = footer.write_parquet(table, {"vqpipe": '{"seen": 1}'})
    broken = data.replace(picture[2000:2010], bytes(10))
    assert broken != data
    (tmp_path / "a.parquet").write_bytes(broken)
    found, said = read_data(str(tmp_path / "a.parquet"), ["row"])
    assert found.to_pydict() == {"row": [1]}
    assert said.origin == {"seen": 1}
    with pytest.raises(OSError, match="CRC"):
        read_data(str(tmp_path / "a.parquet"))


def test_rejections_packed_and_read_are_the_same(tmp_path):
    rows = [
        {"key": "a\0\n\u00e9", "row": 3, "reason": "empty", "message": "zero bytes"},
        {"key": None, "row": 4, "reason": "shard_damaged", "message": "cut at byte 7"},
    ]
    rejections = pa.Table.from_pylist(rows, schema=REJECTED)
    path = tmp_path / "a.parquet"
    packed = footer.pack_rejections(rejections)
    write_parquet(path, {"vqpipe": "{}", "vqpipe.rejections": packed})
    assert read_footer(storage.stat(str(path))).rejections.equals(rejections)


def test_write_parquet_makes_row_groups_that_a_reader_has_memory_for(monkeypatch):
    monkeypatch.setattr(footer, "_GROUP_BYTES", 10_000)
    table = pa.table({"image": pa.array([bytes([i]) * 3000 for i in range(10)], pa.large_binary())})
    file = pq.ParquetFile(io.BytesIO(footer.write_parquet(table, {})))
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    assert sizes == [3, 3, 3, 1]
    assert file.read() == table
