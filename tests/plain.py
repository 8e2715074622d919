"""Commands whose work a plain loop does, in this process: all of them but the graph on Ray.

python -m tests.plain < commands.json > exit_codes.json
"""

import contextlib
import json
import sys

import pyarrow as pa

from tests import shell
from vqpipe.codec.codec import Codec
from vqpipe.commands import cli, launch
from vqpipe.sink.commit import commit_rows
from vqpipe.stages.compact import Compaction
from vqpipe.stages.neighbours import file_runs, write_files
from vqpipe.stages.open import open_rows
from vqpipe.stages.shuffled import place_rows, write_placed


def work(prepared):
    """Does all the work of a command."""
    asked = prepared.work
    if isinstance(asked, Compaction):
        put_into_files(asked)
        return
    plan = asked.writer.sink.plan
    ready = asked.step.prepare(lambda how, _: Codec(asked.weights, how))
    for index, staged in asked.todo.items():
        for table in asked.reader.read(plan, index, staged, 64, 0):
            opened = open_rows(table, asked.opens) if asked.opens else table
            done = ready.run(opened, lambda _: None)
            if asked.after:
                done = asked.after.function(done, *asked.after.arguments)
            commit_rows(done, asked.writer)


def put_into_files(asked):
    """Commits all files that are left, a shuffle in one go."""
    if asked.arrangement.shuffle is None:
        for first, last in file_runs(asked, 1, 2**20):
            list(write_files(asked, first, last))
    else:
        placed = list(place_rows(asked, range(len(asked.snapshot))))
        list(write_placed(asked, pa.concat_tables(placed)))


@contextlib.contextmanager
def without_ray():
    """Has commands do their work in this process, within a block."""
    real = launch._work
    launch._work = lambda *given: work(given[2])
    try:
        yield
    finally:
        launch._work = real


def run(commands):
    """Runs commands, each a list of words, until one fails; returns their exit codes."""
    codes = []
    with without_ray():
        for words in commands:
            codes.append(cli.main(list(map(str, words))))
            if codes[-1]:
                break
    return codes


def encode(source, sink, *options, resolution=64):
    """Encodes with the demo's checkpoint, as `shell.encode` does on Ray."""
    places = ("--source", source, "--sink", sink, "--model", shell.CHECKPOINT)
    assert run([["encode", *places, "--resolution", resolution, *options]]) == [0]


def decode(source, sink, *options):
    """Decodes to PNGs."""
    assert run([["decode", "--source", source, "--sink", sink, "--format", "png", *options]]) == [0]


def main():
    """Runs the commands on standard input; prints their exit codes."""
    json.dump(run(json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()
