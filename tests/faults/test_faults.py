"""What can go wrong, by number, and that each of it has a test: `pytest -m fault` runs them all.

A test says which fault it is about with `@pytest.mark.fault(number, ...)`; those that take minutes
are marked `soak` as well and run in `make soak`.
"""

import ast
from pathlib import Path

FAULTS = {
    1: "workers of every kind are killed at random moments",
    2: "the driver is killed at random moments",
    3: "a node is lost and replaced",
    4: "the only node that can encode is lost and not replaced",
    5: "the head of the cluster is killed",
    6: "two drivers work on one sink at once",
    7: "a commit dies before or after any of its storage calls",
    8: "SIGTERM, with which spot machines are reclaimed",
    9: "the device runs out of memory",
    10: "a store that answers 503, drops connections, loses answers, cuts bodies short",
    11: "a store that answers nothing but 503",
    12: "403 or expired credentials in the middle of a run",
    13: "an exception in the middle of writing",
    14: "a full disk",
    15: "a store that ignores create-if-absent",
    16: "an input that is replaced between plan and read, or between runs",
    17: "a sink of another run",
    18: "files that are no images, or only parts of one",
    19: "images that would need more pixels or memory than allowed",
    20: "images that crash, hang or exhaust the memory of their decoder",
    21: "every kind of image that is in use",
    22: "a tar that ends in the middle of a member",
    23: "tars made in error or malice",
    24: "Parquet files made in error or malice",
    25: "pickles and other objects among the members",
    26: "keys that are no good as names",
    27: "latents that are not finite",
    28: "checkpoints made in error or malice",
    29: "codebooks of any size",
    30: "too many rejections",
    31: "sources and sinks that cannot work",
    32: "secrets in the environment",
}


def _marked(path):
    """Yields every number in a `pytest.mark.fault(...)` of a file that decorates or marks."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
            yield from (ast.literal_eval(argument) for argument in node.args)


def test_every_fault_has_a_test():
    found = {
        number for path in Path(__file__).parents[1].rglob("test_*.py") for number in _marked(path)
    }
    assert found == FAULTS.keys(), f"without a test: {sorted(FAULTS.keys() - found)}"
