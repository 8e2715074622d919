"""Captions as tokens, by a tokenizer of Hugging Face's `tokenizers`: one JSON file.

https://huggingface.co/docs/tokenizers/api/tokenizer
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqpipe import storage
from vqpipe.errors import ConfigError, MismatchError
from vqpipe.export.extras import need
from vqpipe.export.format import Made
from vqpipe.export.sequences import Tokens


@dataclass(frozen=True)
class Words:
    """A tokenizer of text."""

    data: bytes
    """Its file."""

    @functools.cached_property
    def _tokenizer(self) -> Any:  # noqa: ANN401 (of a library that may not be there)
        from tokenizers import Tokenizer  # noqa: PLC0415 (an extra)

        made = Tokenizer.from_buffer(self.data)
        made.no_padding()  # either may stand in the file, for batches of a model
        made.no_truncation()
        return made

    @functools.cached_property
    def size(self) -> int:
        """One more than its largest id."""
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    def id_of(self, token: str) -> int | None:
        """Returns the id of a token; None if there is no such one."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Returns the tokens of each text, without those that a model wants around it."""
        found = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return [np.array(each.ids, np.int64) for each in found]


@functools.lru_cache(4)
def read_words(uri: str) -> Words:
    """Returns the tokenizer of a file.

    Raises:
        ConfigError: If there is none, or it is none of `tokenizers`.
    """
    need("tokenizers", "megatron")
    try:
        words = Words(storage.read(storage.normalise_uri(uri)))
    except FileNotFoundError:
        raise ConfigError(f"--tokenizer: there is no {uri}") from None
    try:
        words.size  # noqa: B018 (which reads it)
    except Exception as error:  # of the library, which has no other
        raise ConfigError(
            f"--tokenizer: {uri} is no tokenizer.json of Hugging Face's tokenizers: {error}"
        ) from error
    return words


def keep_words(tokenizer: str, out: str) -> Made:
    """Puts a tokenizer beside the tokens that it has made.

    Raises:
        MismatchError: If another one has made those that are there.
    """
    data, uri = read_words(tokenizer).data, storage.join_uri(out, "tokenizer.json")
    if not storage.publish(uri, data) and storage.read(uri) != data:
        raise MismatchError(
            f"{tokenizer} is not what it was when this export began (see {uri}): give that one, or "
            "another place for the export"
        )
    return Made(files=1, bytes=len(data))
