"""Calls as a person writes them, which mypy holds against the functions; nothing runs them.

A wrong one has an `ignore` of its very error: mypy says so if that is not the error, or none.
"""

from typing import assert_type

import vqpipe


def calls() -> None:
    """Calls them."""
    result = vqpipe.encode(
        source="a", sink="b", model="c", dtype="tf32", keep=("txt",), verbose=True
    )
    assert_type(result.exit_code, int)
    vqpipe.compact(source="a", sink="b", rows_per_file=1, on_progress=print)
    vqpipe.decode(source="a", sink="b", on_progress="print")  # type: ignore[arg-type]
    assert_type(vqpipe.__version__, str)
    vqpipe.encode(source="a", sink="b")  # type: ignore[call-arg]
    vqpipe.decode(source="a", sink="b", quality="high")  # type: ignore[arg-type]
    vqpipe.evaluate(source="a", nonsense=1)  # type: ignore[call-arg]
    vqpipe.no_such_name()  # type: ignore[attr-defined]
