r"""Megatron's indexed datasets: a few pairs of files, each row of the sink a document of tokens.

    codes-00000.bin  tokens, document behind document
    codes-00000.idx  where documents are, and of which type tokens are
    tokenizer.json   that of captions, as it was given, where there are captions
    meta.json        ids of everything, and how many documents each pair has

A document is one sequence: the tokens of the caption, then those of the image (`export.sequences`).
A pair has whole shards. Tokens are uint16 where all ids are below 65,536, int32 elsewhere.

The index is `MMIDIDX\0\0`, version 1 (uint64), the type of tokens (uint8), how many sequences
(uint64) and how many bounds of documents there are (uint64); then lengths of sequences in tokens
(int32), where they begin in bytes (int64), and at which sequence each document begins, and the last
one ends (int64). Source: `_IndexWriter` and `DType` of
https://github.com/NVIDIA/Megatron-LM/blob/93261d7033e00196131ba9596651c32d38dd264a/megatron/core/datasets/indexed_dataset.py
"""

import itertools
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe import storage
from vqpipe.errors import AccountingError, ConfigError
from vqpipe.export import pieces, place
from vqpipe.export.about import on_disk, write_meta
from vqpipe.export.codes import check_codes
from vqpipe.export.columns import need_caption
from vqpipe.export.files import spool
from vqpipe.export.format import Made
from vqpipe.export.records import codes_of
from vqpipe.export.sequences import Marks, Tokens, Vocabulary
from vqpipe.export.subject import Subject
from vqpipe.export.words import keep_words, read_words
from vqpipe.schema import GRID
from vqpipe.sink.objects import CODES

ROWS_PER_FILE = 10_000_000
"""Documents of 256 tokens of 16 bits make 5 GB."""
_HEAD, _VERSION = b"MMIDIDX\x00\x00", 1
_MOST_NAMED = 3
_DTYPES: dict[int, np.dtype[np.integer[Any]]] = {8: np.dtype("<u2"), 4: np.dtype("<i4")}
"""By the number that the index has for it."""


