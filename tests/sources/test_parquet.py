import base64
import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vqpipe import storage
from vqpipe.errors import ConfigError, SourceChangedError, StorageError
from vqpipe.rejections import Loss, Reason
from vqpipe.schema import Selection
from vqpipe.sources import find_image, kept_schema, list_shards, parquet, read_shard

PNG = b"\x89PNG\r\n\x1a\n..."
PLAIN = {"use_dictionary": False, "compression": "none", "write_statistics": False}
DATETIME = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)


@pytest.fixture
def source(tmp_path):
    """Writes a table to a file and returns its listing."""

    def source(table, name="train.parquet", max_shard_bytes=parquet.MAX_SHARD_BYTES, **options):
        table = pa.table(table) if isinstance(table, dict) else table
        pq.write_table(table, tmp_path / name, **options)
        return list_shards(str(tmp_path), max_shard_bytes=max_shard_bytes)

    return source


JPG = Selection(image="jpg")


def read(listing, selection=JPG):
    schema = kept_schema(listing, selection)
    return [sample for shard in listing.shards for sample in read_shard(shard, selection, schema)]


def kept_of(samples, name):
    """Returns a kept column of some samples."""
    return pa.concat_arrays([sample.kept[name] for sample in samples])


def reasons(samples):
    return [(sample.key, sample.rejection and sample.rejection.reason) for sample in samples]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_read_shard_binary_column_is_found(source, kind):
    samples = read(source({"id": [7, 8], "jpg": pa.array([b"one", b"two"], kind)}))
    assert [sample.data for sample in samples] == [b"one", b"two"]
    assert reasons(samples) == [("train/00000000", None), ("train/00000001", None)]


def test_read_shard_struct_of_bytes_and_path_is_found(source):
    images = [{"bytes": b"one", "path": "a.jpg"}, {"bytes": b"two", "path": None}]
    selection = Selection("image", keep=("label",))
    samples = read(source({"image": images, "label": [1, 2]}), selection)
    assert [sample.data for sample in samples] == [b"one", b"two"]
    assert kept_of(samples, "label").equals(pa.array([1, 2]))
    assert [sample.key for sample in samples] == ["train/00000000", "train/00000001"]


@pytest.mark.fault(24)
def test_read_shard_null_images_are_rejected_in_their_rows(source):
    images = [{"bytes": b"x", "path": ""}, None, {"bytes": None, "path": ""}]
    samples = read(source({"image": images}), Selection("image"))
    assert [sample.rejection and sample.rejection.reason for sample in samples] == [
        None,
        Reason.NO_IMAGE,
        Reason.NO_IMAGE,
    ]
    assert [sample.row for sample in samples] == [0, 1, 2]


@pytest.mark.fault(26)
@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["a/b", "ü"], ["a/b", "ü"]),
        ([10, -3], ["10", "-3"]),
        (pa.array(["x", "y"], pa.large_string()), ["x", "y"]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
        ([b"\xff", b"ok"], ["\\xff", "ok"]),
        ([None, "y"], ["train/00000000", "y"]),
    ],
)
def test_read_shard_key_column_becomes_text(source, keys, expected):
    listing = source({"name": keys, "jpg": [b"1", b"2"]})
    samples = read(listing, Selection(image="jpg", key="name"))
    assert [sample.key for sample in samples] == expected


@pytest.mark.fault(26)
def test_read_shard_key_that_is_not_utf8_is_escaped(source):
    keys = pa.StringArray.from_buffers(1, *pa.array([b"caf\xe9"]).buffers()[1:])
    samples = read(source({"name": keys, "jpg": [b"1"]}), Selection("jpg", key="name"))
    assert reasons(samples) == [("caf\\xe9", None)]


@pytest.mark.fault(26)
def test_read_shard_duplicate_keys_are_rejected_after_the_first(source):
    samples = read(source({"id": [1, 2, 1], "jpg": [b"1", b"2", b"3"]}), Selection("jpg", key="id"))
    assert reasons(samples) == [("1", None), ("2", None), ("1", Reason.DUPLICATE_KEY)]


