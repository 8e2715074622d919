"""Pairs of files as Megatron reads them, against sequences that are put together by hand."""

import itertools
import json
import struct

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests.export import exports, kinds
from tests.export.exports import check_kills, check_totals, export, make_sink, rows_of, some_kills
from vqpipe.code_layout import CodeLayout

TYPES = {1: "u1", 2: "i1", 3: "i2", 4: "i4", 5: "i8", 6: "f8", 7: "f4", 8: "u2"}


def read(prefix):
    """Returns documents, each a list of sequences, and the type of tokens: Megatron's own steps."""
    index = prefix.with_suffix(".idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, count, bounds = struct.unpack_from("<QBQQ", index, 9)
    assert version == 1
    kind = np.dtype(TYPES[code])
    place = 34
    lengths = np.frombuffer(index, np.int32, count, place)
    starts = np.frombuffer(index, np.int64, count, place + 4 * count)
    ends = np.frombuffer(index, np.int64, bounds, place + 12 * count)
    assert len(index) == place + 12 * count + 8 * bounds
    tokens = prefix.with_suffix(".bin").read_bytes()
    assert len(tokens) == lengths.sum() * kind.itemsize
    found = [
        np.frombuffer(tokens, kind, length, start).tolist()
        for start, length in zip(starts, lengths, strict=True)
    ]
    return [found[first:last] for first, last in itertools.pairwise(ends)], kind


def read_all(folder):
    """Returns the sequence of each document of all pairs, and the types of tokens."""
    pairs = [read(path.with_suffix("")) for path in sorted(folder.glob("*.idx"))]
    assert all(len(document) == 1 for documents, _ in pairs for document in documents)
    sequences = [document[0] for documents, _ in pairs for document in documents]
    return sequences, {kind for _, kind in pairs}


@pytest.mark.parametrize("views", [1, 3])
def test_megatron_documents_are_the_codes_of_each_view(base, tmp_path, views):
    sink = make_sink(f"{base}/codes", views=views)
    assert export(sink, f"{base}/out", "megatron") == 0
    check_totals(sink, f"{base}/out", views)
    folder = kinds.local(f"{base}/out", tmp_path)
    rows = rows_of(sink)
    assert read_all(folder) == ([row["codes"] for row in rows], {np.dtype("u2")})
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["documents"] == {"codes-00000": len(rows)}
    assert (meta["vocabulary_size"], meta["code_ids"]) == (16, [0, 15])


MARKS = ["--begin-token", 100, "--row-token", 101, "--end-token", 102, "--eod-token", 103]


def test_megatron_marks_stand_around_images_and_behind_rows(tmp_path):
    sink = make_sink(tmp_path / "codes")
    assert export(sink, tmp_path / "out", "megatron", "--offset", 7, *MARKS) == 0
    expected = []
    for row in rows_of(sink):
        a, b, c, d, e, f = (7 + code for code in row["codes"])
        expected.append([100, a, b, c, 101, d, e, f, 101, 102, 103])
    assert read_all(tmp_path / "out")[0] == expected


def test_megatron_grids_of_each_image_have_rows_of_their_own(tmp_path):
    sink = kinds.make_sink(tmp_path / "codes", kinds.GRIDS)
    assert export(sink, tmp_path / "out", "megatron", "--row-token", 16) == 0
    expected = []
    for row in rows_of(sink):
        grid = np.reshape(row["codes"], (row["grid_h"], row["grid_w"])).tolist()
        expected.append([each for line in grid for each in [*line, 16]])
    assert read_all(tmp_path / "out")[0] == expected


def test_megatron_codes_of_a_place_have_ids_of_their_own_codebooks(tmp_path):
    sink = kinds.make_sink(tmp_path / "codes", kinds.STACKED)
    assert export(sink, tmp_path / "out", "megatron", "--offset", 10, "--row-token", 9) == 0
    expected = []
    for row in rows_of(sink):
        ids = [10 + code if at % 2 == 0 else 15 + code for at, code in enumerate(row["codes"])]
        expected.append([*ids[:6], 9, *ids[6:], 9])
    found, _ = read_all(tmp_path / "out")
    assert found == expected
    assert found[0][:2] == [14, 314]
    assert export(sink, tmp_path / "other", "megatron", "--row-token", 304) == 4
    assert export(sink, tmp_path / "other", "megatron", "--row-token", 305) == 0


def test_megatron_scales_have_the_rows_of_each(tmp_path):
    sink = kinds.make_sink(tmp_path / "codes", kinds.SCALES)
    assert export(sink, tmp_path / "out", "megatron", "--row-token", 99) == 0
    expected = []
    for row in rows_of(sink):
        a, *rest = row["codes"]
        pairs = [[*rest[at : at + 2], 99] for at in range(0, 10, 2)]
        expected.append([a, 99, *(each for pair in pairs for each in pair)])
    assert read_all(tmp_path / "out")[0] == expected


def test_megatron_sequence_has_no_rows_to_mark(tmp_path, capsys):
    sink = kinds.make_sink(tmp_path / "codes", kinds.SEQUENCE)
    assert export(sink, tmp_path / "out", "megatron", "--row-token", 5000) == 4
    assert "a sequence of 7, which has no rows" in capsys.readouterr().err
    assert export(sink, tmp_path / "out", "megatron") == 0
    assert read_all(tmp_path / "out")[0] == [row["codes"] for row in rows_of(sink)]


@pytest.mark.parametrize(
    ("size", "options", "kind"),
    [
        (2, [], "u2"),
        (65_536, [], "u2"),
        (65_536, ["--offset", 1], "i4"),
        (65_537, [], "i4"),
        (262_144, ["--offset", 151_000], "i4"),
        (16, ["--offset", 65_520], "u2"),
        (16, ["--offset", 65_521], "i4"),
        (16, ["--eod-token", 65_535], "u2"),
        (16, ["--eod-token", 65_536], "i4"),
        (16, ["--offset", 2**31 - 16], "i4"),
    ],
)
def test_megatron_tokens_have_room_for_the_largest_id(tmp_path, size, options, kind):
    sink = kinds.make_sink(tmp_path / "codes", CodeLayout.grid(2, 3, size))
    assert export(sink, tmp_path / "out", "megatron", *options) == 0
    found, types = read_all(tmp_path / "out")
    offset = options[1] if "--offset" in options else 0
    eod = options[1:] if "--eod-token" in options else []
    assert types == {np.dtype(kind)}
    assert found == [[offset + code for code in row["codes"]] + eod for row in rows_of(sink)]
    assert found[0][0] == offset + size - 1  # the largest that there may be


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--offset", 2**31 - 15], "tokens of Megatron have 31 bits"),
        (["--begin-token", 15], "--begin-token is 15, which is the id of a code"),
        (["--offset", 5, "--eod-token", 20], "codes have 5 to 20"),
        (["--caption", "txt"], "--caption needs --tokenizer"),
        (["--tokenizer", "none.json"], "there is no none.json"),
        (["--label", "label"], "--label is no option of --to megatron"),
        (["--offset", -1], "--offset is -1"),
    ],
)
def test_megatron_refuses_ids_that_clash_and_writes_nothing(tmp_path, capsys, options, said):
    sink = make_sink(tmp_path / "codes")
    assert export(sink, tmp_path / "out", "megatron", *options) == 4
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