@dataclass(frozen=True)
class Megatron:
    """Pairs of tokens and their index."""

    offset: int | None = None
    begin_token: int | None = None
    row_token: int | None = None
    end_token: int | None = None
    eod_token: int | None = None
    caption: str | None = None
    tokenizer: str | None = None
    rows_per_file: int = ROWS_PER_FILE

    def settle(self, subject: Subject) -> Self:
        """Refuses ids that clash or have no room, and captions that nothing turns into tokens."""
        check_codes(subject)
        self._check_rows(subject)
        caption = self._check_captions(subject)
        ids = self._vocabulary(subject)
        for name in ("begin", "row", "end", "eod"):
            if getattr(ids.marks, name) in ids.codes:
                raise ConfigError(
                    f"--{name}-token is {getattr(ids.marks, name)}, which is the id of a code: "
                    f"codes have {ids.codes[0]:,} to {ids.codes[-1]:,}; give another, or --offset"
                )
        _find_type(self._largest(subject))
        return replace(self, caption=caption)

    def _check_rows(self, subject: Subject) -> None:
        has_rows = all(len(shape) > 1 for shape in subject.layout.shapes)
        if self.row_token is not None and not has_rows:
            raise ConfigError(
                f"--row-token is given, and the codes of {subject.snapshot.uri} are "
                f"{subject.layout.describe()}, which has no rows: leave it away"
            )

    def _check_captions(self, subject: Subject) -> str | None:
        """Returns the column of captions; None where there is no tokenizer for them."""
        if not self.tokenizer:
            if self.caption:
                raise ConfigError("--caption needs --tokenizer, which makes tokens of captions")
            return None
        caption = need_caption(subject, self.caption, "--tokenizer")
        if self.offset is None:
            size = read_words(self.tokenizer).size
            raise ConfigError(
                f"--tokenizer has ids up to {size - 1:,}, and codes would begin at 0: say by "
                f"--offset where they are to begin, such as --offset {size}"
            )
        return caption

    def _vocabulary(self, subject: Subject) -> Vocabulary:
        marks = Marks(self.begin_token, self.row_token, self.end_token, self.eod_token)
        return Vocabulary(subject.layout, self.offset or 0, marks)

    def _largest(self, subject: Subject) -> int:
        """Returns the largest id that there may be."""
        ids = self._vocabulary(subject)
        marks = (ids.marks.begin, ids.marks.row, ids.marks.end, ids.marks.eod)
        text = [read_words(self.tokenizer).size - 1] if self.tokenizer else []
        return max([ids.codes[-1], *(each for each in marks if each is not None), *text])

    def columns(self, subject: Subject) -> list[str]:
        """Returns codes, and what is needed to make documents of them."""
        grids = [field.name for field in GRID] if subject.layout.differs else []
        captions = [need_caption(subject, self.caption, "--tokenizer")] if self.tokenizer else []
        return ["key", CODES, *grids, *captions]

    def write_shard(
        self, subject: Subject, index: int, groups: Iterator[pa.Table], out: str
    ) -> Made:
        """Writes pieces: tokens, and the lengths of their documents."""
        self._keep_tokenizer(out)
        kind = _find_type(self._largest(subject))
        rows, lengths = 0, []
        pair = _pair_of(subject, self.rows_per_file, index)
        number = index - pair.shards[0]
        with spool() as tokens:
            for table in groups:
                found = self._documents(subject, table)
                tokens.write(_pack(found, kind))
                lengths.append(np.array([len(each) for each in found], "<i4").tobytes())
                rows += len(table)
            uri = place.piece_uri(out, pair.name("bin"), number)
            storage.replace(uri, storage.FileContent(tokens))  # what a killed command left is of
        uri = place.piece_uri(out, pair.name("idx"), number)  # another version of tokenizers, maybe
        storage.replace(uri, b"".join(lengths))
        return Made(rows)

    def _documents(self, subject: Subject, table: pa.Table) -> list[Tokens]:
        """Returns the tokens of each row."""
        ids = self._vocabulary(subject)
        images = ids.tokens(codes_of(subject.layout, table))
        if not self.tokenizer:
            return images
        captions = table[need_caption(subject, self.caption, "--tokenizer")].to_pylist()
        texts = read_words(self.tokenizer).tokens([each or "" for each in captions])
        for key, text in zip(table["key"], texts, strict=True):
            _check_apart(key.as_py(), text, ids.codes)
        return [np.concatenate(each) for each in zip(texts, images, strict=True)]

    def _keep_tokenizer(self, out: str) -> Made:
        """Puts the tokenizer beside the tokens that it has made; none if there are no captions."""
        return keep_words(self.tokenizer, out) if self.tokenizer else Made()

    def finish(self, subject: Subject, out: str) -> Made:
        """Joins the tokens of each pair, writes its index, and says what ids there are."""
        made = self._keep_tokenizer(out)
        kind = _find_type(self._largest(subject))
        pairs = _pairs(subject, self.rows_per_file)
        for pair in pairs:
            made += pieces.join_pieces(out, pair.name("bin"), len(pair.shards))
            found = pieces.read_pieces(out, pair.name("idx"), len(pair.shards))
            index = _index(np.frombuffer(b"".join(found), "<i4"), kind)
            storage.publish(storage.join_uri(out, pair.name("idx")), index)
            made += Made(files=1, bytes=len(index))
        return made + write_meta(subject, out, self._describe(subject, pairs))

    def _describe(self, subject: Subject, pairs: list["_Pair"]) -> dict[str, Any]:
        ids = self._vocabulary(subject)
        rows = subject.snapshot.rows
        return {
            "documents": {each.stem: int(rows[each.shards].sum()) for each in pairs},
            "dtype": _find_type(self._largest(subject)).name,
            "vocabulary_size": self._largest(subject) + 1,
            "text_ids": [0, read_words(self.tokenizer).size - 1] if self.tokenizer else None,
            "code_ids": [ids.codes[0], ids.codes[-1]],
            "marks": asdict(ids.marks),
        }

    def read_with(self, subject: Subject, out: str) -> str:
        """Returns what Megatron is told."""
        pairs = _pairs(subject, self.rows_per_file)
        prefixes = " ".join(f"{{}}/{each.stem}" for each in pairs[:_MOST_NAMED])
        more = f" (and {len(pairs) - _MOST_NAMED:,} more)" if len(pairs) > _MOST_NAMED else ""
        size = self._largest(subject) + 1
        return on_disk(f"--data-path {prefixes}{more}, {size:,} tokens in the vocabulary", out)


