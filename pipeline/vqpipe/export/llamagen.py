"""What LlamaGen trains on: two small files for each image, codes of all its views and its label.

    <set><size>_codes/<n>.npy   (1, V, T) int64
    <set><size>_labels/<n>.npy  (1,) int64

`autoregressive/train/extract_codes_c2i.py` writes them and `dataset/imagenet.py` reads them
(https://github.com/FoundationVision/LlamaGen, commit ce98ec4). The reader counts on files 0 to
1,281,166, and draws one of the views only if "flip" is in the path of the folder; without it an
image has one view.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import pyarrow as pa

from vqpipe import storage
from vqpipe.errors import ConfigError
from vqpipe.export.arrays import to_npy
from vqpipe.export.codes import check_grid, check_same_shape
from vqpipe.export.columns import labels_of, need_label
from vqpipe.export.files import write_files
from vqpipe.export.format import Made
from vqpipe.export.subject import Subject
from vqpipe.schema import numbers_of
from vqpipe.sink.objects import CODES

_COUNTED_ON = 1_281_167
"""Images that the reader lists: those of ImageNet."""


@dataclass(frozen=True)
class LlamaGen:
    """A file of codes and a file of the label for each image."""

    label: str | None = None
    set_name: str = "imagenet"

    def settle(self, subject: Subject) -> Self:
        """Refuses all but square grids, the same for all images, and a sink without labels."""
        check_same_shape(subject, "llamagen")
        check_grid(subject, "llamagen")
        height, width = subject.layout.shape
        if height != width:
            raise ConfigError(
                f"--to llamagen needs images that are squares, and these have {height} x {width} "
                "codes: its trainer knows one side only"
            )
        return replace(self, label=need_label(subject, self.label, "--to llamagen"))

    def columns(self, subject: Subject) -> list[str]:
        """Returns codes and labels."""
        return ["key", CODES, need_label(subject, self.label, "--to llamagen")]

    def write_shard(
        self, subject: Subject, index: int, groups: Iterator[pa.Table], out: str
    ) -> Made:
        """Writes two files for each image."""
        label, folder = self.columns(subject)[-1], self._folder(subject, out)
        made, number = Made(), subject.first_sample(index)
        for table in groups:
            codes = numbers_of(table[CODES]).reshape(-1, subject.views, subject.layout.length)
            labels = labels_of(table, label)[:: subject.views]
            files = (
                (f"{folder}_{what}/{number + i}.npy", to_npy(values[i : i + 1].astype("<i8")))
                for i in range(len(codes))
                for what, values in (("codes", codes), ("labels", labels))
            )
            made += write_files(files) + Made(rows=len(table))
            number += len(codes)
        return made

    def finish(self, subject: Subject, out: str) -> Made:  # noqa: ARG002 (it takes no more)
        """Writes nothing: the reader counts."""
        return Made()

    def _folder(self, subject: Subject, out: str) -> str:
        return storage.join_uri(out, f"{self.set_name}{_side(subject)}")

    def read_with(self, subject: Subject, out: str) -> str:
        """Returns the options of the trainer, and what is to be changed of its reader."""
        options = f"--dataset {self.set_name}_code --image-size {_side(subject)}"
        said = f"train_c2i.py --code-path {out} {options}"
        if subject.samples != _COUNTED_ON:
            said += f"; in dataset/imagenet.py, put {subject.samples} for {_COUNTED_ON}"
        if subject.views > 1 and "flip" not in self._folder(subject, out):
            said += '; it draws from views only where "flip" is in the path: rename the folder'
        return said


def _side(subject: Subject) -> int:
    """Returns pixels along a side of what was encoded."""
    identity = subject.snapshot.run.encoding
    return int(identity.shapes[0].partition("x")[0]) if identity.shapes else identity.resolution
