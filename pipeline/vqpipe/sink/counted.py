"""Which objects of a sink were added up, a row each: what tells whether a sum still holds.

An object is the same while it is listed with the same size and version. That its shard is still
planned as it was, is in columns too, and so is what lies beside it in `rejected/` and `left_out/`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vqpipe.schema import File
from vqpipe.sink.asides import AREAS
from vqpipe.sink.beside import PLACE
from vqpipe.sink.footer import Footer
from vqpipe.sink.layout import LISTED

COUNTED = pa.schema(
    [
        *LISTED,
        pa.field("source_uri", pa.string()),  # which version of which file it was made of
        pa.field("source_size", pa.int64()),
        pa.field("source_version", pa.string()),
        pa.field("generation", pa.int32()),
        pa.field("revision", pa.int32()),
        pa.field("digest", pa.binary(32)),  # of which object it is, and of what it counts
        pa.field("psnr_images", pa.int32()),  # images that were decoded again; null: none
        pa.field("psnr_db_sum", pa.float64()),
        pa.field("place", pa.string()),  # where its images lie beside `data/`
        pa.field("asides", pa.string()),  # digest of its samples without a row
        *(pa.field(area, pa.bool_()) for area in AREAS),  # whether it has some of the kind
        *(pa.field(f"{area}_size", pa.int64()) for area in AREAS),  # of the object that repeats
        *(pa.field(f"{area}_version", pa.string()) for area in AREAS),  # them, if that was seen
    ]
)
"""What is known of each object that was added up."""

_PASSING = {"size", "version", "source_uri", "source_size", "source_version", "digest"}
"""Columns that say whether a sum holds, and that nobody wants after."""
_ROWS = 4096


def lasting_of(table: pa.Table) -> pa.Table:
    """Returns objects with what is wanted of them to the end of a run."""
    return table.select([name for name in table.column_names if name not in _PASSING])


def digest_of(footer: Footer) -> bytes:
    """Returns a digest of which object of a shard it is, and of what it counts."""
    said = [footer.origin[name] for name in ("shard", "good", "rejected", "rejections")]
    return hashlib.sha256(json.dumps([*footer.order, *said]).encode()).digest()


def row_of(file: File, footer: Footer, beside: Mapping[str, File]) -> dict[str, Any]:
    """Returns what is known of an object that was added up (`COUNTED`).

    Args:
        file: The object.
        footer: Its footer.
        beside: By folder, objects that were seen to repeat its samples without a row.
    """
    origin, source = footer.origin, footer.origin["source"]
    images = origin.get("psnr_images") or None
    return {
        "name": origin["shard"],
        "size": file.size,
        "version": file.version,
        **{f"source_{name}": source[name] for name in ("uri", "size", "version")},
        "generation": origin["generation"],
        "revision": origin["revision"],
        "digest": digest_of(footer),
        "psnr_images": images,
        "psnr_db_sum": origin["psnr_db_sum"] if images else None,
        "place": origin.get(PLACE),
        "asides": origin["rejections"] if any(origin.get(area) for area in AREAS) else None,
        **{area: bool(origin.get(area)) for area in AREAS},
        **{f"{area}_size": file.size for area, file in beside.items()},
        **{f"{area}_version": file.version for area, file in beside.items()},
    }


@dataclass
class Counted:
    """The objects that were added up, in any order."""

    def __post_init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._tables = [COUNTED.empty_table()]

    def add(self, row: dict[str, Any]) -> None:
        """Takes an object in (`row_of`)."""
        self._rows.append(row)
        if len(self._rows) >= _ROWS:
            self._settle()

    def extend(self, table: pa.Table) -> None:
        """Takes in those of another sum (`COUNTED`)."""
        self._tables.append(table)

    @property
    def table(self) -> pa.Table:
        """All of them (`COUNTED`, or fewer columns of it)."""
        self._settle()
        return pa.concat_tables(self._tables, promote_options="default")

    def _settle(self) -> None:
        if self._rows:
            self._tables.append(pa.Table.from_pylist(self._rows, schema=COUNTED))
            self._rows = []

    def asides(self, area: str) -> pa.Table:
        """Returns those that have samples without a row of a kind."""
        table = self.table
        return table.filter(table[area])

    def orders(self, names: set[str]) -> dict[str, tuple[int, int]]:
        """Returns the place of each of some shards' objects among all of its shard."""
        table = self.table
        found = table.filter(pc.is_in(table["name"], pa.array(sorted(names), pa.string())))
        columns = (found[name].to_pylist() for name in ("name", "generation", "revision"))
        return {
            name: (generation, revision)
            for name, generation, revision in zip(*columns, strict=True)
        }
