"""Which run a command was given, and when and with what one begins."""

import contextlib
import platform
import time
from importlib.metadata import PackageNotFoundError, version

from vqpipe.errors import ConfigError
from vqpipe.sink.run import EncodeRun, Run, find_run


def load_run(sink: str) -> Run:
    """Returns the run of a sink that a command was given.

    Raises:
        ConfigError: If it holds none.
        MismatchError: If its `run.json` is damaged, or none that vqpipe wrote.
    """
    found = find_run(sink)
    if found is None:
        raise ConfigError(
            f"{sink} holds no run (there is no run.json); give the --sink of a command"
        )
    return found


def check_encoded(run: Run, sink: str) -> EncodeRun:
    """Returns a run that is one of `vqpipe encode`.

    Raises:
        ConfigError: If it is of another stage.
    """
    if not isinstance(run, EncodeRun):
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