DAYS_IN_20207 = (20_207 - 1970) * 365
KEPT = {
    "string": pa.array(["a", None]),
    "large": pa.array(["a", None], pa.large_string()),
    "list": pa.array([[1, 2], None]),
    "lists": pa.array([[[1, 2], None, []], None]),
    "large_list": pa.array([[1, None], None], pa.large_list(pa.int8())),
    "view_of_list": pa.array([[1, None], None], pa.list_view(pa.int8())),
    "fixed_lists": pa.array([[[1, 2], None], None], pa.list_(pa.list_(pa.int8(), 2), 2)),
    "list_of_structs": pa.array([[{"x": 1.5}, {"x": None}, None], None]),
    "map": pa.array([[("a", [1]), ("b", None)], None], pa.map_(pa.string(), pa.list_(pa.int8()))),
    "struct": pa.array([{"x": 1.5}, None]),
    "dates": pa.array([DAYS_IN_20207, -(10**6)], pa.int32()).cast(pa.date32()),
    "dates_in_lists": pa.array([[DAYS_IN_20207], None])
    .cast(pa.list_(pa.int32()))
    .cast(pa.list_(pa.date32())),
    "time": pa.array([DATETIME, None], pa.timestamp("us", "UTC")),
    "far_time": pa.array([2**60, -(2**60)], pa.timestamp("us")),
    "nanoseconds": pa.array([1_709_164_800_123_456_789, None], pa.timestamp("ns")),
    "unknown_zone": pa.array([1, None], pa.timestamp("us", "tzutc()")),
    "unknown_zone_in_struct": pa.array([{"x": 1}, None]).cast(
        pa.struct([("x", pa.timestamp("us", "Mars/Olympus"))])
    ),
    "time_of_day": pa.array([1, None], pa.time64("ns")),
    "milliseconds_of_day": pa.array([1, None], pa.time32("ms")),
    "duration": pa.array([2**62, None], pa.duration("us")),
    "nanoseconds_long": pa.array([2**62 + 1, None], pa.duration("ns")),
    "decimal": pa.array(["1.25", None]).cast(pa.decimal128(10, 2)),
    "small_decimal": pa.array(["1.25", None]).cast(pa.decimal32(5, 2)),
    "huge_decimal": pa.array(["1" * 70, None]).cast(pa.decimal256(76, 5)),
    "interval": pa.array([b"\1\0\0\0\7\0\0\0\0\0\0\0", None], pa.binary(12)),
    "half": pa.array([1.5, None], pa.float16()),
    "not_a_number": pa.array([float("-inf"), None]),
    "unsigned": pa.array([2**64 - 1, None], pa.uint64()),
    "bool": pa.array([True, None]),
    "nothing": pa.nulls(2),
    "blob": pa.array([b"\xff\0", None]),
}


@pytest.mark.parametrize("name", KEPT)
def test_kept_column_comes_back_as_it_was(source, name):
    listing = source({"jpg": [b"1", b"2"], name: KEPT[name]})
    selection = Selection("jpg", keep=(name,))
    (field,) = kept_schema(listing, selection)
    assert field.type == KEPT[name].type
    samples = read(listing, selection)
    assert reasons(samples) == [("train/00000000", None), ("train/00000001", None)]
    assert kept_of(samples, name).equals(KEPT[name])


@pytest.mark.parametrize(
    ("stored", "kind"),
    [
        (pa.array(["a", None]).dictionary_encode(), pa.string()),
        (pa.array(["a", None], pa.string_view()), pa.string()),
        (pa.array([b"a", None], pa.binary_view()), pa.binary()),
        (pa.array([[], [None] * 3]), pa.list_(pa.string())),
        (
            pa.array([["a", "a"], None]).cast(pa.list_(pa.dictionary(pa.int32(), pa.string()))),
            pa.list_(pa.string()),
        ),
    ],
    ids=str,
)
def test_kept_column_says_nothing_of_how_it_was_stored(source, stored, kind):
    listing = source({"jpg": [b"1", b"2"], "x": stored})
    selection = Selection("jpg", keep=("x",))
    assert kept_schema(listing, selection).field("x").type == kind
    assert kept_of(read(listing, selection), "x").to_pylist() == stored.to_pylist()


def test_kept_string_that_is_not_utf8_is_rejected(source):
    bad = pa.StringArray.from_buffers(2, *pa.array([b"caf\xe9", b"ok"]).buffers()[1:])
    samples = read(source({"jpg": [b"1", b"2"], "text": bad}), Selection("jpg", keep=("text",)))
    assert [s.rejection and s.rejection.reason for s in samples] == [Reason.BAD_METADATA, None]


