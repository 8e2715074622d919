"""What Lumina-mGPT and Lumina-mGPT 2.0 are tuned on: prompt and image as one sequence of ids.

    record.json      without --pickle: [{"token": ids, "label": ids or -100, "id": n}]
                     with it: [{"file": pickle of such an object, "len": ids, "id": n}]
    files/<n>.pkl    with --pickle alone
    tokenizer.json   that of the text, as it was given

`pre_tokenize/pre_tokenize.py` of both writes the files, `pre_tokenize/concat_record.py` the list,
and `finetune_solver.py` reads either kind of record: one without a file needs no pickle
(https://github.com/Alpha-VLLM/Lumina-mGPT, commit 104abe4, and
https://github.com/Alpha-VLLM/Lumina-mGPT-2.0, commit f44a4d7). A sequence is

    begin | prompt | turn | image: start, rows / 2 or 4, columns / 2 or 4, codes with a new line
    behind each row, end | turn

of which image and last turn are labels. Ids of codes are those of `IMGIMG...` in the vocabulary, as
Chameleon's has them, else codes + 155,000. The prompt tells the size; one of ten in 2.0 does not,
drawn there by lot, here by its number.
"""

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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
from vqpipe.export.words import keep_words, read_words
from vqpipe.permutation import mix

_NAME = "--to lumina_mgpt"
_START, _END, _TURN, _NEW_LINE = "<racm3:break>", "<eoss>", "<reserved08706>", "<reserved08799>"
_PATCH, _OFFSET, _FIRST_COUNT = 32, 155_000, 8800
"""Pixels that counts of rows and columns are in; id of the first code; name of the count 0."""
_UNLABELLED, _WITHOUT_SIZE = -100, 10
_RECORDS = "record.json"


@dataclass(frozen=True)
class LuminaMgpt:
    """Sequences of ids, in one list, or in a file each."""

    tokenizer: str | None = None
    begin_token: int | None = None
    caption: str | None = None
    pickle: bool = False
    seen_at: str | None = None

    def settle(self, subject: Subject) -> Self:
        """Refuses codes that are no grids of whole patches, and what there are no ids for."""
        check_grid(subject, "lumina_mgpt")
        caption = need_caption(subject, self.caption, _NAME)
        if self.tokenizer is None or self.begin_token is None:
            raise ConfigError(
                f"{_NAME} needs --tokenizer, the tokenizer.json of the model, and --begin-token, "
                "the id that it begins a text with (bos_token of its tokenizer_config.json)"
            )
        for height, width in subject.layout.shapes:
            self._image_ids(subject, np.zeros((height, width), np.int64))
        _code_ids(self.tokenizer, subject.layout.codebook_size)
        return replace(self, caption=caption)

    def columns(self, subject: Subject) -> list[str]:
        """Returns codes and captions."""
        return [*grid_columns(subject), need_caption(subject, self.caption, _NAME)]

    def write_shard(
        self, subject: Subject, index: int, groups: Iterator[pa.Table], out: str
    ) -> Made:
        """Writes a piece of the list, and a file for each row where these are asked for."""
        self._keep_tokenizer(out)
        made = Made()
        with spool() as records:
            for table in groups:
                first = subject.first_row(index) + made.rows
                found = self._sequences(subject, table, first)
                if self.pickle:
                    made += write_files(self._files(out, found, records))
                else:
                    for item in found:
                        _add(records, item)
                made += Made(rows=len(table))
            publish_file(place.piece_uri(out, "records", index), records)
        return made

    def _keep_tokenizer(self, out: str) -> Made:
        assert self.tokenizer is not None, "checked"
        return keep_words(self.tokenizer, out)

    def _files(
        self,
        out: str,
        items: Iterator[dict[str, Any]],
        records: Any,  # noqa: ANN401 (a file)
    ) -> Iterator[tuple[str, bytes]]:
        """Yields URI and content of each row's file, and adds it to the list."""
        for item in items:
            name = f"files/{item['id']}.pkl"
            file = storage.join_uri(self.seen_at or out, name)
            _add(records, {"file": file, "len": len(item["token"]), "id": item["id"]})
            yield storage.join_uri(out, name), to_pickle(item)

    def _sequences(self, subject: Subject, table: pa.Table, first: int) -> Iterator[dict[str, Any]]:
        """Yields the sequence of each row, of which the first has a number."""
        assert self.tokenizer is not None, "checked"
        words, captions = read_words(self.tokenizer), captions_of(table, self.columns(subject)[-1])
        turn, factor = _id_of(self.tokenizer, _TURN), _factor(subject)
        rows = zip(grids_of(table, subject), captions, strict=True)
        for number, (grid, caption) in enumerate(rows, first):
            [prompt] = words.tokens([_prompt(number, caption, grid, factor) + _TURN])
            begin = [self.begin_token, *prompt.tolist()]
            answer = [*self._image_ids(subject, grid), turn]
            labels = [_UNLABELLED] * len(begin) + answer
            yield {"token": begin + answer, "label": labels, "id": number}

    def _image_ids(self, subject: Subject, grid: Array) -> list[int]:
        """Returns the ids of an image.

        Raises:
            ConfigError: If it is of no whole patches, or one of the ids is not in the vocabulary.
        """
        assert self.tokenizer is not None, "checked"
        sides = [side * _factor(subject) for side in grid.shape]
        if any(side % _PATCH for side in sides):
            raise ConfigError(
                f"{_NAME} takes images with sides that are multiples of {_PATCH} pixels, and one "
                f"has {sides[1]} x {sides[0]}"
            )
        counts = [f"<reserved{_FIRST_COUNT + side // _PATCH:05d}>" for side in sides]
        ids = _code_ids(self.tokenizer, subject.layout.codebook_size)[grid.astype(np.int64)]
        lines = np.pad(ids, ((0, 0), (0, 1)), constant_values=_id_of(self.tokenizer, _NEW_LINE))
        head = [_id_of(self.tokenizer, name) for name in (_START, *counts)]
        return [*head, *lines.ravel().tolist(), _id_of(self.tokenizer, _END)]

    def finish(self, subject: Subject, out: str) -> Made:
        """Joins the list."""
        made = self._keep_tokenizer(out)
        uri = storage.join_uri(out, _RECORDS)
        return made + join_pieces(out, "records", len(subject), b"[", b"]\n", uri)

    def read_with(self, subject: Subject, out: str) -> str:  # noqa: ARG002 (of whatever it is)
        """Returns what names the list to the trainer, and what is to be changed of its reader."""
        said = f"path: {storage.join_uri(self.seen_at or out, _RECORDS)} in the data config"
        if self.pickle:
            said += '; in finetune_solver.py of 2.0, put data_item["file"] for its own path'
        return said


