"""What goes from a sink to a data set on the hub: what is missing there, in as few commits.

`run.json` and the card come with the first commit, `_SUCCESS` with the last: until then readers
can see that more is to come. A commit is made on top of the one before, or not at all.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vqpipe.errors import IncompleteError
from vqpipe.hub.repository import Digests, Entry, Repository, Sent
from vqpipe.sink.parcel import CARD, SUCCESS, Parcel, Taken, is_of_run, take
from vqpipe.storage.ahead import map_ahead

COMMIT_FILES = 250
"""Most files of a commit. The hub checks each of them before it answers, and it has a quota of
commits: with so many its own client begins, too."""
COMMIT_BYTES = 20 * 10**9
"""... and bytes. Who is killed before a commit has them read again, but not sent again."""
_BUNCH_FILES, _BUNCH_BYTES = 50, 256 * 2**20
"""What is sent at once, and lies in memory or in `TMPDIR` until it is."""
_READERS = 8


@dataclass
class Shipment:
    """Files on their way."""

    repository: Repository
    parcel: Parcel
    head: str
    """The commit that the branch ends with."""
    there: dict[str, Entry]
    """What it has."""
    sent_files: int = 0
    sent_bytes: int = 0
    kept_files: int = 0
    """Files that were there as they are."""
    _waiting: list[Sent] = field(default_factory=list)
    _known: dict[str, Digests] = field(default_factory=dict)

    def send(self, card: bytes, say: Callable[["Shipment"], None]) -> None:
        """Sends what is missing, and checks that all of it is there.

        Args:
            card: Content of README.md.
            say: Called after each commit.

        Raises:
            VqpipeError: What was committed stays; the same again goes on from there.
        """
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self._send_card(card)
            for bunch in _bunches(self._missing(self._take(folder))):
                if self._is_enough():
                    self._commit(self._withdrawn())
                    say(self)
                self._send([(each.item.path, _digests(each), each.content) for each in bunch])
                for each in bunch:
                    each.discard()
            self._send_last(folder)
        self._commit(self._stale())
        say(self)
        self._check()

    def _send_card(self, card: bytes) -> None:
        digests = Digests.of(card)
        if not self._is_there(CARD, digests):
            self._send([(CARD, digests, card)])

    def _take(self, folder: Path) -> Iterator[Taken]:
        """Yields all that there is but `_SUCCESS`, which is last."""
        items = [(item, str(i)) for i, item in enumerate(self.parcel.items) if item.path != SUCCESS]
        largest = max((item.file.size for item, _ in items), default=1)
        readers = max(1, min(_READERS, _BUNCH_BYTES // max(1, largest)))
        return map_ahead(lambda each: take(each[0], folder, each[1]), items, readers)

    def _send_last(self, folder: Path) -> None:
        last = [item for item in self.parcel.items if item.path == SUCCESS]
        for each in self._missing(take(item, folder, SUCCESS) for item in last):
            self._send([(SUCCESS, _digests(each), each.content)])

    def _missing(self, taken: Iterable[Taken]) -> Iterator[Taken]:
        for each in taken:
            if self._is_there(each.item.path, _digests(each)):
                each.discard()
            else:
                yield each

    def _is_there(self, path: str, digests: Digests) -> bool:
        self._known[path] = digests
        is_there = path in self.there and self.there[path].holds(digests)
        self.kept_files += is_there
        return is_there

    def _send(self, files: list[tuple[str, Digests, bytes | Path]]) -> None:
        self._waiting += self.repository.send(files)

    def _is_enough(self) -> bool:
        size = sum(each.digests.size for each in self._waiting)
        return len(self._waiting) >= COMMIT_FILES or size >= COMMIT_BYTES

    def _withdrawn(self) -> list[str]:
        """Returns `_SUCCESS` if it is there: it speaks of what was there before."""
        return [SUCCESS] if self.there.pop(SUCCESS, None) else []

    def _stale(self) -> list[str]:
        """Returns the files of the run that the sink has no longer, such as rejections."""
        return [path for path in self.there if is_of_run(path) and path not in self._known]

    def _commit(self, removed: list[str]) -> None:
        if self._waiting or removed:
            self.head = self.repository.commit(self._waiting, removed, self.head)
        self.sent_files += len(self._waiting)
        self.sent_bytes += sum(each.digests.size for each in self._waiting)
        self._waiting = []

    def _check(self) -> None:
        """Looks whether all of it is there now.

        Raises:
            IncompleteError: If not.
        """
        found = self.repository.list_files(self.head)
        wrong = [
            path
            for path, digests in self._known.items()
            if path not in found or not found[path].holds(digests)
        ]
        if wrong:
            raise IncompleteError(
                f"{len(wrong):,} files are not in {self.repository.name} as they were sent, such "
                f"as {wrong[0]}: run the same command again"
            )


def _digests(taken: Taken) -> Digests:
    return Digests(taken.size, taken.sha256, taken.git)


def _bunches(taken: Iterable[Taken]) -> Iterator[list[Taken]]:
    """Yields what is sent at once."""
    bunch: list[Taken] = []
    for each in taken:
        bunch.append(each)
        if len(bunch) == _BUNCH_FILES or sum(one.size for one in bunch) >= _BUNCH_BYTES:
            yield bunch
            bunch = []
    if bunch:
        yield bunch
