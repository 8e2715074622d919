"""Files of ArrayRecord as its own reader has them, parsed by the protobuf of tf.train.Example."""

import json

import numpy as np
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource
from tfrecord.example_pb2 import Example

from tests.export import exports, kinds
from tests.export.exports import check_kills, check_totals, export, make_sink, rows_of, some_kills
from vqpipe.code_layout import CodeLayout
from vqpipe.export.example import pack_example


def read(folder):
    """Returns all records in order: lists of integers or of bytes by name."""
    files = sorted(map(str, folder.rglob("*.array_record")))
    source = ArrayRecordDataSource(files)
    return [_parse(source[number]) for number in range(len(source))]


def _parse(data):
    found = Example.FromString(data).features.feature
    return {
        name: list(getattr(feature, feature.WhichOneof("kind")).value)
        for name, feature in found.items()
    }


@pytest.mark.parametrize("views", [1, 3])
def test_array_record_reads_codes_labels_captions_and_facts(base, tmp_path, views):
    sink = make_sink(f"{base}/codes", views=views)
    assert export(sink, f"{base}/out", "array_record") == 0
    check_totals(sink, f"{base}/out", views)
    folder = kinds.local(f"{base}/out", tmp_path)
    for found, row in zip(read(folder), rows_of(sink), strict=True):
        (rest,) = found.pop("json")
        assert found == {
            "key": [row["key"].encode()],
            "view": [row["view"]],
            "codes": row["codes"],
            "shape": [2, 3],
            "label": [row["label"]],
            "caption": [row["txt"].encode()],
        }
        names = row.keys() - {"codes", "label", "txt"}
        assert json.loads(rest) == {name: row[name] for name in names}
    assert not (folder / "b" / "c.array_record").exists()  # which has no row


@pytest.mark.parametrize(
    "numbers",
    [[], [0], [127, 128, 16_383, 16_384], [2**63 - 1, 2**62, 2**35, 2**56 - 1], [-1, -(2**63)]],
)
def test_example_is_what_protobuf_makes_of_it(numbers):
    made = Example()
    for name, text in {"é": b"x" * 300, "b": b""}.items():
        made.features.feature[name].bytes_list.value.append(text)
    made.features.feature["a"].int64_list.value.extend(numbers)
    packed = pack_example({"é": b"x" * 300, "b": b"", "a": np.array(numbers, np.int64)})
    assert Example.FromString(packed) == made
    assert packed == made.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", kinds.LAYOUTS)
def test_array_record_says_the_shape_of_the_layout(tmp_path, name):
    layout = kinds.LAYOUTS[name]
    sink = kinds.make_sink(tmp_path / "codes", layout)
    assert export(sink, tmp_path / "out", "array_record") == 0
    for found, row in zip(read(tmp_path / "out"), rows_of(sink), strict=True):
        assert tuple(found["shape"]) == kinds.shape_of(layout, row)
        assert found["codes"] == row["codes"]


@pytest.mark.parametrize("size", kinds.CODEBOOKS)
def test_array_record_holds_codes_of_any_codebook(tmp_path, size):
    sink = kinds.make_sink(tmp_path / "codes", CodeLayout.grid(2, 3, size))
    assert export(sink, tmp_path / "out", "array_record") == 0
    found = read(tmp_path / "out")
    assert found[0]["codes"][0] == size - 1
    assert [each["codes"] for each in found] == [row["codes"] for row in rows_of(sink)]


def test_array_record_json_holds_columns_of_any_type(tmp_path):
    sink = kinds.make_sink_of_many_kinds(tmp_path / "codes")
    assert export(sink, tmp_path / "out", "array_record") == 0
    kinds.check_many_kinds([json.loads(each["json"][0]) for each in read(tmp_path / "out")])


def test_array_record_null_label_and_caption_have_no_feature(tmp_path):
    sink = make_sink(tmp_path / "codes", {"a": 3}, change=_without_one)
    assert export(sink, tmp_path / "out", "array_record") == 0
    first, second = read(tmp_path / "out")
    assert {"label", "caption"} <= first.keys()
    assert not {"label", "caption"} & second.keys()


def _without_one(rows):
    exports.describe(rows)
    rows[2] |= {"kept.label": None, "kept.txt": None}


def test_array_record_label_of_64_bits_is_refused_and_the_image_named(tmp_path, capsys):
    sink = kinds.make_sink_of_many_kinds(tmp_path / "codes")
    assert export(sink, tmp_path / "out", "array_record", "--label", "big") == 4
    assert "'a/0' has big 9223372036854775808" in capsys.readouterr().err


@some_kills
def test_array_record_killed_at_any_storage_call_ends_with_the_same_bytes(tmp_path, step):
    check_kills(make_sink(tmp_path / "codes"), tmp_path, "array_record", step=step)


def test_array_record_of_processes_has_the_same_bytes_as_of_one(tmp_path):
    sink = make_sink(tmp_path / "codes", views=2)
    assert export(sink, tmp_path / "one", "array_record") == 0
    assert export(sink, tmp_path / "two", "array_record", workers=2) == 0
    assert exports.files_of(tmp_path / "one") == exports.files_of(tmp_path / "two")
