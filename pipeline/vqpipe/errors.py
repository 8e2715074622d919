"""Everything that stops a run, and the exit code it stops with.

    VqpipeError
    ├── ConfigError         4  an option that cannot work: change the command
    ├── CheckpointError     4  model files missing, damaged or no tokenizer: fix the files
    ├── CodecError          4  the codec fails whatever it is given: see vqpipe doctor
    ├── MachineError        4  a machine ran out of memory or disk: give it more, rerun
    ├── StorageError        4  the store said no, or nothing, after retries: fix access, rerun
    │   └── DamagedError    4  an object of ours is not as it was written: restore or remake it
    ├── MismatchError       3  the sink belongs to another run: another sink, or its options
    ├── SourceChangedError  3  an input is not what was planned: restore it, or take it in
    ├── IncompleteError     2  the run ended before every shard was committed: rerun
    │   ├── TooManyRejectionsError  2  the error budget is spent: see rejected/, fix or raise it
    │   └── DamagedShardsError  2  shards end early, images are lost: repair them, or accept it
    ├── NoProgressError     5  nothing moved for the set time: look at the cluster, rerun
    │   ├── DeviceError     5  a GPU fails in one process after the other: look at it, rerun
    │   └── WorkersLostError  5  processes or machines died too often: look at them, rerun
    ├── DamagedSinkError    1  vqpipe verify found a breach: remove what it names, rerun
    └── AccountingError     1  the rows of a shard do not add up, none is committed: report it

Exit code 0 means that ``_SUCCESS`` is in the sink, and nothing else means that; of a command that
was given a part of a run (``--part``), that every shard of the part is committed; of ``--dry-run``,
that the run would begin. A bad image is
never an exception: it is a rejection, a row of data (`vqpipe.rejections.Reason`).
"""

import re
import signal

_MAX_LINE = 200


def in_one_line(error: BaseException) -> str:
    """Returns one printable line without the addresses of objects, equal on every run."""
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", f"{type(error).__name__}: {error}")
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(printable.split())[:_MAX_LINE]


class VqpipeError(Exception):
    """A run could not do its job; the message says what happened and what to do next."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigError(VqpipeError):
    """The command cannot work as given: change it."""

    exit_code = 4


class CheckpointError(VqpipeError):
    """The model's files are missing, damaged or something else: fix them."""

    exit_code = 4


class CodecError(VqpipeError):
    """The codec fails at plain images too: look at checkpoint and precision with vqpipe doctor."""

    exit_code = 4


class MachineError(VqpipeError):
    """A machine ran out of memory or disk: give it more, then run the same command again."""

    exit_code = 4


class StorageError(VqpipeError):
    """The store refused or did not answer: fix access or wait, then run the same command again."""

    exit_code = 4


class DamagedError(StorageError):
    """An object of a sink is not what a command wrote there: restore it, or have it made again."""


class MismatchError(VqpipeError):
    """The sink holds another run: choose another sink or the options of that run."""

    exit_code = 3


class SourceChangedError(VqpipeError):
    """An input differs from the plan: restore it, take the change in, or use a new sink."""

    exit_code = 3


class IncompleteError(VqpipeError):
    """Shards are left: run the same command again to finish them."""

    exit_code = 2


def stopped_by(number: int) -> IncompleteError:
    """Returns what a command ends with that a signal stops."""
    return IncompleteError(
        f"stopped by {signal.Signals(number).name}; everything committed is safe: run the same "
        "command again to finish"
    )


class TooManyRejectionsError(IncompleteError):
    """More samples were rejected than allowed: look at them, then fix or allow more."""


class DamagedShardsError(IncompleteError):
    """Shards could not be read to their end: repair them and replace, or accept what is lost."""


class NoProgressError(VqpipeError):
    """Nothing moved for the set time: look at the cluster, then run the same command again."""

    exit_code = 5


class DeviceError(NoProgressError):
    """A GPU fails in one process after the other: look at it, then run the same command again."""


class WorkersLostError(NoProgressError):
    """Processes or machines died too often: look at them, then run the same command again."""


class DamagedSinkError(VqpipeError):
    """A sink is not as a run leaves it: remove what is named, then run the same command again."""


class AccountingError(VqpipeError):
    """The rows of a shard do not add up, a bug of ours; nothing of the shard was committed."""
