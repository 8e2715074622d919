"""Commands whose work a plain loop does, in this process: all of them but the graph on Ray.

python -m tests.plain < commands.json > exit_codes.json
"""

import json
import sys

from vqpipe.codec.codec import Codec
from vqpipe.commands import cli, launch
from vqpipe.sink.commit import commit_rows
from vqpipe.stages.open import open_rows


def work(prepared):
    """Does all the work of a command."""
    asked = prepared.work
    plan = asked.writer.sink.plan
    ready = asked.step.prepare(lambda how, _: Codec(asked.weights, how))
    for index, staged in asked.todo.items():
        for table in asked.reader.read(plan, index, staged, 64, 0):
            opened = open_rows(table, asked.opens) if asked.opens else table
            done = ready.run(opened, lambda _: None)
            if asked.after:
                done = asked.after.function(done, *asked.after.arguments)
            commit_rows(done, asked.writer)


def main():
    """Runs commands, each a list of words, until one fails; prints their exit codes."""
    launch._work = lambda *given: work(given[2])
    codes = []
    for words in json.load(sys.stdin):
        codes.append(cli.main(words))
        if codes[-1]:
            break
    json.dump(codes, sys.stdout)


if __name__ == "__main__":
    main()
