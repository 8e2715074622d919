"""The snapshot that a compacted sink was made of, kept in it, and what has become of it since.

    snapshot/<digest>.parquet    which objects of the source there were when the run began

`run.json` has the digest: it says which one counts where two commands began at once.
"""

from dataclasses import dataclass

import pyarrow as pa

from vqpipe import storage
from vqpipe.errors import MismatchError
from vqpipe.sink import layout
from vqpipe.sink.run import CompactRun
from vqpipe.sink.snapshot import Snapshot, digest_of, keep_snapshot, load_snapshot, parse_snapshot

_MOST_NAMED = 5


def freeze(sink: str, snapshot: Snapshot) -> None:
    """Keeps a snapshot in a sink that is to be made of it, before its `run.json` names it."""
    keep_snapshot(layout.snapshot_uri(sink, snapshot.digest), snapshot)


def thaw(sink: str, run: CompactRun, source: str) -> Snapshot:
    """Returns the snapshot that a sink is made of, to be read where the source is now.

    Raises:
        MismatchError: If it is another one than the run began with, or the source is of another
            run.
        FileNotFoundError: If it is gone.
    """
    uri = layout.snapshot_uri(sink, run.identity.snapshot)
    snapshot = load_snapshot(uri, source)
    _check_digest(uri, snapshot.digest, run)
    return snapshot


def frozen_table(sink: str, run: CompactRun) -> pa.Table:
    """Returns what a sink is made of (`snapshot.SNAPSHOT`), wherever its source is, if anywhere.

    Raises:
        MismatchError: If it is another one than the run began with.
        FileNotFoundError: If it is gone.
    """
    uri = layout.snapshot_uri(sink, run.identity.snapshot)
    fingerprint, table = parse_snapshot(uri, storage.read(uri))
    _check_digest(uri, digest_of(fingerprint, table), run)
    return table


def _check_digest(uri: str, digest: str, run: CompactRun) -> None:
    if digest != run.identity.snapshot:
        raise MismatchError(
            f"{uri} is not the snapshot that the run began with, which run.json names: bring that "
            "back, or use another sink"
        )


@dataclass(frozen=True)
class Changes:
    """What a source has that is not as it was when a snapshot was taken, by shard."""

    gone: list[str]
    changed: list[str]
    """Objects of another size. One of the same size shows by its seal when it is read."""
    new: list[str]

    @classmethod
    def since(cls, snapshot: Snapshot) -> "Changes":
        """Returns what has changed since, by one listing."""
        listed = layout.list_committed(snapshot.uri)
        columns = (snapshot.table[name].to_pylist() for name in ("name", "bytes"))
        then = dict(zip(*columns, strict=True))
        return cls(
            [name for name in then if name not in listed],
            [name for name, size in then.items() if name in listed and listed[name].size != size],
            sorted(listed.keys() - then.keys()),
        )

    def check(self, source: str, sink: str, *, allow_new: bool) -> None:
        """Refuses to go on with a source that is not what it was.

        Args:
            source: Where it is.
            sink: What is made of it.
            allow_new: Whether it may have gained shards, which are left out.

        Raises:
            MismatchError: If it has changed; names the first shards.
        """
        found = {
            "are gone": self.gone,
            "were made again": self.changed,
            "are new": [] if allow_new else self.new,
        }
        said = [
            f"  {len(names):,} {what}: {', '.join(names[:_MOST_NAMED])}"
            + (", ..." if len(names) > _MOST_NAMED else "")
            for what, names in found.items()
            if names
        ]
        if said:
            raise MismatchError(
                f"{source} is not what {sink} was begun with; of its shards\n"
                + "\n".join(said)
                + "\nCompact it as it is now into another sink, or bring back what it was."
            )
