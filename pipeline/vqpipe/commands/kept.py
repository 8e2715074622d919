"""What a run keeps of its source, as `run.json` has it, so that later files can be held against it.

Names of types are for people and other readers; Arrow's own schema beside them is for us.
"""

import base64
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from vqpipe.sink.plan import Plan
from vqpipe.sink.run import Run
from vqpipe.sources.agreement import Begun
from vqpipe.sources.parquet_footer import parse_schema

_SCHEMA = "kept_schema"


def facts_of_kept(kept: pa.Schema) -> dict[str, Any]:
    """Returns the kept columns as facts of a run: types by name, and Arrow's schema in base64."""
    types = {field.name: str(field.type) for field in kept}
    return {"kept": types, _SCHEMA: base64.b64encode(kept.serialize().to_pybytes()).decode()}


def begun_with(run: Run | None, plan: Plan | None, keep: Sequence[str]) -> Begun | None:
    """Returns what a run keeps, and which files it has planned with it.

    None if it has not begun, or keeps other columns: then its identity says what differs.
    """
    if run is None or plan is None:
        return None
    try:
        kept = parse_schema(base64.b64decode(run.facts[_SCHEMA], validate=True))
    except (KeyError, TypeError, ValueError, OSError):
        return None
    if kept.names != list(keep):
        return None
    return Begun(kept, frozenset(file for shard in plan.shards() for file in shard.files))
