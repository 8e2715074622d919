import numpy as np
import pyarrow as pa
import pytest

from vqpipe import storage
from vqpipe.errors import DamagedError
from vqpipe.sink import footer
from vqpipe.sink.footer import pack_histogram, read_footer
from vqpipe.sink.objects import pack_object


def write(path, metadata, column=b"x"):
    path.write_bytes(pack_object(pa.table({"a": [column]}), metadata))


def test_histogram_packed_and_unpacked_is_the_same():
    histogram = np.random.default_rng(0).integers(0, 2**32, 1000)
    assert footer.unpack_histogram(pack_histogram(histogram)).tolist() == histogram.tolist()
    assert footer.unpack_histogram(pack_histogram(np.array([2**40]))).tolist() == [2**32 - 1]


@pytest.mark.parametrize("padding", [0, 2**20], ids=["small_file", "large_file"])
def test_read_footer_larger_than_the_first_read_is_read_whole(tmp_path, padding):
    histogram = np.random.default_rng(0).integers(0, 2**32, 65_536)
    path = tmp_path / "a.parquet"
    column = np.random.default_rng(1).bytes(padding)
    said = {"vqpipe": '{"seen": 1}', "vqpipe.histogram": pack_histogram(histogram)}
    write(path, said, column)
    end = path.read_bytes()[-8:-4]
    assert int.from_bytes(end, "little") > 128 * 2**10
    found = read_footer(storage.stat(str(path)))
    assert found.origin == {"seen": 1}
    assert np.array_equal(found.histogram, histogram)


def test_read_footer_with_any_bit_of_it_flipped_is_damaged(tmp_path):
    path = tmp_path / "a.parquet"
    write(path, {"vqpipe": '{"seen": 1}'})
    good = path.read_bytes()
    first = 8 * (len(good) - int.from_bytes(good[-8:-4], "little") - 40)
    for place in range(first, 8 * len(good), 11):
        bad = bytearray(good)
        bad[place // 8] ^= 1 << place % 8
        path.write_bytes(bad)
        with pytest.raises(DamagedError, match=r"a\.parquet"):
            read_footer(storage.stat(str(path)))
