"""What a run keeps of its source, as `run.json` has it, so that later files can be held against it.

Names of types are for people and other readers; Arrow's own schema beside them is for us.
"""

import base64
import functools
from collections.abc import Callable, Sequence

import pyarrow as pa

from vqpipe.errors import MismatchError
from vqpipe.schema import File
from vqpipe.sink.plan import Plan
from vqpipe.sink.run import CodesRun, DecodeRun, EncodeRun, Run
from vqpipe.sources.agreement import Begun
from vqpipe.sources.parquet_footer import parse_schema


def name_types(kept: pa.Schema) -> dict[str, str]:
    """Returns the names of the types of kept columns, by name."""
    return {field.name: str(field.type) for field in kept}


def pack_schema(kept: pa.Schema) -> str:
    """Returns kept columns as Arrow has them, in base64."""
    return base64.b64encode(kept.serialize().to_pybytes()).decode()


def pack_asked(asked: pa.Schema) -> str | None:
    """Returns columns that are read and not kept, packed; None if there are none."""
    return pack_schema(asked) if asked.names else None


def begun_with(run: Run | None, plan: Plan | None, keep: Sequence[str]) -> Begun | None:
    """Returns what a run keeps, and which files it has planned with it.

    None if it has not begun, or keeps other columns: then its identity says what differs.
    """
    if not isinstance(run, EncodeRun | DecodeRun) or run.identity.keep != tuple(keep):
        return None
    return _begun(run.facts.kept_schema, plan)


def begun_asking(run: Run | None, plan: Plan | None, names: Sequence[str]) -> Begun | None:
    """Returns the same of columns that a run reads for its `where` alone."""
    packed = run.facts.where_schema if isinstance(run, EncodeRun) else None
    found = _begun(packed, plan)
    return found if found and found.kept.names == list(names) else None


def _begun(packed: str | None, plan: Plan | None) -> Begun | None:
    kept = _parse(packed)
    if plan is None or kept is None:
        return None
    return Begun(kept, _PlannedFiles(plan))


class _PlannedFiles:
    """The files of a plan, put together when one is asked for; of tars, none ever is."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __contains__(self, file: object) -> bool:
        return file in self._files

    @functools.cached_property
    def _files(self) -> frozenset[File]:
        return self._plan.files()


def _parse(packed: str | None) -> pa.Schema | None:
    """Returns packed columns (`pack_schema`); None of what is something else."""
    try:
        return parse_schema(base64.b64decode(packed or "", validate=True))
    except (TypeError, ValueError, OSError):
        return None


def kept_of(run: CodesRun, find_types: Callable[[], pa.Schema]) -> pa.Schema:
    """Returns the kept columns of a run, with what they say of themselves.

    Args:
        run: The run.
        find_types: Returns the columns of one of its objects; asked where `run.json` has no types.
    """
    known = _parse(run.facts.kept_schema)
    if known is not None:
        return known
    found = find_types()
    return pa.schema([found.field(name) for name in run.facts.kept])


def check_kept(run: EncodeRun | DecodeRun, kept: pa.Schema) -> None:
    """Checks that kept columns have the types that they had when the run began.

    Raises:
        MismatchError: If one has not; names them.
    """
    began, found = run.facts.kept, name_types(kept)
    if began != found:
        said = (f"{name}: {began.get(name)} then, {found[name]} now" for name in found)
        raise MismatchError(
            "columns to keep have other types than when the run began, so that its files would "
            f"not go together: {'; '.join(said)}. Use another --sink"
        )
