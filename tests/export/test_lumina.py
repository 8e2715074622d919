"""Files and records as Lumina-DiMOO's reader takes them, against the rows of the sink."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from tests.export.exports import check_kills, check_totals, export, make_sink, rows_of, some_kills
from tests.export.unpickle import unpickle

BREAK, BEGIN, END, ANSWER, LAST = 126084, 126349, 126350, 126354, 126355


def add_breaks(sequence, height, width):
    """Returns ids row by row, each with a break behind it (add_break_line of train/train.py)."""
    rows = ([*sequence[i * width : (i + 1) * width], BREAK] for i in range(height))
    return [each for row in rows for each in row]


def read(path, load):
    """Yields prompt and ids without a mask (train/train.py at commit 81344e6)."""
    for item in json.loads(Path(path).read_text()):
        assert item["user_image"] == ""
        data = load(io.BytesIO(Path(item["answer_image"]).read_bytes()))
        assert data["height"] % 16 == 0
        assert data["width"] % 16 == 0
        height, width = data["width"] // 16, data["height"] // 16
        assert item["len"] == data["length"] == len(data["input_ids"]) == height * width
        ids = add_breaks(data["input_ids"], height, width)
        prompt = f"<system>{item['system_prompt']}</system><user>{item['user_prompt']}</user>"
        yield item["id"], prompt, [ANSWER, BEGIN, *ids, END, LAST]


def expected(number, row, shape):
    grid = np.array(row["codes"]).reshape(shape) + 126356
    ids = [each for line in grid.tolist() for each in [*line, BREAK]]
    system = "Generate an image accroding to the text prompt."
    prompt = f"<system>{system}</system><user>{row['txt']}</user>"
    return number, prompt, [ANSWER, BEGIN, *ids, END, LAST]


@pytest.mark.parametrize(("options", "load"), [(["--pickle"], unpickle), ([], json.load)])
@pytest.mark.parametrize("grid", [(2, 3), (4, 2)])
def test_lumina_reader_gets_prompt_and_ids_of_every_view_row_by_row(tmp_path, options, load, grid):
    sink = make_sink(tmp_path / "codes", codebook_size=8192, grid=grid, views=2)
    assert export(sink, tmp_path / "out", "lumina", *options) == 0
    found = list(read(tmp_path / "out" / "all_records.json", load))
    assert found == [expected(i, row, grid) for i, row in enumerate(rows_of(sink))]
    check_totals(sink, tmp_path / "out", 2)


@some_kills
def test_lumina_killed_at_any_storage_call_ends_with_the_same_bytes(tmp_path, step):
    sink = make_sink(tmp_path / "codes")
    check_kills(sink, tmp_path, "lumina", "--pickle", "--seen-at", "/data", step=step)


def test_lumina_refuses_a_codebook_that_it_has_no_ids_for(tmp_path, capsys):
    sink = make_sink(tmp_path / "codes", codebook_size=8193)
    assert export(sink, tmp_path / "out", "lumina") == 4
    assert "8,193" in capsys.readouterr().err
