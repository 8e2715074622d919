"""What is below a prefix, freshly listed."""

from dataclasses import dataclass

from vqpipe.schema import NO_FILE, File
from vqpipe.storage import tree, uris
from vqpipe.storage.local import found_of
from vqpipe.storage.refusals import ask
from vqpipe.storage.stores import find_store
from vqpipe.storage.uris import join_uri, plain_uri


def list_files(uri: str, *, recursive: bool = True) -> list[File]:
    """Returns the objects below a prefix, sorted by URI, without hidden ones (`.name`).

    A prefix that does not exist is an empty list: object stores cannot tell the two apart.
    """
    return _list(uri, recursive=recursive).files


def _list(uri: str, *, recursive: bool) -> "FilesBelow":
    store, path = find_store(uri)
    look = store.find if recursive else store.list_folder
    try:
        found = ask(uri, lambda: look(path))
    except FileNotFoundError:
        return FilesBelow([])
    below, base = path.rstrip("/") + "/", plain_uri(uri).rstrip("/") + "/"
    files, dotted = [], []
    for each in sorted(found):  # in order of URIs too: all begin with the same
        name = each[len(below) :]
        if not each.startswith(below):
            continue
        if uris.is_hidden(name):
            dotted.append(name)
        else:
            files.append(File(base + name, *found.pop(each)))
    hidden, folders = uris.hidden_among(dotted) if dotted else ([], set())
    return FilesBelow(
        files,
        hidden=tuple(sorted(base + name for name in hidden)),
        unsearched=tuple(sorted(base + name for name in folders)),
    )


@dataclass(frozen=True)
class FilesBelow:
    """What is below a prefix of a source."""

    files: list[File]
    """Sorted by URI; `File.obstacle` says of which of them nothing can be read."""
    followed: tuple[str, ...] = ()
    """URIs of links to folders that were followed."""
    repeated: tuple[str, ...] = ()
    """URIs of folders, linked or behind a link, that were listed under another name."""
    hidden: tuple[str, ...] = ()
    """URIs of files whose names begin with a dot (not macOS' own, `._name`), sorted."""
    unsearched: tuple[str, ...] = ()
    """URIs of folders whose names begin with a dot, sorted: what is below them is not listed."""


def list_source(uri: str, depth: int | None = None) -> FilesBelow:
    """Returns what is below a prefix; on a disk, links to folders are followed.

    Args:
        uri: The prefix; one that does not exist holds nothing.
        depth: Levels to list, as for `tree.walk`; stores may list more. None lists all of them.
    """
    scheme, path = uris.split_uri(uri)
    if scheme != "file":
        return _list(uri, recursive=depth != 1)
    try:
        found = ask(uri, lambda: tree.walk(path, depth))
    except FileNotFoundError:
        return FilesBelow([])
    files = [_linked_file(join_uri(path, name), state) for name, state in found.files.items()]
    others = (found.followed, found.repeated, found.hidden, found.unsearched)
    uris_of = (tuple(sorted(join_uri(path, name) for name in names)) for names in others)
    return FilesBelow(sorted(files, key=lambda file: file.uri), *uris_of)


def _linked_file(path: str, state: tree.State) -> File:
    return (
        File(path, 0, NO_FILE + state) if isinstance(state, str) else File(path, *found_of(state))
    )
