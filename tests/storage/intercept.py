"""Stands before every call of `vqpipe.storage.verbs`, to count, delay or end them."""

import contextlib
import functools
import threading

import pytest

from vqpipe import storage
from vqpipe.storage import listing, verbs

VERBS = (
    "list_files",
    "stat",
    "read",
    "read_tail",
    "publish",
    "replace",
    "replace_if",
    "delete",
)


@contextlib.contextmanager
def intercept(call):
    """Has `call(real, *arguments, **options)` made in place of each storage call of a block."""
    with pytest.MonkeyPatch.context() as patch:
        for verb in VERBS:
            standing = functools.partial(call, getattr(storage, verb))
            for module in (storage, verbs, listing):
                if hasattr(module, verb):
                    patch.setattr(module, verb, standing)
        yield


class Crash(BaseException):
    """The process is gone: nothing catches this."""


class Standing:
    """Stands before every storage call of a block: `_call(real, *arguments, **options)`."""

    def __enter__(self):
        self._standing = intercept(self._call)
        self._standing.__enter__()
        return self

    def __exit__(self, *error):
        self._standing.__exit__(*error)


class Amid(Standing):
    """Has something else happen, once, before the first call of a verb on an object."""

    def __init__(self, verb, uri, action):
        self._verb, self._uri, self._action = verb, uri, action

    def _call(self, real, *args, **options):
        where = getattr(args[0], "uri", args[0])
        if self._action and (real.__name__, where) == (self._verb, self._uri):
            action, self._action = self._action, None
            action()
        return real(*args, **options)


class Crashing(Standing):
    """Dies before or after the n-th storage call of a block, in whatever thread that is made."""

    def __init__(self, number, *, after):
        self.count = 0
        self.died = False
        self._number, self._after = number, after
        self._lock = threading.Lock()

    def _call(self, real, *args, **options):
        with self._lock:
            is_due = self.count == self._number
            self.count += 1
        if self.died or (is_due and not self._after):
            self.died = True
            raise Crash
        try:
            return real(*args, **options)
        finally:  # an answer that is an error is an answer
            if is_due:
                self.died = True
                raise Crash