@pytest.mark.fault(24)
@pytest.mark.parametrize(
    ("selection", "named"),
    [
        (Selection(image="png"), "'png'"),
        (Selection("jpg", key="id"), "'id'"),
        (Selection("jpg", keep=("caption",)), "'caption'"),
        (Selection(image="text"), "'text' is string"),
    ],
)
def test_kept_schema_column_that_is_not_there_lists_the_columns(source, selection, named):
    listing = source({"jpg": [b"1"], "text": ["x"]})
    with pytest.raises(ConfigError, match=named) as caught:
        kept_schema(listing, selection)
    assert "jpg (binary), text (string)" in str(caught.value)


@pytest.mark.fault(24)
@pytest.mark.parametrize("columns", [{"a": [PNG], "b": [PNG]}, {"a": [1]}, {"a": [b"12345678"]}])
def test_find_image_column_in_doubt_is_config_error(source, columns):
    with pytest.raises(ConfigError, match="--image"):
        find_image(source(columns), Selection())


@pytest.mark.parametrize("name", ["key", "row", "codes", "width", "reason", "shard", "total"])
def test_kept_schema_name_of_an_output_column_is_config_error(source, name):
    listing = source({"jpg": [b"1"], name: [1]})
    with pytest.raises(ConfigError, match=name):
        kept_schema(listing, Selection("jpg", keep=(name,)))


@pytest.mark.fault(24)
def test_read_shard_file_that_lost_a_column_since_it_was_planned_is_config_error(source):
    source({"jpg": [b"1"], "n": [1]}, "a.parquet")
    listing = source({"jpg": [b"2"]}, "b.parquet")
    selection = Selection("jpg", keep=("n",))
    with pytest.raises(ConfigError, match=r"b\.parquet has no column 'n'"):
        list(read_shard(listing.shards[1], selection, pa.schema([("n", pa.int64())])))


class RunsCode(pa.ExtensionType):
    """Stands for Ray Data's tensor types, which unpickle what a file says."""

    ran = False

    def __init__(self):
        super().__init__(pa.binary(), "test.runs_code")

    def __arrow_ext_serialize__(self):
        return b"code"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type, serialized):
        cls.ran = True
        return cls()


@pytest.fixture
def extension():
    pa.register_extension_type(RunsCode())
    yield pa.ExtensionArray.from_storage(RunsCode(), pa.array([b"1", b"2"]))
    pa.unregister_extension_type("test.runs_code")


@pytest.mark.fault(24)
@pytest.mark.parametrize("nested", [False, True])
def test_read_shard_extension_type_beside_the_image_runs_nothing(source, extension, nested):
    column = pa.StructArray.from_arrays([extension], ["x"]) if nested else extension
    listing = source({"jpg": [b"1", b"2"], "other": column})
    RunsCode.ran = False
    samples = read(listing)
    assert [sample.data for sample in samples] == [b"1", b"2"]
    for selection in (
        Selection("jpg", keep=("other",)),
        Selection(image="other"),
        Selection("jpg", key="other"),
    ):
        with pytest.raises(ConfigError, match=r"extension type test\.runs_code"):
            kept_schema(listing, selection)
    assert not RunsCode.ran
    pq.read_schema(listing.shards[0].files[0].uri)
    assert RunsCode.ran, "or this test shows nothing"


@pytest.mark.fault(24)
def test_read_shard_second_hidden_schema_is_refused(source, extension):
    table = pa.table({"jpg": [b"1", b"2"], "other": extension})
    stored = base64.b64encode(table.schema.serialize().to_pybytes())
    listing = source(table.replace_schema_metadata({"note": b"ARROW:schema" + stored}))
    RunsCode.ran = False
    (shard,) = listing.shards
    samples = list(read_shard(shard, JPG, pa.schema([])))
    assert reasons(samples) == [(None, Reason.SHARD_DAMAGED)]
    assert not RunsCode.ran


def test_list_shards_large_file_is_split_by_row_groups(source):
    table = {"jpg": [bytes([i]) * 1000 for i in range(10)]}
    options = {"row_group_size": 2, **PLAIN}
    listing = source(table, max_shard_bytes=4_500, **options)
    assert [(shard.name, shard.row_groups) for shard in listing.shards] == [
        ("train-rg00000", (0, 2)),
        ("train-rg00002", (2, 4)),
        ("train-rg00004", (4, 5)),
    ]
    samples = read(listing)
    assert [sample.data for sample in samples] == table["jpg"]
    assert [sample.row for sample in samples] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert [sample.key for sample in samples] == [f"train/{i:08d}" for i in range(10)]


def test_list_shards_row_group_above_the_limit_is_a_shard_of_its_own(source):
    table = {"jpg": [bytes([i]) * 1000 for i in range(3)]}
    options = {"row_group_size": 1, **PLAIN}
    listing = source(table, max_shard_bytes=10, **options)
    assert [shard.row_groups for shard in listing.shards] == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.fault(24)
