import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vqpipe.errors import ConfigError
from vqpipe.rejections import Loss, Reason
from vqpipe.schema import Selection, Shard
from vqpipe.sources import codes, read_shard

CODES = [[1, 2, 3, 4], [5, 6, 7, 8], [0, 0, 0, 65535]]
NO_KEPT = pa.schema([])


def write(folder, columns, name="a", row_group_size=None):
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=row_group_size)


PLAIN = Selection(codes="codes")


def read(folder, selection=PLAIN, kind="codes", kept=NO_KEPT):
    shards = codes.list_shards(str(folder), kind).shards
    return [sample for shard in shards for sample in read_shard(shard, selection, kept)]


def numbers(sample, dtype="<i8"):
    return np.frombuffer(sample.data, dtype).tolist()


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.uint16(), 4),
        pa.list_(pa.uint32()),
        pa.large_list(pa.int64()),
        pa.list_(pa.int32()),
        pa.list_(pa.uint64(), 4),
    ],
)
def test_read_codes_of_any_width_and_kind_of_list(tmp_path, kind):
    write(tmp_path, {"codes": pa.array(CODES, kind)}, row_group_size=2)
    samples = read(tmp_path)
    assert [numbers(sample) for sample in samples] == CODES
    assert [sample.row for sample in samples] == [0, 1, 2]
    assert [sample.key for sample in samples] == [f"a/{row:08d}" for row in range(3)]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.list_(pa.int16())), pa.list_(pa.list_(pa.int16(), 2), 2)]
)
def test_read_codes_lists_of_lists_are_row_major(tmp_path, kind):
    write(tmp_path, {"codes": pa.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], kind)})
    samples = read(tmp_path, Selection(codes="codes", shape=(2, 2)))
    assert [numbers(sample) for sample in samples] == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize("nested", [(2, 3, 4), (6, 4), (2, 12), (1, 2, 3, 4), (2, 1, 12), (1, 24)])
def test_read_latents_with_neighbouring_dimensions_merged(tmp_path, nested):
    values = np.arange(24).reshape(1, *nested).tolist()
    write(tmp_path, {"z": pa.array(values)})
    (sample,) = read(tmp_path, Selection(codes="z", shape=(2, 3, 4)), "latents")
    assert numbers(sample, "<f4") == list(range(24))


@pytest.mark.parametrize(
    ("value", "shape", "said"),
    [
        (np.zeros((4, 8), int).tolist(), (8, 4), "4 x 8 numbers, where they should be 8 x 4"),
        (np.zeros((3, 4, 2), int).tolist(), (2, 3, 4), "3 x 4 x 2 numbers"),
        (np.zeros((8, 3), int).tolist(), (2, 3, 4), "8 x 3 numbers"),
        (np.zeros((2, 3), int).tolist(), (2, 2), "2 x 3 numbers"),
        ([[1, 2, 3], [4]], (2, 2), "2 different lengths"),
        ([[1, 2, 3, 4], None], (2, 2), "2 different lengths"),
        ([[], []], (2, 2), "2 x 0 numbers"),
        ([], (2, 2), "0 different lengths"),
    ],
)
def test_read_codes_lists_of_lists_of_another_shape_are_rejections(tmp_path, value, shape, said):
    kind = pa.list_(pa.list_(pa.int64())) if len(shape) == 2 else None
    write(tmp_path, {"codes": pa.array([value], kind)})
    (sample,) = read(tmp_path, Selection(codes="codes", shape=shape))
    assert sample.rejection.reason == Reason.BAD_CODES
    assert said in sample.rejection.message


def test_read_codes_sliced_lists_hold_their_own_numbers(tmp_path):
    lists = pa.array([[9, 9], [1, 2], [3]], pa.list_(pa.int32())).slice(1)
    write(tmp_path, {"codes": lists})
    assert [numbers(sample) for sample in read(tmp_path)] == [[1, 2], [3]]


def test_read_codes_with_keys_and_kept_columns(tmp_path):
    columns = {"codes": pa.array(CODES), "name": ["x/1", None, "x/1"], "score": [0.5, 1.5, 2.5]}
    write(tmp_path, columns)
    kept = pa.schema([pa.field("score", pa.float64())])
    first, second, third = read(
        tmp_path, Selection(None, "name", ("score",), codes="codes"), kept=kept
    )
    assert (first.key, first.kept) == ("x/1", {"score": pa.array([0.5])})
    assert second.key == "a/00000001"
    assert third.rejection.reason == Reason.DUPLICATE_KEY


def test_read_codes_null_rows_and_null_numbers_are_rejections(tmp_path):
    write(tmp_path, {"codes": pa.array([None, [1, None, 3, 4], [1, 2, 3, 4]])})
    reasons = [each.rejection and each.rejection.reason for each in read(tmp_path)]
    assert reasons == [Reason.NO_CODES, Reason.BAD_CODES, None]