def _add(records: Any, item: dict[str, Any]) -> None:  # noqa: ANN401 (a file)
    """Adds an item to the list, behind those before it."""
    records.write((b",\n" if item["id"] else b"") + json.dumps(item).encode())


def _prompt(number: int, caption: str, grid: Array, factor: int) -> str:
    height, width = (side * factor for side in grid.shape)
    drawn = int(mix(np.array([number], np.uint64))[0]) % _WITHOUT_SIZE
    size = f" of {width}x{height}" if drawn else ""
    return f"Generate an image{size} according to the following prompt:\n{caption}"


def _factor(subject: Subject) -> int:
    """Returns pixels per code along a side."""
    facts = subject.snapshot.run.facts
    if facts.downsample_factor is None:
        raise ConfigError(f"{_NAME} needs a tokenizer that has a downsample factor")
    return facts.downsample_factor


@functools.lru_cache(64)
def _id_of(tokenizer: str, token: str) -> int:
    found = read_words(tokenizer).id_of(token)
    if found is None:
        raise ConfigError(
            f"--tokenizer {tokenizer} has no token {token}: give that of Lumina-mGPT, and images "
            "no larger than it has counts of patches for"
        )
    return found


@functools.lru_cache(4)
def _code_ids(tokenizer: str, entries: int) -> npt.NDArray[np.int64]:
    """Returns the id of each code, (entries,)."""
    if read_words(tokenizer).id_of(_image_token(0)) is None:
        return np.arange(entries) + _OFFSET
    return np.array([_id_of(tokenizer, _image_token(code)) for code in range(entries)])


def _image_token(code: int) -> str:
    """Returns how Chameleon calls a code: its digits, each as a letter from A on."""
    return "IMGIMG" + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + "Z"