def test_read_shard_zero_rows_has_no_samples(source):
    assert read(source({"jpg": pa.array([], pa.binary())})) == []


@pytest.mark.fault(24)
@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"<html>404</html>",
        lambda _: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-300] + bytes(292) + data[-8:],
        lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1",
    ],
    ids=["html", "empty", "cut", "footer", "length"],
)
@pytest.mark.parametrize("max_shard_bytes", [0, parquet.MAX_SHARD_BYTES])
def test_read_shard_file_without_valid_footer_is_one_rejection(
    source, tmp_path, damage, max_shard_bytes
):
    source({"jpg": [b"x"] * 100}, "a.parquet")
    good = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(damage(good))
    source({"jpg": [b"x"]}, "b.parquet")
    samples = read(list_shards(str(tmp_path), max_shard_bytes=max_shard_bytes))
    assert [(s.row, s.rejection and s.rejection.reason) for s in samples] == [
        (0, Reason.SHARD_DAMAGED),
        (0, None),
    ]
    assert samples[0].rejection.loss == Loss(None, "unknown")


@pytest.mark.fault(24)
def test_kept_schema_no_readable_footer_at_all_is_config_error(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"none")
    with pytest.raises(ConfigError, match="readable footer"):
        kept_schema(list_shards(str(tmp_path)), JPG)


@pytest.mark.fault(24)
@pytest.mark.parametrize("checksums", [True, False])
def test_read_shard_corrupt_page_keeps_the_rows_before_it(source, tmp_path, checksums):
    images = [bytes([i]) * 5_000 for i in range(200)]
    source(
        {"jpg": images},
        row_group_size=100,
        compression="zstd",
        use_dictionary=False,
        write_page_checksum=checksums,
    )
    path = tmp_path / "train.parquet"
    column = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    data[middle - 20 : middle + 20] = bytes(40)
    path.write_bytes(bytes(data))
    samples = read(list_shards(str(path)))
    assert [sample.data for sample in samples[:-1]] == images[: len(samples) - 1]
    assert len(samples) - 1 >= 64, "whole batches before the damage come out"
    assert samples[-1].rejection.reason == Reason.SHARD_DAMAGED
    lost = len(images) - (len(samples) - 1)
    assert samples[-1].rejection.loss == Loss(lost, "known"), "the footer knows"
    assert samples[-1].row == len(samples) - 1


@pytest.mark.s3
def test_read_shard_replaced_while_reading_flies(bucket, tmp_path):
    table = pa.table({"jpg": [bytes([i]) * 2**18 for i in range(100)]})
    pq.write_table(table, tmp_path / "a", row_group_size=10, **PLAIN)
    data = (tmp_path / "a").read_bytes()
    storage.publish(f"{bucket}/a.parquet", data)
    listing = list_shards(bucket)
    samples = read_shard(listing.shards[0], JPG, kept_schema(listing, JPG))
    next(samples)
    storage.replace(f"{bucket}/a.parquet", data + b"longer")
    with pytest.raises(SourceChangedError):
        list(samples)


def test_read_shard_store_failure_in_the_middle_flies(source, monkeypatch):
    listing = source({"jpg": [b"x" * 1000] * 100}, row_group_size=10)
    opened = storage.open_file(listing.shards[0].files[0])

    class Failing:
        """A reader whose store gives up once the footer has been read."""

        closed = False
        calls = 0

        def read(self, size=-1):
            self.calls += 1
            if self.calls > 4:
                raise StorageError("the store is gone")
            return opened.read(size)

        def __getattr__(self, name):
            return getattr(opened, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            opened.close()

    with monkeypatch.context() as patch:
        patch.setattr(storage, "open_file", lambda _: Failing())
        with pytest.raises(StorageError, match="the store is gone"):
            list(read_shard(listing.shards[0], JPG, pa.schema([])))


def test_read_shard_rows_of_several_batches_stay_in_order(source):
    images = [b"%d" % i for i in range(1_000)]
    listing = source({"jpg": images, "n": range(1_000)}, row_group_size=150)
    samples = read(listing, Selection("jpg", keep=("n",)))
    assert [sample.data for sample in samples] == images
    assert [sample.row for sample in samples] == list(range(1_000))
    assert kept_of(samples, "n").equals(pa.array(range(1_000)))
    assert samples == read(listing, Selection("jpg", keep=("n",)))
