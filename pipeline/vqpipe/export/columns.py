"""Which kept columns a trainer's labels and captions are in, and their values."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vqpipe.errors import ConfigError
from vqpipe.export.subject import Subject
from vqpipe.schema import LABEL

_LABELS = (LABEL, "cls")
"""Names of labels that need not be given: of folders, and of members of tars."""
_CAPTIONS = ("txt", "caption", "text")
"""The same of captions."""


def find_label(subject: Subject, asked: str | None) -> str | None:
    """Returns the column of labels; None if none is asked for and none is plainly there.

    Raises:
        ConfigError: If it is not there, holds no whole numbers, or may be one or another.
    """
    return _find(subject, "--label", asked, _LABELS, pa.types.is_integer, "whole numbers")


def find_caption(subject: Subject, asked: str | None) -> str | None:
    """Returns the column of captions; None if none is asked for and none is plainly there.

    Raises:
        ConfigError: If it is not there, holds no text, or may be one or another.
    """
    return _find(subject, "--caption", asked, _CAPTIONS, _is_text, "text")


def need_label(subject: Subject, asked: str | None, name: str) -> str:
    """Returns the column of labels, for a format that cannot be without.

    Raises:
        ConfigError: As `find_label`; also if there is none.
    """
    return _need(subject, find_label(subject, asked), "--label", name)


def need_caption(subject: Subject, asked: str | None, name: str) -> str:
    """Returns the column of captions, for a format that cannot be without.

    Raises:
        ConfigError: As `find_caption`; also if there is none.
    """
    return _need(subject, find_caption(subject, asked), "--caption", name)


def _need(subject: Subject, found: str | None, option: str, name: str) -> str:
    if found is None:
        raise ConfigError(
            f"{name} needs a column for {option}, and the sink keeps {_listed(subject.kept)}; "
            f"name it by {option}, or encode with --keep"
        )
    return found


def _find(
    subject: Subject,
    option: str,
    asked: str | None,
    usual: tuple[str, ...],
    fits: Any,  # noqa: ANN401 (a test of types, which has none)
    what: str,
) -> str | None:
    kept = subject.kept
    if asked is None:
        found = [name for name in usual if name in kept and fits(subject.types.field(name).type)]
        if len(found) > 1:
            raise ConfigError(f"the sink keeps {_listed(found)}: say which one by {option}")
        return found[0] if found else None
    if asked not in kept:
        raise ConfigError(f"{option} is {asked}, and the sink keeps {_listed(kept)}")
    if not fits(kind := subject.types.field(asked).type):
        raise ConfigError(f"{option} is {asked}, which holds {kind}; it must hold {what}")
    return asked


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "no column"


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def labels_of(table: pa.Table, column: str) -> npt.NDArray[np.int64]:
    """Returns the labels of rows, (n,).

    Raises:
        ConfigError: If one is null, or has more than 63 bits; names the image.
    """
    _check_there(table, column, "a label")
    try:
        found: npt.NDArray[np.int64] = table[column].cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{column} has a label that is no number of 63 bits: {error}") from error
    return found


def captions_of(table: pa.Table, column: str) -> list[str]:
    """Returns the captions of rows.

    Raises:
        ConfigError: If one is null; names the image.
    """
    _check_there(table, column, "a caption")
    found: list[str] = table[column].to_pylist()
    return found


def _check_there(table: pa.Table, column: str, what: str) -> None:
    if table[column].null_count:
        key = table["key"][table[column].is_null().index(True).as_py()].as_py()
        raise ConfigError(
            f"{key!r} has no {column}, and every image needs {what}: encode into another sink with "
            f"--where '{column} is not None'"
        )
