import errno

import pyarrow as pa
import pytest
from ray import exceptions

from vqpipe.engine.failures import explain
from vqpipe.errors import ConfigError, StorageError


def from_worker(cause):
    """What the driver gets of an exception in a worker."""
    error = exceptions.RayTaskError("read()", f"Traceback: {cause}", cause, "ray::read", 1, "::1")
    return error.as_instanceof_cause()


@pytest.mark.parametrize("own", [ConfigError("an option"), StorageError("403")])
def test_explain_our_own_error_is_found_behind_rays(own):
    found = explain(from_worker(own))
    assert (type(found), found.message, found.exit_code) == (type(own), own.message, 4)


@pytest.mark.parametrize(
    "error",
    [
        from_worker(MemoryError("none left")),
        from_worker(pa.lib.ArrowMemoryError("malloc of size 9 failed")),
        exceptions.OutOfMemoryError("none left"),
        pytest.param(
            from_worker(OSError(errno.ENOSPC, "No space left on device")),
            marks=[pytest.mark.fault(14)],
        ),
        pytest.param(exceptions.OutOfDiskError("full"), marks=[pytest.mark.fault(14)]),
    ],
)
def test_explain_want_of_memory_or_disk_is_exit_4(error):
    found = explain(error)
    assert found.exit_code == 4
    assert "memory or disk" in found.message
    assert "\n" not in found.message


@pytest.mark.parametrize(
    "error",
    [
        exceptions.WorkerCrashedError(),
        exceptions.ActorDiedError(),
        exceptions.ActorUnavailableError("socket closed\nand more", None),
        exceptions.NodeDiedError("gone"),
        from_worker(exceptions.ObjectLostError("ab" * 14, None, "")),
    ],
)
def test_explain_lost_workers_are_exit_5(error):
    found = explain(error)
    assert found.exit_code == 5
    assert "run the same command again" in found.message
    assert "\n" not in found.message


@pytest.mark.parametrize(
    "error",
    [
        from_worker(KeyError("a bug")),
        exceptions.ActorDiedError(
            exceptions.RayTaskError("__init__", "Traceback: a bug", KeyError("a bug"), "", 1, "::1")
        ),
        ZeroDivisionError(),
    ],
)
def test_explain_what_is_unknown_stays_as_it_is(error):
    assert explain(error) is error
