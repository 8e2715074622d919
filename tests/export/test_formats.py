"""What all formats of whole samples and of tokens have in common."""

import sys

import pytest

from tests.export import exports, kinds
from tests.export.exports import check_totals, export, make_sink
from vqpipe.code_layout import CodeLayout
from vqpipe.vector_layout import VectorLayout

GRID = CodeLayout.grid(2, 3, 16)
LATENTS = VectorLayout("latents", (2, 2, 3), "float16")
LIBRARIES = {"webdataset": "webdataset", "array_record": "array_record", "litdata": "litdata"}
FORMATS = [*LIBRARIES, "mds", "megatron"]


@pytest.mark.parametrize("name", FORMATS)
def test_format_of_a_sink_without_codes_is_refused(tmp_path, capsys, name):
    sink = kinds.make_sink(tmp_path / "codes", GRID, vectors=(LATENTS,), has_codes=False)
    assert export(sink, tmp_path / "out", name) == 4
    assert "it has no codes to export" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FORMATS)
def test_format_leaves_vectors_out(tmp_path, name):
    plain = kinds.make_sink(tmp_path / "plain", GRID)
    sink = kinds.make_sink(tmp_path / "codes", GRID, vectors=(LATENTS,))
    assert export(plain, tmp_path / "out", name) == 0
    assert export(sink, tmp_path / "other", name) == 0
    made, other = exports.files_of(tmp_path / "out"), exports.files_of(tmp_path / "other")
    assert made.keys() == other.keys()
    of_run = {"export.json", "meta.json", "_SUCCESS"}
    of_run |= {"index.json"} if name == "litdata" else set()  # has a digest of the snapshot
    assert {each for each in made if made[each] != other[each]} == of_run


@pytest.mark.parametrize("name", FORMATS)
def test_format_of_a_sink_of_which_all_is_rejected_ends(tmp_path, name):
    sink = make_sink(tmp_path / "codes", {"a": 0, "b": 0})
    assert export(sink, tmp_path / "out", name) == 0
    check_totals(sink, tmp_path / "out")


@pytest.mark.parametrize(("name", "library"), LIBRARIES.items())
def test_format_whose_library_is_missing_says_what_to_install(
    tmp_path, capsys, monkeypatch, name, library
):
    sink = make_sink(tmp_path / "codes")
    monkeypatch.setitem(sys.modules, library, None)
    assert export(sink, tmp_path / "out", name) == 4
    assert f"pip install 'vqpipe[{name}]'" in " ".join(capsys.readouterr().err.split())
