"""Libraries that only some formats need; each is an extra of this package."""

import importlib.util

from vqpipe.errors import ConfigError


def need(library: str, extra: str) -> None:
    """Checks that a library is installed.

    Args:
        library: What is imported.
        extra: Which of this package's extras brings it.

    Raises:
        ConfigError: If it is not; says how to install it.
    """
    if importlib.util.find_spec(library) is None:
        raise ConfigError(
            f"the library {library} is not installed: pip install 'vqpipe[{extra}]', or "
            f"'.[{extra}]' where its source is"
        )
