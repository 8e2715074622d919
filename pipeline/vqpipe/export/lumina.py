"""What Lumina-DiMOO is tuned on: a file for each view of an image, and a list with the prompts.

    files/<n>.pkl      with --pickle: a pickle of the object below
    files/<n>.json     without: {"input_ids": codes + 126,356, row by row, "length": how many,
                       "height": 16 times the columns, "width": 16 times the rows}
    all_records.json   [{"system_prompt", "user_prompt", ..., "answer_image": file, "id", "len"}]

`pre_tokenizer/pre_tokenize.py` writes them for text to image, and `train/train.py` reads them
(https://github.com/Alpha-VLLM/Lumina-DiMOO, commit 81344e6). Height and width are the wrong way
round there, in both: `data/item_processor.py` takes Pillow's (width, height) for (height, width),
and the reader takes them back. The list has the answer_image under which the trainer opens it.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from vqpipe import storage
from vqpipe.errors import ConfigError
from vqpipe.export import place
from vqpipe.export.arrays import Array, to_pickle
from vqpipe.export.codes import check_grid, grid_columns, grids_of
from vqpipe.export.columns import captions_of, need_caption
from vqpipe.export.files import publish_file, spool, write_files
from vqpipe.export.format import Made
from vqpipe.export.pieces import join_pieces
from vqpipe.export.subject import Subject
from vqpipe.sink.objects import CODES

_OFFSET, _ENTRIES, _PIXELS = 126_356, 8_192, 16
"""Id of the first code, how many there are ids for, and pixels along a side of each."""
_RECORDS = "all_records.json"
_SYSTEM_PROMPT = "Generate an image accroding to the text prompt."  # as its authors spell it


@dataclass(frozen=True)
class Lumina:
    """A file of ids for each view, and a list of them."""

    caption: str | None = None
    pickle: bool = False
    seen_at: str | None = None

    def settle(self, subject: Subject) -> Self:
        """Refuses codes that are no grids, too large a codebook, and a sink without captions."""
        check_grid(subject, "lumina")
        if (entries := subject.layout.codebook_size) > _ENTRIES:
            raise ConfigError(
                f"--to lumina has ids for {_ENTRIES:,} codes, and the codebook has {entries:,} "
                "entries: encode with the tokenizer of Lumina-DiMOO"
            )
        return replace(self, caption=need_caption(subject, self.caption, "--to lumina"))

    def columns(self, subject: Subject) -> list[str]:
        """Returns codes and captions."""
        return [*grid_columns(subject), need_caption(subject, self.caption, "--to lumina")]

    def write_shard(
        self, subject: Subject, index: int, groups: Iterator[pa.Table], out: str
    ) -> Made:
        """Writes a file for each row, and a piece of the list."""
        caption, made = self.columns(subject)[-1], Made()
        with spool() as records:
            for table in groups:
                first = subject.first_row(index) + made.rows
                made += write_files(self._files(out, first, grids_of(table, subject)))
                lengths = pc.list_value_length(table[CODES]).to_pylist()
                rows = zip(captions_of(table, caption), lengths, strict=True)
                for number, row in enumerate(rows, first):
                    records.write(self._record(out, number, *row))
                made += Made(rows=len(table))
            publish_file(place.piece_uri(out, "records", index), records)
        return made

    def _files(self, out: str, first: int, grids: Iterable[Array]) -> Iterator[tuple[str, bytes]]:
        """Yields URI and content of the files of rows."""
        for number, grid in enumerate(grids, first):
            item = _describe(grid)
            data = to_pickle(item) if self.pickle else json.dumps(item).encode()
            yield self._uri(out, number), data

    def _uri(self, base: str, number: int) -> str:
        return storage.join_uri(base, "files", f"{number}.{'pkl' if self.pickle else 'json'}")

    def _record(self, out: str, number: int, prompt: str, length: int) -> bytes:
        """Returns a row as it stands in the list, behind those before it."""
        said = {
            "system_prompt": _SYSTEM_PROMPT,
            "user_prompt": prompt,
            "user_image": "",
            "answer_text": "",
            "answer_image": self._uri(self.seen_at or out, number),
            "answer_thinking": "",
            "id": number,
            "len": length,
        }
        return (",\n" if number else "").encode() + json.dumps(said, ensure_ascii=False).encode()

    def finish(self, subject: Subject, out: str) -> Made:
        """Joins the list."""
        uri = storage.join_uri(out, _RECORDS)
        return join_pieces(out, "records", len(subject), b"[", b"]\n", uri)

    def read_with(self, subject: Subject, out: str) -> str:  # noqa: ARG002 (of whatever it is)
        """Returns what names the list to the trainer, and what is to be changed of its reader."""
        said = f"path: {storage.join_uri(self.seen_at or out, _RECORDS)} in configs/data.yaml"
        return said if self.pickle else f"{said}; in train/train.py, put json.load for pickle.load"


def _describe(grid: Array) -> dict[str, Any]:
    """Returns what the trainer is told of one image's codes, (h, w)."""
    height, width = grid.shape
    ids = (grid.ravel().astype(int) + _OFFSET).tolist()
    sizes = {"height": width * _PIXELS, "width": height * _PIXELS}
    return {"input_ids": ids, "length": len(ids), **sizes}
