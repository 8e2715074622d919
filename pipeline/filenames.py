"""Keys as names of files: safe on any system and in any store, and turned back without a table.

Every byte but ASCII letters, digits, `_`, `-` and, where they may stand, `.` and `/` becomes
`%XX`, as in URLs (RFC 3986, section 2.1), so that `urllib.parse.unquote` turns a name back into its
key. No part of a path is empty or begins with a dot, so that nothing leads out of the folder;
folders have no dots at all, so that none has the name of a file. Only two kinds of names cannot be
turned back: that of the empty key, `%`, and one above `MAX_BYTES`, which is cut and ends in `%%`
and a hash of its key.
"""

import hashlib
import re

MAX_BYTES = 200
"""Longest name, extension left out: file systems take 255 bytes in one part of a path, S3 1,024 in
all of a key."""

_PLAIN = set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-/")
_DIGEST_BYTES = 16
_LEFT_OUT = re.compile(r"%[0-9A-F]?$")


def safe_name(key: str, *, dots: bool = True) -> str:
    """Returns the name of a key's file, without extension: a relative path with `/`.

    Args:
        key: Any text.
        dots: Whether `.` stays as it is; in a tar of webdataset's, a key ends at its first dot.
    """
    plain = _PLAIN | ({ord(".")} if dots else set())
    name = "".join(
        chr(byte) if byte in plain else f"%{byte:02X}"
        for byte in key.encode("utf-8", "surrogatepass")
    )
    name = re.sub(r"\.(?=.*/)|^\.|(?<=/)\.", "%2E", name)
    name = re.sub(r"^/|/(?=/)|/$", "%2F", name) or "%"
    return name if len(name) <= MAX_BYTES else _cut(name, key)


def _cut(name: str, key: str) -> str:
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES)
    kept = name[: MAX_BYTES - 2 * _DIGEST_BYTES - 2]
    return _LEFT_OUT.sub("", kept) + "%%" + digest.hexdigest()
