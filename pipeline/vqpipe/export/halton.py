"""What Halton-MaskGIT trains on: a file for each view of an image, with codes and class.

    <n>.pth   with --pickle: a pickle of {"code": (h, w) uint16, "y": class}
    <n>.npz   without: arrays `code` and `y` of the same

`extract_vq_features.py` writes such pickles into a folder Train and a folder Eval, and
`CodeDataset` of `Dataset/dataset.py` reads them (https://github.com/valeoai/Halton-MaskGIT, commit
f61b0a1). What is exported here is one of these folders.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pyarrow as pa

from vqpipe import storage
from vqpipe.errors import ConfigError
from vqpipe.export.arrays import Array, to_npz, to_pickle
from vqpipe.export.codes import check_grid, check_same_shape
from vqpipe.export.columns import labels_of, need_label
from vqpipe.export.files import write_files
from vqpipe.export.format import Made
from vqpipe.export.subject import Subject
from vqpipe.schema import numbers_of
from vqpipe.sink.objects import CODES

_MOST_ENTRIES = 2**16


@dataclass(frozen=True)
class Halton:
    """A file of codes and class for each view."""

    label: str | None = None
    pickle: bool = False

    def settle(self, subject: Subject) -> Self:
        """Refuses all but one grid for all images, codes of more than 16 bits, and no labels."""
        check_same_shape(subject, "halton")
        check_grid(subject, "halton")
        if (entries := subject.layout.codebook_size) > _MOST_ENTRIES:
            raise ConfigError(
                f"--to halton has codes of 16 bits, and the codebook has {entries:,} entries"
            )
        return replace(self, label=need_label(subject, self.label, "--to halton"))

    def columns(self, subject: Subject) -> list[str]:
        """Returns codes and labels."""
        return ["key", CODES, need_label(subject, self.label, "--to halton")]

    def write_shard(
        self, subject: Subject, index: int, groups: Iterator[pa.Table], out: str
    ) -> Made:
        """Writes a file for each row."""
        label, made = self.columns(subject)[-1], Made()
        for table in groups:
            first = subject.first_row(index) + made.rows
            codes = numbers_of(table[CODES]).reshape(-1, *subject.layout.shape).astype("<u2")
            pairs = enumerate(zip(codes, labels_of(table, label).tolist(), strict=True), first)
            files = (self._file(out, number, *pair) for number, pair in pairs)
            made += write_files(files) + Made(rows=len(table))
        return made

    def _file(self, out: str, number: int, code: Array, y: int) -> tuple[str, bytes]:
        """Returns URI and content of one row's file."""
        uri = storage.join_uri(out, f"{number:07d}.{'pth' if self.pickle else 'npz'}")
        if self.pickle:
            return uri, to_pickle({"code": code, "y": y})
        return uri, to_npz({"code": code, "y": np.array(y, "<i8")})

    def finish(self, subject: Subject, out: str) -> Made:  # noqa: ARG002 (it takes no more)
        """Writes nothing: the reader lists the folder."""
        return Made()

    def read_with(self, subject: Subject, out: str) -> str:  # noqa: ARG002 (of whatever it is)
        """Returns how the trainer finds the folder, and what is to be changed of its reader."""
        said = f"main.py --data imagenet_feat, with {out} as the folder Train or Eval of its data"
        if not self.pickle:
            said += "; in Dataset/dataset.py, put numpy.load for pickle.load and .npz for .pth"
        return said
