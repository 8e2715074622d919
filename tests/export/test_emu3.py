"""Files and their list as Emu3's reader takes them, against the rows of the sink."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.export.exports import (
    check_kills,
    check_totals,
    export,
    files_of,
    make_sink,
    rows_of,
    some_kills,
)
from vqpipe import storage

PATTERN = "<|visual token {token_id:0>6d}|>"  # emu3/train/train.py


class Reader:
    """What Emu3's reader does (emu3/train/datasets.py at commit f6ea9aa), with words as tokens.

    Its `torch.load` is one that takes arrays and plain data only.
    """

    def __init__(self, path, load):
        listed = json.loads(Path(path).read_text())
        self._prefix, self._names, self._load = listed["prefix"], listed["path_list"], load

    def __len__(self):
        return len(self._names)

    def __getitem__(self, index):
        data = self._load(f"{self._prefix}/{self._names[index]}")
        height, width = data["images"].shape
        lines = ["".join(PATTERN.format(token_id=each) for each in row) for row in data["images"]]
        return data["name"], "bos" + data["texts"] + f"{height}*{width}" + "eol".join(lines)


def load_pth(path):
    with torch.serialization.safe_globals([np.ndarray]):
        return torch.load(path, weights_only=True)


def load_npz(path):
    return {k: v[()] for k, v in np.load(path).items()}


def expected(row, name):
    codes = np.array(row["codes"]).reshape(2, 3)
    lines = ("".join(f"<|visual token {code:06d}|>" for code in line) for line in codes)
    return name, f"bos{row['txt']}2*3" + "eol".join(lines)


@pytest.mark.parametrize(("options", "load"), [(["--pickle"], load_pth), ([], load_npz)])
def test_emu3_reader_gets_text_and_grid_of_every_image(tmp_path, options, load):
    sink = make_sink(tmp_path / "codes", codebook_size=32_768)
    assert export(sink, tmp_path / "out", "emu3", *options) == 0
    reader = Reader(tmp_path / "out" / "list" / "train.json", load)
    rows = rows_of(sink)
    assert [reader[i] for i in range(len(reader))] == [expected(row, row["key"]) for row in rows]
    check_totals(sink, tmp_path / "out")


def test_emu3_of_views_names_each_one(tmp_path):
    sink = make_sink(tmp_path / "codes", views=2)
    assert export(sink, tmp_path / "out", "emu3", "--pickle") == 0
    reader = Reader(tmp_path / "out" / "list" / "train.json", load_pth)
    rows = [expected(row, f"{row['key']}/{row['view']}") for row in rows_of(sink)]
    assert [reader[i] for i in range(len(reader))] == rows


@pytest.mark.s3
def test_emu3_in_a_bucket_needs_the_path_of_the_trainer_and_is_read_there(bucket, tmp_path):
    sink = make_sink(f"{bucket}/codes")
    seen = tmp_path / "seen"
    assert export(sink, f"{bucket}/out", "emu3", "--pickle") == 4
    assert storage.list_files(f"{bucket}/out") == []
    assert export(sink, f"{bucket}/out", "emu3", "--pickle", "--seen-at", seen) == 0
    for name, data in files_of(f"{bucket}/out").items():
        (seen / name).parent.mkdir(parents=True, exist_ok=True)
        (seen / name).write_bytes(data)
    reader = Reader(seen / "list" / "train.json", load_pth)
    rows = [expected(row, row["key"]) for row in rows_of(sink)]
    assert [reader[i] for i in range(len(reader))] == rows


@some_kills
def test_emu3_killed_at_any_storage_call_ends_with_the_same_bytes(tmp_path, step):
    sink = make_sink(tmp_path / "codes")
    check_kills(sink, tmp_path, "emu3", "--pickle", "--seen-at", "/data", step=step)
