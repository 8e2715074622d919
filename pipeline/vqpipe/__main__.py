"""`python -m vqpipe` is the command `vqpipe`."""

from vqpipe.commands.cli import run_to_end

run_to_end()
