"""Where something is stored: local paths, and URLs without anything secret in them."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from vqpipe.errors import ConfigError

SCHEMES = ("file", "s3", "gs", "gcs", "az", "abfs", "abfss")

_HAS_SECRET = re.compile(
    r"[?&#;](sig|[\w-]*"
    r"(signature|token|secret|key|passw|pwd|cred|auth|x-amz-|x-goog-|accessid)[\w-]*)=",
    re.IGNORECASE,
)
"""What signed URLs and clients' connection strings have: `sig`, `access_token`, `X-Amz-...`."""
_QUERY = re.compile(r"[?#][^/]*=")
"""An object's name may hold `?` and `#`; but what follows looks like a query then."""


def normalise_uri(uri: str) -> str:
    """Returns what a person gave, without a trailing slash; local paths are absolute.

    Raises:
        ConfigError: For a scheme that is not allowed, or for credentials in the URL: a user, a
            password, a signature or a token. They are not repeated.
    """
    is_path = "://" not in uri
    if _HAS_SECRET.search(uri) and not (is_path and os.path.lexists(os.path.expanduser(uri))):
        raise _holds_credentials("an address", "a signature or a token")
    if is_path:
        return str(Path(uri).expanduser().absolute()).rstrip("/") or "/"
    scheme, _, rest = uri.partition("://")
    scheme = scheme.lower()
    if scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ConfigError(f"{_plain(scheme)}:// is not supported; use a local path or {known}")
    _check_url(scheme, uri)
    return rest.rstrip("/") if scheme == "file" else f"{scheme}://{rest.rstrip('/')}"


def _check_url(scheme: str, uri: str) -> None:
    try:
        parts = urlsplit(uri)
    except ValueError as error:  # brackets that are no IPv6 address
        raise ConfigError(f"a {scheme}:// URL is not valid: {error}") from error
    if "@" in parts.netloc and (not scheme.startswith("abfs") or ":" in parts.netloc.split("@")[0]):
        raise _holds_credentials(f"a {scheme}:// URL", "a user or a password")
    if scheme not in {"file", "s3"} and _QUERY.search(uri):
        raise _holds_credentials(f"a {scheme}:// URL", "a query, which may be a signature")


def _holds_credentials(where: str, what: str) -> ConfigError:
    return ConfigError(
        f"{where} holds credentials ({what}); take them out and give them in the environment or "
        "the store's own config files"
    )


def _plain(scheme: str) -> str:
    return scheme if re.fullmatch(r"[a-z0-9+.:-]{1,40}", scheme) else "what stands before ://"


def join_uri(base: str, *names: str) -> str:
    """Returns the URI of an object below `base`."""
    return "/".join([base.rstrip("/"), *names])


def split_uri(uri: str) -> tuple[str, str]:
    """Returns scheme (`file` for a local path) and the rest of an object's URI."""
    scheme, mark, path = uri.partition("://")
    if mark and scheme in SCHEMES:
        return scheme, path.rstrip("/") or "/"
    return "file", str(Path(uri).expanduser().absolute()).rstrip("/") or "/"


def is_hidden(relative: str) -> bool:
    """Tells whether a part of a path begins with a dot."""
    return relative[:1] == "." or "/." in relative


def hidden_among(names: Iterable[str]) -> tuple[list[str], set[str]]:
    """Returns the hidden ones among the names of objects, and the hidden folders of others.

    What macOS puts beside each file (`._name`) is left out.
    """
    files: list[str] = []
    folders: set[str] = set()
    for name in filter(is_hidden, names):
        start = 0 if name[0] == "." else name.index("/.") + 1
        part, slash, _ = name[start:].partition("/")
        if slash:
            folders.add(name[:start] + part)
        elif not part.startswith("._"):
            files.append(name)
    return files, folders


def plain_uri(uri: str) -> str:
    """Returns how a URI stands in a `schema.File`: a path of a disk has no scheme."""
    scheme, path = split_uri(uri)
    return path if scheme == "file" else f"{scheme}://{path}"
