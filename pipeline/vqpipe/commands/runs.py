"""Which run a command was given, and when and with what one begins."""

import contextlib
import platform
import time
from importlib.metadata import PackageNotFoundError, version

from vqpipe.errors import ConfigError
from vqpipe.sink.run import CodesRun, EncodeRun, Run, find_run, guess_sink


def load_run(sink: str) -> Run:
    """Returns the run of a sink that a command was given.

    Raises:
        ConfigError: If it holds none.
        MismatchError: If its `run.json` is damaged, or none that vqpipe wrote.
    """
    found = find_run(sink)
    if found is None:
        raise ConfigError(
            f"{sink} holds no run: there is no run.json. "
            f"{guess_sink(sink) or 'Give the --sink of a command'}"
        )
    return found


def check_encoded(run: Run, sink: str) -> EncodeRun:
    """Returns a run that is one of `vqpipe encode`.

    Raises:
        ConfigError: If it is of another stage.
    """
    found = check_codes(run, sink)
    if not isinstance(found, EncodeRun):
        raise ConfigError(
            f"{sink} is a sink of vqpipe {run.stage}, whose rows are not in the shards of their "
            f"images: give the sink that they are from, which was {run.identity.source}"
        )
    return found


def check_codes(run: Run, sink: str) -> CodesRun:
    """Returns a run that has codes: of `vqpipe encode`, or of `vqpipe compact`.

    Raises:
        ConfigError: If it is of another stage.
    """
    if not isinstance(run, CodesRun):
        raise ConfigError(f"{sink} is a sink of vqpipe {run.stage}, which holds no codes")
    return run


def now() -> str:
    """Returns the moment, in UTC, as `run.json` has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def versions() -> dict[str, str]:
    """Returns with what a run is made: Python and the packages that may change a result.

    Of those that need not be there, those that are.
    """
    packages = ("vqpipe", "ray", "torch", "pyarrow", "pillow", "numpy")
    found = {package: version(package) for package in packages}
    for package in ("pillow-heif", "pillow-jxl-plugin"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return {"python": platform.python_version(), **found}
