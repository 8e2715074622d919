"""What the operator typed as a source, and the files that it stands for."""

import contextlib
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

import bracex

from vqpipe import storage
from vqpipe.errors import ConfigError
from vqpipe.schema import File
from vqpipe.sources.names import relative_path

_SPECIAL = re.compile(r"[*?\[{]")
_GLOB = re.compile(r"[*?\[]")
_MAX_EXPANSIONS = 1_000_000  # bracex stops at 1,000 unless told; LAION-5B has 231,349 tars


@dataclass(frozen=True)
class FoundFiles:
    """What a source stands for."""

    root: str
    """URI of the folder that names are relative to."""
    files: list[File]
    """Sorted by URI; `File.obstacle` says of which of them nothing can be read."""
    followed: tuple[str, ...] = ()
    """URIs of linked folders that were listed."""
    repeated: tuple[str, ...] = ()
    """URIs of folders, linked or behind a link, that were listed under another name."""
    dotted: tuple[str, ...] = ()
    """URIs of files that would be there if their names did not begin with a dot."""
    dotted_folders: tuple[str, ...] = ()
    """URIs of folders that would have been searched if their names did not."""


def find_files(source: str) -> FoundFiles:
    """Returns the files that a source stands for.

    A source is a folder (searched at any depth, links followed), one file, or a pattern. `{a,b}`
    and `{000..127}` are expanded as in bash, and each result has to exist, as a file or as a folder
    whose name has no dot behind its first letter. `*`, `?` and `[...]` match within one part of a
    path, `**` any number of parts; they match files only. What exists is taken as it is spelled
    before it is read as a pattern, the folders that a path begins with too.

    Names that begin with a dot are hidden, of files and of folders, unless they are spelled out.

    Raises:
        ConfigError: If the pattern cannot be expanded, or names files that do not exist.
    """
    if not source.strip():
        raise ConfigError("the source is empty: give a folder, a file, a URL or a pattern")
    source = storage.normalise_uri(source)
    if not _SPECIAL.search(source):
        return _find_plain(source)
    constant = _constant_folder(source)
    if storage.may_exist(source) and (found := _find_plain(source)).files:
        return found
    root = _literal_folder(constant, source)
    return _find_expanded(source, root, _expand(relative_path(root, source)))


def _find_plain(source: str) -> FoundFiles:
    try:
        return FoundFiles(source.rpartition("/")[0] or "/", [storage.stat(source)])
    except FileNotFoundError:
        listing = storage.list_source(source)
        others = (listing.followed, listing.repeated, listing.hidden, listing.unsearched)
        return FoundFiles(source, listing.files, *others)


def _literal_folder(folder: str, source: str) -> str:
    """Returns the folder of a pattern below `folder`, as deep as it exists as it is spelled."""
    for part in relative_path(folder, source).split("/")[:-1]:
        deeper = storage.join_uri(folder, part)
        if not storage.may_exist(deeper) or not storage.list_source(deeper).files:
            break
        folder = deeper
    return folder


def _constant_folder(pattern: str) -> str:
    constant = _SPECIAL.split(pattern, maxsplit=1)[0]
    folder = constant.rpartition("/")[0]
    if folder.endswith((":", ":/")):
        raise ConfigError(f"{pattern}: a bucket's name cannot be a pattern; give one bucket")
    return folder or "/"


def _expand(pattern: str) -> list[str]:
    try:
        return bracex.expand(pattern, limit=_MAX_EXPANSIONS)
    except bracex.ExpansionLimitException as error:
        raise ConfigError(
            f"{pattern} stands for more than {_MAX_EXPANSIONS:,} names: use `*` instead"
        ) from error


