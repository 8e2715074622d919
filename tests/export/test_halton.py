"""Files of codes and classes as Halton-MaskGIT's reader takes them, against rows of the sink."""

import io

import numpy as np
import pytest

from tests.export.exports import (
    check_kills,
    check_totals,
    export,
    files_of,
    make_sink,
    rows_of,
    some_kills,
)
from tests.export.unpickle import unpickle


def read(files, load, suffix):
    """Yields what the reader returns (Dataset/dataset.py at commit f61b0a1)."""
    for name in sorted(name for name in files if name.endswith(suffix)):
        data = dict(load(io.BytesIO(files[name])))
        assert data["code"].dtype == np.uint16
        data["code"] = data["code"].astype(np.int32)
        yield data


@pytest.mark.parametrize(
    ("options", "load", "suffix"), [(["--pickle"], unpickle, ".pth"), ([], np.load, ".npz")]
)
def test_halton_reader_gets_code_and_class_of_every_view(tmp_path, options, load, suffix):
    sink = make_sink(tmp_path / "codes", views=2, codebook_size=16_384)
    assert export(sink, tmp_path / "out", "halton", *options) == 0
    rows = rows_of(sink)
    found = list(read(files_of(tmp_path / "out"), load, suffix))
    assert [each["code"].ravel().tolist() for each in found] == [row["codes"] for row in rows]
    assert {each["code"].shape for each in found} == {(2, 3)}
    assert [int(each["y"]) for each in found] == [row["label"] for row in rows]
    check_totals(sink, tmp_path / "out", 2)


@some_kills
def test_halton_killed_at_any_storage_call_ends_with_the_same_bytes(tmp_path, step):
    check_kills(make_sink(tmp_path / "codes"), tmp_path, "halton", "--pickle", step=step)


def test_halton_refuses_codes_of_more_than_16_bits(tmp_path, capsys):
    sink = make_sink(tmp_path / "codes", codebook_size=65_537)
    assert export(sink, tmp_path / "out", "halton") == 4
    assert "65,537" in capsys.readouterr().err
