"""What Ray raises in the driver, as an error of ours that says what to do.

What we do not know stays as it is, to be seen in full: it may be a bug of ours.
"""

import errno
from collections.abc import Iterator

from ray import exceptions

from vqpipe.errors import MachineError, VqpipeError, WorkersLostError

_FULL = (exceptions.OutOfMemoryError, exceptions.OutOfDiskError, exceptions.ObjectStoreFullError)
_LOST = (
    exceptions.WorkerCrashedError,
    exceptions.RayActorError,
    exceptions.NodeDiedError,
    exceptions.LocalRayletDiedError,
    exceptions.ObjectLostError,
    exceptions.ActorUnschedulableError,
    exceptions.TaskUnschedulableError,
)
_IN_CONSTRUCTOR = "error raised in its creation task"
"""What Ray says of an actor that did not die but could not be made: a bug, with its traceback."""

_MAX_TEXT = 300


def explain(error: BaseException) -> BaseException:
    """Returns the error of ours behind what Ray raised, or one that says what it means."""
    found = list(_causes(error))
    own = next((each for each in found if isinstance(each, VqpipeError)), None)
    return own or next(filter(None, map(_translate, found)), error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and all that led to it; not Ray's shells, which inherit from their cause."""
    seen: list[BaseException | None] = [error]
    for found in seen:
        if found is not None and len(seen) < 32:
            cause = getattr(found, "cause", None)
            if not (isinstance(found, exceptions.RayTaskError) and cause):
                yield found
            seen += [cause, found.__cause__]


def _translate(error: BaseException) -> VqpipeError | None:
    full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM}
    if full or isinstance(error, (MemoryError, *_FULL)):
        return MachineError(
            f"a machine ran out of memory or disk: {_text(error)}. Everything committed is safe: "
            "give it more (for memory, a smaller --batch-size or --max-pixels helps), and run the "
            "same command again"
        )
    if isinstance(error, _LOST) and _IN_CONSTRUCTOR not in str(error):
        return WorkersLostError(
            f"processes or machines of the cluster died too often: {_text(error)}. Everything "
            "committed is safe: look at the cluster, and run the same command again"
        )
    return None


def _text(error: BaseException) -> str:
    """Returns the first line of what an error says, without what Ray adds."""
    said = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {said}"[:_MAX_TEXT]
