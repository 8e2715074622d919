"""What Emu3 is tuned on: a file for each view of an image, with its grid of codes and its text.

    feature/<n>.pth   with --pickle, for `torch.load`: {"name", "images": (h, w) int64, "texts"}
    feature/<n>.npz   without: arrays `name`, `images` and `texts` of the same
    list/train.json   {"prefix": folder of the files, "path_list": their names}

`emu3/train/prepare_data.py` writes them and `emu3/train/datasets.py` reads them
(https://github.com/baaivision/Emu3, commit f6ea9aa). A name is the key, with the view's number
behind it where there are several.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pyarrow as pa

from vqpipe import storage
from vqpipe.export import place
from vqpipe.export.arrays import Array, to_npz, to_pth
from vqpipe.export.codes import check_grid, grid_columns, grids_of, names_of
from vqpipe.export.columns import captions_of, need_caption
from vqpipe.export.files import publish_file, spool, write_files
from vqpipe.export.format import Made
from vqpipe.export.pieces import join_pieces
from vqpipe.export.subject import Subject

_LIST = "list/train.json"


@dataclass(frozen=True)
class Emu3:
    """A file of codes and text for each view, and a list of them."""

    caption: str | None = None
    pickle: bool = False
    seen_at: str | None = None

    def settle(self, subject: Subject) -> Self:
        """Refuses codes that are no grids, and a sink without captions."""
        check_grid(subject, "emu3")
        return replace(self, caption=need_caption(subject, self.caption, "--to emu3"))

    def columns(self, subject: Subject) -> list[str]:
        """Returns keys, codes and captions."""
        caption = need_caption(subject, self.caption, "--to emu3")
        return [*grid_columns(subject), caption]

    def write_shard(
        self, subject: Subject, index: int, groups: Iterator[pa.Table], out: str
    ) -> Made:
        """Writes a file for each row, and a piece of the list."""
        caption, made = self.columns(subject)[-1], Made()
        with spool() as names:
            for table in groups:
                first = subject.first_row(index) + made.rows
                grids = grids_of(table, subject)
                rows = zip(
                    names_of(table, subject), grids, captions_of(table, caption), strict=True
                )
                files = (self._file(out, number, row) for number, row in enumerate(rows, first))
                made += write_files(files) + Made(rows=len(table))
                names.write(self._list(first, len(table)).encode())
            publish_file(place.piece_uri(out, "list", index), names)
        return made

    def _file(self, out: str, number: int, row: tuple[str, Array, str]) -> tuple[str, bytes]:
        """Returns URI and content of one row's file."""
        name, grid, text = row
        uri, images = storage.join_uri(out, "feature", self._name(number)), grid.astype("<i8")
        if self.pickle:
            return uri, to_pth({"name": name, "images": images, "texts": text})
        return uri, to_npz({"name": np.array(name), "images": images, "texts": np.array(text)})

    def _name(self, number: int) -> str:
        return f"{number:08d}.{'pth' if self.pickle else 'npz'}"

    def _list(self, first: int, count: int) -> str:
        """Returns the names of some files as they stand in the list, behind those before them."""
        names = (json.dumps(self._name(number)) for number in range(first, first + count))
        return "".join(f", {name}" if first + i else name for i, name in enumerate(names))

    def finish(self, subject: Subject, out: str) -> Made:
        """Joins the list."""
        prefix = json.dumps(storage.join_uri(self.seen_at or out, "feature"))
        head = f'{{"prefix": {prefix}, "path_list": ['.encode()
        uri = storage.join_uri(out, _LIST)
        return join_pieces(out, "list", len(subject), head, b"]}", uri)

    def read_with(self, subject: Subject, out: str) -> str:  # noqa: ARG002 (of whatever it is)
        """Returns the option of the trainer, and what is to be changed of its reader."""
        said = f"emu3/train/train.py --data_path {storage.join_uri(self.seen_at or out, _LIST)}"
        if not self.pickle:
            said += (
                "; in emu3/train/datasets.py, put {k: v[()] for k, v in numpy.load(path).items()} "
                "for torch.load(path)"
            )
        return said