def _find_expanded(source: str, root: str, patterns: list[str]) -> FoundFiles:
    """Returns what patterns relative to a folder match."""
    lists = _Lists()
    found: dict[str, File] = {}
    missing = []
    for pattern in patterns:
        base, parts = _split_constant(root, pattern)
        if _GLOB.search(pattern):
            matches = _match(base, parts, lists)
        else:
            matches = _named(base, parts[-1], lists)
        found |= matches
        if not matches:
            missing.append(storage.join_uri(root, pattern))
    _check_missing(source, len(patterns), missing)
    files = sorted(found.values(), key=lambda file: file.uri)
    others = (lists.followed, lists.repeated, lists.dotted - found.keys(), lists.dotted_folders)
    return FoundFiles(root, files, *(tuple(sorted(uris)) for uris in others))


class _Lists:
    """Listings of folders, each made once: thousands of names share a parent."""

    def __init__(self) -> None:
        self.followed: set[str] = set()
        self.repeated: set[str] = set()
        self.dotted: set[str] = set()
        self.dotted_folders: set[str] = set()
        self._made: dict[tuple[str, int | None], _Listed] = {}

    def files(self, folder: str, depth: int | None) -> dict[str, File]:
        """Returns what is below a folder, as many levels as are wanted, by URI."""
        return self.look(folder, depth).files

    def look(self, folder: str, depth: int | None) -> "_Listed":
        """Returns what is below a folder, as many levels as are wanted."""
        if (folder, depth) not in self._made:
            listing = storage.list_source(folder, depth)
            self.followed.update(listing.followed)
            self.repeated.update(listing.repeated)
            files = {file.uri: file for file in listing.files}
            self._made[folder, depth] = _Listed(files, listing.hidden, listing.unsearched)
        return self._made[folder, depth]


@dataclass(frozen=True)
class _Listed:
    """What is below a folder."""

    files: dict[str, File]
    """By URI."""
    hidden: tuple[str, ...]
    unsearched: tuple[str, ...]


def _split_constant(root: str, pattern: str) -> tuple[str, list[str]]:
    """Returns the deepest folder without a wildcard, and the parts of the pattern below it."""
    parts = pattern.split("/")
    first = next((i for i, part in enumerate(parts) if _GLOB.search(part)), len(parts) - 1)
    return storage.join_uri(root, *parts[:first]), parts[first:]


def _named(folder: str, name: str, lists: _Lists) -> dict[str, File]:
    uri, siblings = storage.join_uri(folder, name), lists.files(folder, 1)
    if uri in siblings:
        return {uri: siblings[uri]}
    if name.startswith("."):
        with contextlib.suppress(FileNotFoundError):
            return {uri: storage.stat(uri)}
    if "." in name[1:]:
        return {}
    listed = lists.look(uri, None)
    lists.dotted.update(listed.hidden)
    lists.dotted_folders.update(listed.unsearched)
    return listed.files


def _match(base: str, pattern: list[str], lists: _Lists) -> dict[str, File]:
    """Returns what matches, and of what cannot be read also what may stand for folders that do."""
    listed = lists.look(base, None if "**" in pattern else len(pattern))
    folders = pattern if "**" in pattern else pattern[:-1]

    def split(uri: str) -> list[str]:
        return relative_path(base, uri).split("/")

    def matches(file: File) -> bool:
        return (_leads if file.obstacle else _matches)(split(file.uri), pattern)

    lists.dotted.update(uri for uri in listed.hidden if _matches(split(uri), pattern))
    lists.dotted_folders.update(uri for uri in listed.unsearched if _leads(split(uri), folders))
    return {uri: file for uri, file in listed.files.items() if matches(file)}


def _leads(parts: list[str], pattern: list[str]) -> bool:
    """Tells whether a path matches a pattern, or the beginning of one."""
    if not parts or not pattern:
        return not parts
    if pattern[0] == "**":
        return True
    return fnmatchcase(parts[0], pattern[0]) and _leads(parts[1:], pattern[1:])


def _matches(parts: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or (bool(parts) and _matches(parts[1:], pattern))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _check_missing(source: str, total: int, missing: list[str]) -> None:
    if missing and total > 1:
        raise ConfigError(
            f"{source} names {total} files or folders, of which {len(missing)} do not exist, first "
            f"{missing[0]}: restore them, or narrow the braces"
        )
