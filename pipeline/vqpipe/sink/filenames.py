"""Keys as names of files: safe on any system and in any store, and turned back without a table.

Every byte but ASCII letters, digits, `_`, `-` and, where they may stand, `.` and `/` becomes
`%XX`, as in URLs (RFC 3986, section 2.1), so that `urllib.parse.unquote` turns a name back into its
key, or into what `drop_endings` left of it. So do letters, where they must: the first one of `con`,
`nul` and the other names that Windows keeps for devices, and the capitals of keys that differ in
nothing else, since disks of macOS and Windows take `IMG` and `img` for one name.

No part of a path is empty or begins with a dot, so that nothing leads out of the folder;
folders have no dots at all, so that none has the name of a file. Only two kinds of names cannot be
turned back: that of the empty key, `%`, and one above `MAX_BYTES`, which is cut and ends in `%%`
and a hash of its key.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Sequence

MAX_BYTES = 200
"""Longest name, extension left out: file systems take 255 bytes in one part of a path, S3 1,024 in
all of a key."""

_PLAIN = set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_DIGEST_BYTES = 16
_LEFT_OUT = re.compile(r"%[0-9A-F]?$")
_ESCAPE_OR_CAPITAL = re.compile(r"%[0-9A-F]{2}|[A-Z]")
# With any extension: https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_DEVICE = re.compile(r"(?i)(?<![^/])(?=(?:con|prn|aux|nul|com\d|lpt\d)(?:[./]|$))[a-z]")


def safe_name(key: str, *, dots: bool = True) -> str:
    """Returns the name of a key's file, without extension: a relative path with `/`.

    Args:
        key: Any text.
        dots: Whether `.` stays as it is; in a tar of webdataset's, a key ends at its first dot.
    """
    name = _escape(key, _PLAIN | set(b"/." if dots else b"/"))
    name = re.sub(r"\.(?=.*/)|^\.|(?<=/)\.", "%2E", name)
    name = re.sub(r"^/|/(?=/)|/$", "%2F", name) or "%"
    return _cut(_DEVICE.sub(_escape_letter, name), key)


def safe_names(keys: Sequence[str], *, dots: bool) -> list[str]:
    """Returns the names of all files of a shard, which differ in more than capitals.

    Args:
        keys: Any texts, each once.
        dots: As for `safe_name`.
    """
    names = [safe_name(key, dots=dots) for key in keys]
    uses = Counter(map(str.lower, names))
    return [
        name if uses[name.lower()] == 1 else _cut(_escape_capitals(name), key)
        for name, key in zip(names, keys, strict=True)
    ]


def drop_endings(keys: Sequence[str], endings: Collection[str]) -> list[str]:
    """Returns keys without the endings of files, each still different from all others.

    An image gets the ending of its new format: `cat.jpg` becomes `cat.png`, and not `cat.jpg.png`
    unless there is a `cat.gif` or a `cat` too. Where two would be the same, both stay as they are.

    Args:
        keys: Any texts, each once.
        endings: Such as `jpg`, in small letters.
    """
    texts = [_drop_ending(key, endings) for key in keys]
    while True:
        uses = Counter(texts)
        kept = [text if uses[text] == 1 else key for text, key in zip(texts, keys, strict=True)]
        if kept == texts:
            return texts
        texts = kept


def _drop_ending(key: str, endings: Collection[str]) -> str:
    stem, _, ending = key.rpartition(".")
    is_named = stem and not stem.endswith("/")
    return stem if is_named and ending.lower() in endings else key


def safe_folder(shard: str) -> str:
    """Returns the name of the folder of a shard's files: one part of a path, without `/`."""
    name = re.sub(r"^\.|\.$", "%2E", _escape(shard, _PLAIN | {ord(".")}))
    return _cut(_DEVICE.sub(_escape_letter, name), shard)


def _escape(text: str, plain: set[int]) -> str:
    return "".join(
        chr(byte) if byte in plain else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogatepass")
    )


def _escape_capitals(name: str) -> str:
    """Returns a name that is not cut without capitals, but for those in `%XX`."""
    return _ESCAPE_OR_CAPITAL.sub(
        lambda found: found[0] if len(found[0]) > 1 else _escape_letter(found), name
    )


def _escape_letter(found: re.Match[str]) -> str:
    return f"%{ord(found[0]):02X}"


def _cut(name: str, key: str) -> str:
    """Returns a name that is not too long; a part of it with a hash of the key if it is."""
    if len(name) <= MAX_BYTES:
        return name
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES)
    kept = name[: MAX_BYTES - 2 * _DIGEST_BYTES - 2]
    return _LEFT_OUT.sub("", kept) + "%%" + digest.hexdigest()
