"""How many requests a run makes of its stores, by arithmetic from its protocol.

    source    HEAD and GET a shard that is read, or an image file; a GET more for every 8 MiB
    commit    PUT of data/, and of rejected/ or left_out/ after a look; of a shard that is not done
              at once PUT, a look and GET of each range in staging/ (DELETE costs nothing)
    adding    GET of each footer; of 256 shards and more two HEADs beside it, and PUT and two GETs
              of the sums over every 1,024 of them, while the run goes on
    the end   three LISTs of data/, a request for every 1,000 objects
    besides   some for run.json, plan.parquet, _SUCCESS and the like

A look at what is not there is a HEAD and a LIST, which finds out whether it is a folder. Stores
bill PUT and LIST alike, and GET and HEAD. A test holds all of it against an S3 server.
"""

from dataclasses import dataclass

from vqpipe.sink.coverage import LEAST
from vqpipe.sink.totals import PART

_READ_BYTES = 8 * 2**20
_LISTED = 1_000
_TARS_LOOKED_AT = 4
_FOOTER_GETS, _COLUMN_GETS, _COLUMN_HEADS = 3, 8, 2
"""Of Parquet: a footer when the run is planned, two requests for it when it is read; and a few to
find the column of images."""


@dataclass(frozen=True)
class Requests:
    """How many there are of each kind."""

    get: int = 0
    head: int = 0
    put: int = 0
    list: int = 0

    def __add__(self, other: "Requests") -> "Requests":
        """Returns the sums."""
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
    found = Requests(
        get=load.files + load.size // _READ_BYTES,
        head=1 + load.files,
        list=2 + load.files // _LISTED,
    )
    if load.format == "webdataset":
        step = max(1, -(-load.shards // _TARS_LOOKED_AT))
        looked = -(-load.shards // step)
        return found + Requests(get=looked, head=looked)
    if load.format == "parquet":
        return found + Requests(get=_FOOTER_GETS * load.shards + _COLUMN_GETS, head=_COLUMN_HEADS)
    return found


_BESIDES = Requests(get=12, head=3, put=7, list=13)
"""For all but shards, of a run that rejects nothing and leaves nothing out."""


def count_added(shards: int) -> Requests:
    """Returns the requests for adding up what is committed while the run goes on (`subtotals`)."""
    if shards < LEAST:
        return Requests()
    parts = -(-shards // PART)
    return Requests(get=2 * parts, head=2 * shards, put=parts, list=2)


def count_sink(load: Load) -> Requests:
    """Returns the requests for committing and adding up."""
    looks = load.asides + load.ranges - load.staged_shards
    shards = count_added(load.shards)
    return (
        _BESIDES
        + shards
        + Requests(
            get=load.shards + load.asides + load.ranges,
            head=looks,
            put=load.shards + load.asides + load.ranges + load.staged_shards,
            list=looks + load.staged_shards + 3 * (load.shards // _LISTED),
        )
    )
