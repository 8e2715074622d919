"""What of a sink goes out to others: which objects, in which order, and each as it was promised.

    run.json    first: it says whose the rest is
    plan.parquet, plans/ and snapshot/, which it is made of; left_out/, rejected/, data/
    evaluation.json, report.html, summary.json
    _SUCCESS    last: with it all of the rest is there

`staging/` stays, which nobody else has a use for, and so does `evaluation/`, of which `report.html`
is what people look at. README.md is written for where it goes (`sink.hub_card`).
"""

import hashlib
import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vqpipe import storage
from vqpipe.errors import DamagedError, IncompleteError, MachineError, SourceChangedError
from vqpipe.schema import File
from vqpipe.sink import seal
from vqpipe.sink.asides import AREAS
from vqpipe.sink.snapshot import Snapshot, take_snapshot
from vqpipe.storage.content import BLOCK_BYTES

CARD = "README.md"
RUN, SUCCESS, PLAN = "run.json", "_SUCCESS", "plan.parquet"
_ORIGINS = ("plans", "snapshot")
"""Folders with what a run was made of."""
FOLDERS = (*_ORIGINS, *sorted(AREAS), "data")
"""Whose every object is of the run."""
_SINGLE = (RUN, PLAN, "evaluation.json", "report.html", "summary.json", SUCCESS)
_IN_MEMORY_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Item:
    """One object that goes out."""

    path: str
    """Below the sink, and below wherever it goes."""
    file: File
    """As it was when the parcel was made."""
    seal: bytes | None
    """SHA-256 of all that lies before its footer; None of what is no object of `data/`."""


@dataclass(frozen=True)
class Parcel:
    """What of a sink goes out."""

    snapshot: Snapshot
    items: tuple[Item, ...]
    """In the order in which they are to appear."""

    @property
    def uri(self) -> str:
        """Of the sink."""
        return self.snapshot.uri

    @property
    def total_bytes(self) -> int:
        """Of all items."""
        return sum(item.file.size for item in self.items)


def find_parcel(sink: str, *, allow_incomplete: bool = False) -> Parcel:
    """Returns what of a sink goes out.

    Args:
        sink: One of `vqpipe encode`.
        allow_incomplete: Take what is there of a run that is not complete.

    Raises:
        ConfigError: If `sink` is no URI.
        MismatchError: If it is no sink of `vqpipe encode`.
        IncompleteError: If the run is not complete, and that is not allowed.
        StorageError: If there is something in `data/` that is not of the run.
    """
    sink = storage.normalise_uri(sink)
    files = {file.uri[len(sink) + 1 :]: file for file in storage.list_files(sink)}
    snapshot = take_snapshot(sink, allow_incomplete=allow_incomplete)
    if SUCCESS not in files and not allow_incomplete:
        raise IncompleteError(
            f"{sink} is not complete: it has no {SUCCESS}. Run its vqpipe encode to its end, or "
            "allow an incomplete sink"
        )
    seals = dict(zip(*snapshot.table.select(["name", "seal"]).to_pydict().values(), strict=True))
    chosen = [
        Item(path, files[path], _seal_of(path, seals)) for path in files if _goes(path, seals)
    ]
    return Parcel(snapshot, tuple(sorted(chosen, key=_place)))


def find_card(sink: str) -> bytes | None:
    """Returns the README.md of a sink; None if it has none."""
    try:
        return storage.read(storage.join_uri(sink, CARD))
    except FileNotFoundError:
        return None


def _goes(path: str, seals: dict[str, bytes]) -> bool:
    folder, _, rest = path.partition("/")
    if not rest:
        return path in _SINGLE
    return folder in _ORIGINS or (folder in FOLDERS and rest.removesuffix(".parquet") in seals)


def _seal_of(path: str, seals: dict[str, bytes]) -> bytes | None:
    folder, _, rest = path.partition("/")
    return seals[rest.removesuffix(".parquet")] if folder == "data" else None