@dataclass(frozen=True)
class _Pair:
    """Two files of one name."""

    number: int
    shards: range
    """Whose rows are in them."""

    @property
    def stem(self) -> str:
        return f"codes-{self.number:05d}"

    def name(self, suffix: str) -> str:
        return f"{self.stem}.{suffix}"


def _numbers(subject: Subject, most: int) -> npt.NDArray[np.intp]:
    """Returns the pair of each shard, (shards,): the one that its last row falls into."""
    lasts = np.maximum(subject.snapshot.starts[1:] - 1, 0)
    numbers: npt.NDArray[np.intp] = np.unique(lasts // most, return_inverse=True)[1]
    return numbers


def _pairs(subject: Subject, most: int) -> list[_Pair]:
    """Returns pairs of whole shards, of about as many rows as they may have."""
    counts = np.bincount(_numbers(subject, most))
    bounds = np.append(0, np.cumsum(counts)).tolist()
    found = (range(first, last) for first, last in itertools.pairwise(bounds))
    return [_Pair(number, shards) for number, shards in enumerate(found)]


def _pair_of(subject: Subject, most: int, index: int) -> _Pair:
    numbers = _numbers(subject, most)
    number = int(numbers[index])
    first, last = np.searchsorted(numbers, [number, number + 1]).tolist()
    return _Pair(number, range(first, last))


def _find_type(largest: int) -> np.dtype[np.integer[Any]]:
    """Returns the type of tokens.

    Raises:
        ConfigError: If Megatron has none that is large enough.
    """
    for kind in _DTYPES.values():
        if largest <= np.iinfo(kind).max:
            return kind
    raise ConfigError(f"the largest id is {largest:,}, and tokens of Megatron have 31 bits")


def _pack(documents: list[Tokens], kind: np.dtype[Any]) -> bytes:
    """Returns tokens as they are stored.

    Raises:
        AccountingError: If one has no room.
    """
    tokens = np.concatenate([*documents, np.empty(0, np.int64)])
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() <= np.iinfo(kind).max:
        raise AccountingError(f"tokens are {tokens.min()} to {tokens.max()}, not all in {kind}")
    return tokens.astype(kind).tobytes()


def _check_apart(key: str, text: Tokens, codes: range) -> None:
    """Checks that no token of a caption is taken for a code.

    Raises:
        ConfigError: If one is; names the image.
    """
    clashing = text[(text >= codes.start) & (text < codes.stop)]
    if len(clashing):
        raise ConfigError(
            f"the caption of {key!r} has the token {clashing[0]:,}, which is the id of a code: "
            f"codes have {codes.start:,} to {codes.stop - 1:,}; export to another place with "
            "another --offset"
        )


def _index(lengths: npt.NDArray[np.int32], kind: np.dtype[Any]) -> bytes:
    """Returns the index of documents that are one sequence each."""
    number = next(number for number, each in _DTYPES.items() if each == kind)
    count = len(lengths)
    ends = np.cumsum(lengths, dtype=np.int64) * kind.itemsize
    head = struct.pack("<QBQQ", _VERSION, number, count, count + 1)
    starts = np.append(0, ends)[:count].astype("<i8")
    bounds = np.arange(count + 1, dtype="<i8")
    return b"".join([_HEAD, head, lengths.tobytes(), starts.tobytes(), bounds.tobytes()])
