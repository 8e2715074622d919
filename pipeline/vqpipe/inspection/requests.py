"""How many requests a run makes of its stores, by arithmetic from its protocol.

    source    HEAD and GET a shard that is read, or an image file; a GET more for every 8 MiB
    commit    PUT of data/, and of rejected/ or left_out/ after a HEAD; of a shard that is not done
              at once PUT, HEAD and GET of each range in staging/, one LIST (DELETE costs nothing)
    the end   GET of each footer; a LIST of data/ for every 1,000 objects, three times
    besides   some forty for run.json, plan.parquet, _SUCCESS and the like

Stores bill PUT and LIST alike, and GET and HEAD.
"""

import math
from dataclasses import dataclass

_READ_BYTES = 8 * 2**20
_LISTED = 1_000
_FIXED_GET, _FIXED_HEAD, _FIXED_LIST, _FIXED_PUT = 12, 10, 14, 7
"""Of a run of no shard, counted on an S3 server (`tests/inspection/test_requests.py`)."""
_DATA_LISTS = 4
_LOOKED_AT = {"webdataset": 4, "parquet": 0, "folder": 0}


@dataclass(frozen=True)
class Requests:
    """How many there are of each kind."""

    get: int = 0
    head: int = 0
    put: int = 0
    list: int = 0

    def __add__(self, other: "Requests") -> "Requests":
        return Requests(
            self.get + other.get,
            self.head + other.head,
            self.put + other.put,
            self.list + other.list,
        )

    @property
    def reads(self) -> int:
        """Those that are billed as GET."""
        return self.get + self.head

    @property
    def writes(self) -> int:
        """Those that are billed as PUT."""
        return self.put + self.list


@dataclass(frozen=True)
class Load:
    """What a run has to do, as its stores see it."""

    format: str
    """Of the source: `webdataset`, `parquet` or `folder`."""
    shards: int
    files: int
    """That these are made of."""
    size: int
    """Bytes of all of them."""
    asides: int
    """Objects of `rejected/` and `left_out/`."""
    ranges: int
    """Objects of `staging/` with rows."""
    staged_shards: int
    """Shards that these are of."""


def count_source(load: Load) -> Requests:
    """Returns the requests for listing and reading the source."""
    looked = min(_LOOKED_AT[load.format], load.shards)
    pieces = max(load.files, math.ceil(load.size / _READ_BYTES))
    footers = 2 * load.shards if load.format == "parquet" else 0
    lists = 2 + load.files // _LISTED
    return Requests(pieces + looked + footers, load.files + looked, 0, lists)


def count_sink(load: Load) -> Requests:
    """Returns the requests for committing and adding up."""
    lists = _FIXED_LIST + _DATA_LISTS * (load.shards // _LISTED) + load.staged_shards
    return Requests(
        get=_FIXED_GET + load.shards + load.asides + load.ranges,
        head=_FIXED_HEAD + load.asides + max(0, load.ranges - load.staged_shards),
        put=_FIXED_PUT + load.shards + load.asides + load.ranges + load.staged_shards,
        list=lists,
    )