def _place(item: Item) -> tuple[int, str]:
    folder, _, rest = item.path.partition("/")
    last = (PLAN, *FOLDERS).index(folder) + 1 if rest or folder == PLAN else len(FOLDERS) + 2
    return {RUN: 0, SUCCESS: len(FOLDERS) + 3}.get(item.path, last), item.path


@dataclass(frozen=True)
class Taken:
    """An object as it was read, whole and checked."""

    item: Item
    content: bytes | Path
    """A large one is in a file, which `discard` removes."""
    size: int
    """Bytes."""
    sha256: str
    git: str
    """Git's SHA-1 of it as a blob."""

    def discard(self) -> None:
        """Gives up the content."""
        if isinstance(self.content, Path):
            self.content.unlink(missing_ok=True)


def take(item: Item, folder: Path, name: str) -> Taken:
    """Reads an object, and checks that it is what it was when the parcel was made.

    Args:
        item: Which.
        folder: Where a large one is put.
        name: Under which name there.

    Raises:
        SourceChangedError: If it is another one by now, or gone.
        DamagedError: If it is not as it was written.
        MachineError: If there is no room for a large one.
        StorageError: If the store does not give it.
    """
    sha256, git = hashlib.sha256(), hashlib.sha1(usedforsecurity=False)
    git.update(f"blob {item.file.size}\0".encode())

    def pass_on(block: bytes) -> None:
        sha256.update(block)
        git.update(block)

    content = _copy(item, folder / name, pass_on)
    taken = Taken(item, content, item.file.size, sha256.hexdigest(), git.hexdigest())
    if item.seal is not None:
        try:
            _check_seal(item, content)
        except BaseException:
            taken.discard()
            raise
    return taken


def _copy(item: Item, path: Path, pass_on: Callable[[bytes], None]) -> bytes | Path:
    try:
        with storage.open_file(item.file) as source:
            if item.file.size <= _IN_MEMORY_BYTES:
                data = source.read()
                pass_on(data)
                return data
            with path.open("wb") as out:
                shutil.copyfileobj(source, _Tee(out, pass_on), BLOCK_BYTES)
            return path
    except SourceChangedError as error:
        raise _changed(item) from error
    except OSError as error:  # of the file that is written: a store's own are StorageErrors
        raise MachineError(
            f"{item.file.uri} could not be put into {path.parent} on its way ({error.strerror}): "
            "make room, or name another folder in TMPDIR"
        ) from error


class _Tee:
    """Writes into a file what it passes on."""

    def __init__(self, file: BinaryIO, pass_on: Callable[[bytes], None]) -> None:
        self._file, self._pass_on = file, pass_on

    def write(self, data: bytes) -> int:
        self._pass_on(data)
        return self._file.write(data)


def _check_seal(item: Item, content: bytes | Path) -> None:
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        try:
            found = seal.check_file(file)
        except seal.SealError as error:
            raise DamagedError(
                f"{item.file.uri} is damaged: {error}. Restore it from a copy, or remove it and "
                "run vqpipe encode again, which makes just this one anew"
            ) from error
    if found != item.seal:
        raise _changed(item)


def _changed(item: Item) -> SourceChangedError:
    return SourceChangedError(
        f"{item.file.uri} is not what it was when this command began: its sink is still written to."
        " Wait for that to end, then run the same command again"
    )


def is_of_run(path: str) -> bool:
    """Tells whether a path is one that only objects of a run have."""
    folder, _, rest = path.partition("/")
    return (folder in FOLDERS and bool(rest)) or path in _SINGLE


def folder_sizes(parcel: Parcel) -> dict[str, int]:
    """Returns how many entries each folder has, by its path."""
    entries: dict[str, set[str]] = {}
    for item in parcel.items:
        parts = item.path.split("/")
        for depth in range(1, len(parts)):
            entries.setdefault("/".join(parts[:depth]), set()).add(parts[depth])
    return {folder: len(names) for folder, names in entries.items()}