WORDS = ["[PAD]", "[CLS]", "[UNK]", "caption", "of", "a", "/", "0", "1", "2"]


@pytest.fixture
def tokenizer(tmp_path):
    """A file that asks for padding, truncation and a token before each text, as models do."""
    made = Tokenizer(models.WordLevel({word: 10 + at for at, word in enumerate(WORDS)}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("[CLS] $A", special_tokens=[("[CLS]", 11)])
    made.enable_padding(length=30, pad_id=10)
    made.enable_truncation(2)
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_megatron_captions_stand_before_images_as_the_tokenizer_has_them(tmp_path, tokenizer):
    sink = kinds.make_sink(tmp_path / "codes", CodeLayout.grid(2, 3, 16))
    words = ["--tokenizer", tokenizer, "--offset", 20, "--begin-token", 1, "--eod-token", 2]
    assert export(sink, tmp_path / "out", "megatron", *words) == 0
    check_totals(sink, tmp_path / "out")
    ids = {word: 10 + at for at, word in enumerate(WORDS)}
    expected = []
    for row in rows_of(sink):
        text = row["txt"].replace("/", " / ").split()
        tokens = [ids.get(word, ids["[UNK]"]) for word in text]
        expected.append([*tokens, 1, *(20 + code for code in row["codes"]), 2])
    assert read_all(tmp_path / "out")[0] == expected
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == tokenizer.read_bytes()
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert (meta["text_ids"], meta["vocabulary_size"]) == ([0, 19], 36)


def test_megatron_null_caption_is_no_text(tmp_path, tokenizer):
    sink = make_sink(tmp_path / "codes", {"a": 3}, change=_without_one)
    options = ["--tokenizer", tokenizer, "--offset", 20, "--begin-token", 1]
    assert export(sink, tmp_path / "out", "megatron", *options) == 0
    first, second = read_all(tmp_path / "out")[0]
    assert first.index(1) > 0
    assert second.index(1) == 0


def _without_one(rows):
    exports.describe(rows)
    rows[2]["kept.txt"] = None


def test_megatron_caption_needs_an_offset_and_ids_apart_from_codes(tmp_path, tokenizer, capsys):
    sink = kinds.make_sink(tmp_path / "codes", CodeLayout.grid(2, 3, 16))
    options = ["--tokenizer", tokenizer]
    assert export(sink, tmp_path / "out", "megatron", *options) == 4
    assert "--offset 20" in capsys.readouterr().err
    assert export(sink, tmp_path / "out", "megatron", *options, "--offset", 14) == 4
    assert "the caption of 'a/0' has the token" in capsys.readouterr().err
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_megatron_tokenizer_that_changed_is_refused(tmp_path, tokenizer, capsys):
    sink = kinds.make_sink(tmp_path / "codes", CodeLayout.grid(2, 3, 16))
    options = ["--tokenizer", tokenizer, "--offset", 100]
    with exports.Crashing(30, after=False), pytest.raises(exports.Crash):
        export(sink, tmp_path / "out", "megatron", *options)
    assert (tmp_path / "out" / "tokenizer.json").exists()
    tokenizer.write_text(tokenizer.read_text().replace('"of"', '"von"'))
    _forget()
    assert export(sink, tmp_path / "out", "megatron", *options) == 3
    assert "is not what it was when this export began" in capsys.readouterr().err


def _forget():
    """Has the next export read its tokenizer, as a process of its own does."""
    from vqpipe.export.words import read_words

    read_words.cache_clear()


def test_megatron_file_that_is_no_tokenizer_is_refused(tmp_path, capsys):
    sink = make_sink(tmp_path / "codes")
    (tmp_path / "t.json").write_text('{"model": 1}')
    options = ["--tokenizer", tmp_path / "t.json", "--offset", 5]
    assert export(sink, tmp_path / "out", "megatron", *options) == 4
    assert "is no tokenizer.json of Hugging Face's tokenizers" in capsys.readouterr().err


def test_megatron_pairs_have_whole_shards_and_about_as_many_rows_as_are_asked_for(tmp_path):
    sink = make_sink(tmp_path / "codes", {"A": 0, "a": 5, "b": 0, "c": 3, "d": 9, "e": 2, "f": 0})
    assert export(sink, tmp_path / "out", "megatron", "--rows-per-file", 6) == 0
    rows = rows_of(sink)
    assert read_all(tmp_path / "out")[0] == [row["codes"] for row in rows]
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert meta["documents"] == {"codes-00000": 6, "codes-00001": 9}
    for name, count in meta["documents"].items():
        assert len(read(tmp_path / "out" / name)[0]) == count
    check_totals(sink, tmp_path / "out")


@some_kills
def test_megatron_killed_at_any_storage_call_ends_with_the_same_bytes(tmp_path, tokenizer, step):
    options = ["--tokenizer", tokenizer, "--offset", 20, "--rows-per-file", 2]
    check_kills(make_sink(tmp_path / "codes"), tmp_path, "megatron", *options, step=step)


def test_megatron_of_processes_has_the_same_bytes_as_of_one(tmp_path, tokenizer):
    sink = make_sink(tmp_path / "codes", views=2)
    options = ["--tokenizer", tokenizer, "--offset", 20, *MARKS]
    assert export(sink, tmp_path / "one", "megatron", *options) == 0
    assert export(sink, tmp_path / "two", "megatron", *options, workers=2) == 0
    assert exports.files_of(tmp_path / "one") == exports.files_of(tmp_path / "two")


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")  # Megatron's imports warn of all that is not installed
@pytest.mark.parametrize("layout", [CodeLayout.grid(2, 3, 65_536), *kinds.LAYOUTS.values()])
@pytest.mark.parametrize("options", [(), ("--offset", 65_000, "--eod-token", 200_000)])
def test_megatron_core_reads_what_the_reader_here_reads(tmp_path, layout, options):
    dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset").IndexedDataset
    sink = kinds.make_sink(tmp_path / "codes", layout, (("a", 3), ("b", 9), ("c", 4)))
    assert export(sink, tmp_path / "out", "megatron", *options, "--rows-per-file", 8) == 0
    found, kind = [], set()
    for index in sorted((tmp_path / "out").glob("*.idx")):
        opened = dataset(str(index.with_suffix("")))
        assert opened.document_indices.tolist() == list(range(len(opened) + 1))
        found += [opened[number].tolist() for number in range(len(opened))]
        kind.add(opened.index.dtype)
    assert (found, {np.dtype(each) for each in kind}) == read_all(tmp_path / "out")
    assert len(found) == 16
