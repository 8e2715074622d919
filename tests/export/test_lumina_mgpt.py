"""Sequences as Lumina-mGPT's own way makes them of a conversation, against those of an export."""

import io
import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from tests.export.exports import check_kills, check_totals, export, make_sink, rows_of, some_kills
from tests.export.unpickle import unpickle

BEGIN, SIDE = 7, (4, 8)
WORDS = 'Generate an image of x according to the following prompt : a b e 0 1 2 64 128 line " , /'


@pytest.fixture(params=["codes by name", "codes by number"])
def tokenizer(request, tmp_path):
    words = {word: number for number, word in enumerate(["?", *WORDS.split()])}
    made = Tokenizer(models.WordLevel(words, "?"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(), pre_tokenizers.Punctuation()]
    )
    marks = ["<racm3:break>", "<eoss>", "<|image|>"]
    marks += [f"<reserved{number:05d}>" for number in (8706, *range(8799, 8806))]
    if request.param == "codes by name":
        marks += [
            "IMGIMG" + str(i).translate(str.maketrans("0123456789", "ABCDEFGHIJ")) + "Z"
            for i in reversed(range(16))
        ]
    made.add_special_tokens([AddedToken(mark, normalized=False) for mark in marks])
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def image_ids(made, row):
    """Returns what `process_image` of data/item_processor.py does of one of factor 16."""

    def bpe(code):
        name = "".join("ABCDEFGHIJ"[int(digit)] for digit in str(code))
        found = made.token_to_id(f"IMGIMG{name}Z")
        return 155_000 + code if found is None else found

    codes, (height, width) = row["codes"], SIDE
    lines = [[*map(bpe, codes[i * width : (i + 1) * width])] for i in range(height)]
    ids = [made.token_to_id(f"<reserved{8800 + side * 16 // 32:05d}>") for side in SIDE]
    flat = [each for line in lines for each in [*line, made.token_to_id("<reserved08799>")]]
    return [made.token_to_id("<racm3:break>"), *ids, *flat, made.token_to_id("<eoss>")]


def expected(made, row, *, has_size):
    """Returns ids and labels: the conversation as tokens, the image in its mark's place."""
    size = " of 128x64" if has_size else ""
    human = f"Generate an image{size} according to the following prompt:\n{row['txt']}"
    turns = f"{human}<reserved08706>", "<|image|><reserved08706>"
    whole = made.encode("".join(turns), add_special_tokens=False).ids
    asked = len(made.encode(turns[0], add_special_tokens=False).ids)
    image = image_ids(made, row)
    at = whole.index(made.token_to_id("<|image|>"))
    assert at == asked
    tokens = [BEGIN, *whole[:at], *image, *whole[at + 1 :]]
    return tokens, [-100] * (asked + 1) + image + whole[at + 1 :]


def read(path):
    """Yields ids, labels and numbers, as the reader has them (finetune_solver.py)."""
    for item in json.loads(Path(path).read_text()):
        data = item
        if not ("token" in item and "label" in item):
            data = unpickle(io.BytesIO(Path(item["file"]).read_bytes()))
            assert len(data["token"]) == item["len"]
        yield data["token"], data["label"], item["id"]


@pytest.mark.parametrize("options", [[], ["--pickle"]])
def test_lumina_mgpt_reader_gets_what_its_own_processor_makes(tmp_path, tokenizer, options):
    sink = make_sink(tmp_path / "codes", {"a": 30}, grid=SIDE, facts={"downsample_factor": 16})
    how = ["--tokenizer", tokenizer, "--begin-token", BEGIN, *options]
    assert export(sink, tmp_path / "out", "lumina_mgpt", *how) == 0
    made, rows = Tokenizer.from_file(str(tokenizer)), rows_of(sink)
    found = list(read(tmp_path / "out" / "record.json"))
    assert [number for *_, number in found] == list(range(len(rows)))
    without = 0
    for (tokens, labels, _), row in zip(found, rows, strict=True):
        both = [expected(made, row, has_size=has_size) for has_size in (True, False)]
        assert (tokens, labels) in both
        without += (tokens, labels) == both[1]
    assert 0 < without < len(rows) / 2
    check_totals(sink, tmp_path / "out")


@some_kills
def test_lumina_mgpt_killed_at_any_storage_call_ends_with_the_same_bytes(tmp_path, tokenizer, step):
    sink = make_sink(tmp_path / "codes", grid=SIDE, facts={"downsample_factor": 16})
    how = ["--tokenizer", tokenizer, "--begin-token", BEGIN, "--pickle", "--seen-at", "/data"]
    check_kills(sink, tmp_path, "lumina_mgpt", *how, step=step)


def test_lumina_mgpt_refuses_what_it_has_no_ids_for(tmp_path, tokenizer, capsys):
    how = ["--tokenizer", tokenizer, "--begin-token", BEGIN]
    for grid, said in (((2, 3), "48 x 32"), ((4, 16), "<reserved08808>")):
        sink = make_sink(tmp_path / f"{grid}", grid=grid, facts={"downsample_factor": 16})
        assert export(sink, tmp_path / "out", "lumina_mgpt", *how) == 4
        assert said in capsys.readouterr().err
    assert export(sink, tmp_path / "out", "lumina_mgpt") == 4
    assert "--begin-token" in capsys.readouterr().err
