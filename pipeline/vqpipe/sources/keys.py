"""The keys of a shard so far: what makes them unique, in memory that has a bound."""

import hashlib

from vqpipe.errors import ConfigError

MAX_SAMPLES = 2**22
"""Most samples of a shard: 4,194,304."""

_DIGEST_BYTES = 16


def check_count(samples: int, uri: str) -> None:
    """Checks that a shard may have one more sample than so many.

    Raises:
        ConfigError: If not. A rejection would hide how many samples the rest of it holds.
    """
    if samples >= MAX_SAMPLES:
        raise ConfigError(
            f"{uri} holds more than {MAX_SAMPLES:,} samples, which are too many for one shard: "
            "split it, or leave it out of the source"
        )


class Keys:
    """A set of keys that holds a hash of each: keys may be as long as 64 KiB."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def __contains__(self, key: str) -> bool:
        return _digest(key) in self._seen

    def add(self, key: str) -> bool:
        """Adds a key and tells whether it is new."""
        digest, before = _digest(key), len(self._seen)
        self._seen.add(digest)
        return len(self._seen) > before


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=_DIGEST_BYTES).digest()
