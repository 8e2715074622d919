"""Stands before every call of `pipeline.storage`, to count, delay or end them."""

import contextlib
import functools

import pytest

from pipeline import storage

VERBS = ("list_files", "stat", "read", "read_tail", "publish", "replace", "delete")


@contextlib.contextmanager
def intercept(call):
    """Has `call(real, *arguments, **options)` made in place of each storage call of a block."""
    with pytest.MonkeyPatch.context() as patch:
        for verb in VERBS:
            patch.setattr(storage, verb, functools.partial(call, getattr(storage, verb)))
        yield
