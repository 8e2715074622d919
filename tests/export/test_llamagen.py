"""Files of codes and labels as LlamaGen's reader takes them, against the rows of the sink."""

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
    success_of,
)
from tests.sink.runs import KEPT


class Reader:
    """What the reader of LlamaGen does (dataset/imagenet.py at commit ce98ec4), of any store."""

    def __init__(self, out, count):
        self._files = files_of(out)
        self._names = [f"{i}.npy" for i in range(count)]

    def __len__(self):
        return len(self._names)

    def load(self, index, view):
        """Returns codes and label of an image: what a batch of one has, view `view` drawn."""
        features = self._load(f"imagenet32_codes/{self._names[index]}")
        labels = self._load(f"imagenet32_labels/{self._names[index]}")
        x, y = features[None, :, view], labels[None]
        return x.reshape(x.shape[0], -1), y.reshape(-1)

    def _load(self, name):
        return np.load(io.BytesIO(self._files[name]))


SQUARE = {"grid": (3, 3), "codebook_size": 300}


@pytest.mark.parametrize("views", [1, 3])
def test_llamagen_reader_gets_codes_of_every_view_and_labels_in_order(base, views):
    sink = make_sink(f"{base}/codes", views=views, **SQUARE)
    assert export(sink, f"{base}/out", "llamagen") == 0
    rows = rows_of(sink)
    reader = Reader(f"{base}/out", len(rows) // views)
    for number, row in enumerate(rows):
        codes, label = reader.load(number // views, row["view"])
        assert (codes.dtype, label.dtype) == (np.int64, np.int64)
        assert codes.tolist() == [row["codes"]]
        assert label.tolist() == [row["label"]]
    check_totals(sink, f"{base}/out", views)
    assert success_of(f"{base}/out")["files"] == 2 * len(reader)


@some_kills
def test_llamagen_killed_at_any_storage_call_ends_with_the_same_bytes(tmp_path, step):
    check_kills(make_sink(tmp_path / "codes", **SQUARE), tmp_path, "llamagen", step=step)


def test_llamagen_says_what_to_change_of_a_reader_that_counts_on_imagenet(tmp_path, capsys):
    sink = make_sink(tmp_path / "codes", views=2, **SQUARE)
    assert export(sink, tmp_path / "out", "llamagen", "--set-name", "birds") == 0
    assert (tmp_path / "out" / "birds32_codes" / "0.npy").exists()
    said = capsys.readouterr().out
    assert f"--code-path {tmp_path}/out --dataset birds_code --image-size 32" in said
    assert "put 6 for 1281167" in said
    assert '"flip"' in said


def test_llamagen_of_grids_that_are_no_squares_or_without_labels_is_refused(tmp_path, capsys):
    sink = make_sink(tmp_path / "codes")
    assert export(sink, tmp_path / "out", "llamagen") == 4
    assert "2 x 3" in capsys.readouterr().err
    plain = make_sink(tmp_path / "plain", kept=KEPT, change=None, **SQUARE)
    assert export(plain, tmp_path / "out", "llamagen") == 4
    assert "--label" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