def test_read_latents_as_float32(tmp_path):
    for kind in (pa.float16(), pa.float32(), pa.float64()):
        values = pa.array([np.array([0.5, -1.25], np.float64).astype(kind.to_pandas_dtype())])
        write(tmp_path, {"z": values.cast(pa.list_(kind))})
        (sample,) = read(tmp_path, Selection(codes="z"), "latents")
        assert numbers(sample, "<f4") == [0.5, -1.25]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([1, 2]), "codes"),
        (pa.array([b"ab", b"cd"]), "codes"),
        (pa.array([["a"], ["b"]]), "codes"),
        (pa.array([[0.5], [1.5]]), "codes"),
        (pa.array([[True], [False]]), "latents"),
    ],
)
def test_kept_schema_column_that_is_no_list_of_numbers_is_config_error(tmp_path, column, kind):
    write(tmp_path, {"codes": column})
    shards = codes.list_shards(str(tmp_path), kind).shards
    with pytest.raises(ConfigError, match=r"column 'codes' is .*; it must be a list of"):
        codes.kept_schema(shards, Selection(codes="codes", shape=(1, 2)))


def test_kept_schema_missing_column_names_those_that_are_there(tmp_path):
    write(tmp_path, {"tokens": pa.array(CODES)})
    shards = codes.list_shards(str(tmp_path), "codes").shards
    with pytest.raises(ConfigError, match=r"no column 'codes'.*tokens"):
        codes.kept_schema(shards, Selection(codes="codes", shape=(1, 2)))


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (pa.list_(pa.uint16(), 4), (2, 2)),
        (pa.list_(pa.uint16(), 4), (1, 2, 2)),
        (pa.list_(pa.uint16()), (3, 3)),
        (pa.list_(pa.list_(pa.uint16(), 4), 1), (1, 4)),
        (pa.list_(pa.list_(pa.uint16(), 2), 2), (1, 2, 2)),
        (pa.list_(pa.list_(pa.uint16()), 2), (3, 3)),
    ],
)
def test_kept_schema_lists_that_may_have_the_grid_pass(tmp_path, kind, shape):
    write(tmp_path, {"codes": pa.array([], kind)})
    shards = codes.list_shards(str(tmp_path), "codes").shards
    assert codes.kept_schema(shards, Selection(codes="codes", shape=shape)) == NO_KEPT


@pytest.mark.parametrize(
    ("kind", "shape", "said"),
    [
        (pa.list_(pa.uint16(), 64), (16, 16), "64 numbers a row, and 16 x 16 codes are 256"),
        (pa.list_(pa.uint16(), 64), (4, 8, 8), "64 numbers a row, and 4 x 8 x 8 codes are 256"),
        (pa.list_(pa.list_(pa.uint8(), 8), 8), (4, 4), "64 numbers a row, and 4 x 4 codes are 16"),
        (pa.list_(pa.list_(pa.uint8(), 2), 8), (4, 4), "fixed_size_list"),
    ],
)
def test_kept_schema_lists_of_another_size_are_config_error(tmp_path, kind, shape, said):
    write(tmp_path, {"codes": pa.array([], kind)})
    shards = codes.list_shards(str(tmp_path), "codes").shards
    with pytest.raises(ConfigError, match="--grid") as raised:
        codes.kept_schema(shards, Selection(codes="codes", shape=shape))
    assert said in raised.value.message


def test_kept_schema_is_that_of_the_files_that_can_be_read(tmp_path):
    write(tmp_path, {"codes": pa.array(CODES), "n": pa.array([1, 2, 3], pa.int8())}, "b")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 cut short")
    shards = codes.list_shards(str(tmp_path), "codes").shards
    selection = Selection(codes="codes", keep=("n",), shape=(2, 2))
    assert codes.kept_schema(shards, selection) == pa.schema([pa.field("n", pa.int8())])
    with pytest.raises(ConfigError, match=r"none of 1 file\(s\) .*a\.parquet"):
        codes.kept_schema(shards[:1], selection)


def test_list_shards_name_that_is_not_utf_8_is_config_error(tmp_path):
    (tmp_path / "caf\udce9.parquet").touch()
    with pytest.raises(ConfigError, match="UTF-8") as raised:
        codes.list_shards(str(tmp_path), "codes")
    raised.value.message.encode()


def test_list_shards_without_parquet_is_config_error(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"holds no \.parquet file"):
        codes.list_shards(str(tmp_path), "codes")


@pytest.mark.fault(24)
def test_read_codes_of_a_damaged_file_ends_in_one_rejection(tmp_path):
    write(tmp_path, {"codes": pa.array(CODES * 50)})
    path = tmp_path / "a.parquet"
    data = bytearray(path.read_bytes())
    data[40] ^= 0xFF
    path.write_bytes(data)
    (shard,) = codes.list_shards(str(tmp_path), "codes").shards
    assert isinstance(shard, Shard)
    samples = read(tmp_path)
    assert samples[-1].rejection.reason == Reason.SHARD_DAMAGED
    assert samples[-1].rejection.loss == Loss(50 * len(CODES) - len(samples) + 1, "known")
