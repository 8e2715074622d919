"""What the operator typed as a source, and the files that it stands for."""

import functools
import re
from fnmatch import fnmatchcase

import bracex

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.schema import File
from pipeline.sources.names import relative_path

_SPECIAL = re.compile(r"[*?\[{]")
_GLOB = re.compile(r"[*?\[]")
_MAX_EXPANSIONS = 1_000_000  # bracex stops at 1,000 unless told; LAION-5B has 231,349 tars


def find_files(source: str) -> tuple[str, list[File]]:
    """Returns the folder that names are relative to, and the files in it, sorted by URI.

    A source is a folder (searched at any depth), one file, or a pattern. `{a,b}` and `{000..127}`
    are expanded as in bash, and each result has to exist, as a file or as a folder whose name has
    no dot. `*`, `?` and `[...]` match within one part of a path, `**` any number of parts; they
    match files only.

    Raises:
        ConfigError: If the pattern cannot be expanded, or names files that do not exist.
    """
    if not source.strip():
        raise ConfigError("the source is empty: give a folder, a file, a URL or a pattern")
    source = storage.normalise_uri(source)
    if not _SPECIAL.search(source):
        return _find_plain(source)
    root = _constant_folder(source)
    return root, _find_expanded(source, _expand(source))


def _find_plain(source: str) -> tuple[str, list[File]]:
    try:
        return source.rpartition("/")[0] or "/", [storage.stat(source)]
    except FileNotFoundError:
        return source, storage.list_files(source)


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


def _find_expanded(source: str, patterns: list[str]) -> list[File]:
    @functools.cache  # thousands of names share a parent: one listing instead of a HEAD each
    def listed(folder: str, *, recursive: bool) -> dict[str, File]:
        return {file.uri: file for file in storage.list_files(folder, recursive=recursive)}

    found: dict[str, File] = {}
    missing = []
    for pattern in patterns:
        base = _constant_folder(pattern)
        if _GLOB.search(pattern):
            parts = relative_path(base, pattern).split("/")
            candidates = listed(base, recursive=len(parts) > 1 or "**" in parts)
            matches = _match(base, parts, candidates)
        else:
            matches = _named(pattern, listed(base, recursive=False))
        found |= matches
        if not matches:
            missing.append(pattern)
    _check_missing(source, len(patterns), missing)
    return sorted(found.values(), key=lambda file: file.uri)


def _named(uri: str, siblings: dict[str, File]) -> dict[str, File]:
    if uri in siblings:
        return {uri: siblings[uri]}
    if "." in uri.rpartition("/")[2]:
        return {}
    return {file.uri: file for file in storage.list_files(uri)}


def _match(base: str, pattern: list[str], candidates: dict[str, File]) -> dict[str, File]:
    return {
        uri: file
        for uri, file in candidates.items()
        if _matches(relative_path(base, uri).split("/"), pattern)
    }


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
