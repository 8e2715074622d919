"""Lines as the reader of RAR and TiTok takes them, against the rows of the sink."""

import json
import linecache

import pytest

from tests.export.exports import (
    check_kills,
    check_totals,
    describe,
    export,
    files_of,
    make_sink,
    rows_of,
    some_kills,
)


def read(path):
    """Yields what the reader returns (data/webdataset_reader.py at commit 942a96f)."""
    with open(path) as file:
        count = sum(1 for _ in file)
    linecache.checkcache(str(path))
    for index in range(count):
        data = json.loads(linecache.getline(str(path), index + 1).strip())
        yield data["class_id"], data["tokens"]


@pytest.mark.parametrize("views", [1, 2])
def test_rar_reader_gets_class_and_codes_of_every_view_in_order(base, tmp_path, views):
    sink = make_sink(f"{base}/codes", views=views, codebook_size=1024)
    assert export(sink, f"{base}/out", "rar") == 0
    (tmp_path / "copy.jsonl").write_bytes(files_of(f"{base}/out")["pretokenized.jsonl"])
    expected = [(row["label"], row["codes"]) for row in rows_of(sink)]
    assert list(read(tmp_path / "copy.jsonl")) == expected
    check_totals(sink, f"{base}/out", views)


@some_kills
def test_rar_killed_at_any_storage_call_ends_with_the_same_bytes(tmp_path, step):
    check_kills(make_sink(tmp_path / "codes"), tmp_path, "rar", step=step)


def test_rar_takes_a_label_by_its_name_and_refuses_options_of_others(tmp_path, capsys):
    sink = make_sink(tmp_path / "codes")
    assert export(sink, tmp_path / "out", "rar", "--label", "label") == 0
    assert export(sink, tmp_path / "out", "rar", "--caption", "txt") == 4
    assert (
        "--caption is no option of --to rar, but of array_record, emu3, " in capsys.readouterr().err
    )


def test_rar_label_that_is_null_is_named_and_nothing_is_complete(tmp_path, capsys):
    sink = make_sink(tmp_path / "codes", change=_without_one)
    assert export(sink, tmp_path / "out", "rar") == 4
    assert "'a/2' has no label" in capsys.readouterr().err
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def _without_one(rows):
    describe(rows)
    for row in rows:
        if row["key"] == "a/2":
            row["kept.label"] = None
