"""`python -m vqpipe` is the command `vqpipe`."""

import sys
from typing import NoReturn

from vqpipe.extras import explain_missing


def main() -> NoReturn:
    """Is the `vqpipe` command; says what to install where only what a trainer needs is there."""
    try:
        from vqpipe.commands.cli import run_to_end  # noqa: PLC0415 (it takes what may be absent)
    except ModuleNotFoundError as error:
        sys.stderr.write(f"vqpipe: {explain_missing(error, 'its commands need')}\n")
        sys.exit(4)
    run_to_end()


if __name__ == "__main__":
    main()
