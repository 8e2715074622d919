"""Images that differ in their grids of codes: which formats take them, and as what."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests import plain
from tests.codec import models
from tests.export.exports import check_totals, export, rows_of
from tests.export.test_emu3 import load_npz
from tests.makers import encoded, picture

SIZES = [(90, 60), (60, 90), (64, 64)]


@pytest.fixture(scope="module")
def sink(tmp_path_factory):
    home = tmp_path_factory.mktemp("grids")
    photos = [Image.fromarray(picture(*size, i)) for i, size in enumerate(SIZES)]
    columns = {"image": [encoded(each, "PNG") for each in photos]}
    columns |= {"id": [f"k{i}" for i in range(3)], "text": ["a", "b", "c"], "cls": [3, 1, 2]}
    (home / "photos").mkdir()
    pq.write_table(pa.table(columns), home / "photos" / "a.parquet")
    words = ["encode", "--source", home / "photos", "--sink", home / "codes", "--key", "id"]
    words += ["--model", models.write_tiny(home / "model", photos), "--pixel-range", "signed"]
    words += ["--skip-doctor", "--keep", "text", "cls", "--buckets", "32"]
    assert plain.run([words]) == [0]
    return home / "codes"


def grids(sink):
    rows = rows_of(sink)
    return [np.array(row["codes"]).reshape(row["grid_h"], row["grid_w"]) for row in rows]


def test_emu3_has_the_grid_of_each_image(sink, tmp_path):
    assert export(sink, tmp_path / "out", "emu3") == 0
    listed = json.loads((tmp_path / "out" / "list" / "train.json").read_text())
    found = [load_npz(f"{listed['prefix']}/{name}")["images"] for name in listed["path_list"]]
    assert [each.tolist() for each in found] == [each.tolist() for each in grids(sink)]
    assert len({each.shape for each in found}) > 1
    check_totals(sink, tmp_path / "out")


def test_lumina_has_the_sides_of_each_image_as_its_trainer_names_them(sink, tmp_path):
    assert export(sink, tmp_path / "out", "lumina") == 0
    for i, grid in enumerate(grids(sink)):
        said = json.loads((tmp_path / "out" / "files" / f"{i}.json").read_text())
        assert (said["width"], said["height"]) == (16 * grid.shape[0], 16 * grid.shape[1])
        assert said["input_ids"] == (grid.ravel() + 126356).tolist()


@pytest.mark.parametrize("name", ["halton", "llamagen", "npy", "rar"])
def test_formats_of_one_grid_refuse_several(sink, tmp_path, capsys, name):
    assert export(sink, tmp_path / "out", name) == 4
    assert f"--to {name} needs as many codes of every image" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
