"""Plans as they lie in a sink: `plan.parquet`, and the one that its `run.json` names."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

from vqpipe import storage
from vqpipe.errors import MismatchError, StorageError
from vqpipe.sink import layout
from vqpipe.sink.plan import PLAN, Plan


def load_plan(sink: str) -> Plan:
    """Returns the plan of a sink as it is now.

    A start that was killed may have left no `plan.parquet` yet: nothing was added by then.

    Raises:
        FileNotFoundError: If no run has been started there.
        MismatchError: If it is none of ours.
        StorageError: If all plans of a run are gone.
    """
    uri = layout.plan_uri(sink)
    try:
        return parse_plan(uri, storage.read(uri))
    except FileNotFoundError:
        return load_first_plan(sink)


def load_first_plan(sink: str) -> Plan:
    """Returns the plan that a sink's `run.json` names.

    Raises:
        FileNotFoundError: If no run has been started there.
        MismatchError: If either is none of ours.
        StorageError: If the plan is gone.
    """
    try:
        sha256 = str(json.loads(storage.read(layout.run_uri(sink)))["plan_sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise MismatchError(
            f"{layout.run_uri(sink)} is none that vqpipe wrote; use another sink"
        ) from error
    uri = layout.first_plan_uri(sink, sha256)
    try:
        return parse_plan(uri, storage.read(uri))
    except FileNotFoundError:
        raise StorageError(
            f"{sink} has a run.json, and its plan is gone: bring back {layout.plan_uri(sink)} or "
            f"{uri}, or use another sink"
        ) from None


def parse_plan(uri: str, data: bytes) -> Plan:
    """Returns the plan that a `plan.parquet` has, wherever that is.

    Raises:
        MismatchError: If it is none of ours.
    """
    try:
        return Plan(pq.read_table(io.BytesIO(data)).cast(PLAN))
    except (pa.ArrowException, ValueError, OSError) as error:
        raise MismatchError(
            f"{uri} is no plan that this version of vqpipe wrote; use another sink"
        ) from error


def find_plan(sink: str) -> Plan | None:
    """Returns the plan of a sink, or None if no run has been started there."""
    try:
        return load_plan(sink)
    except FileNotFoundError:
        return None
