"""Which samples of a source a command takes: those at its beginning, those that meet conditions."""

from dataclasses import replace

import pyarrow as pa

from vqpipe.commands.console import Fields, Prose
from vqpipe.commands.description import describe_limit, describe_where
from vqpipe.commands.kept import begun_asking
from vqpipe.commands.stage_jobs import Encode
from vqpipe.conditions.expression import SIZES, Where, columns_of, parse
from vqpipe.conditions.judge import check
from vqpipe.errors import ConfigError
from vqpipe.schema import Selection
from vqpipe.sink.identity import EncodeIdentity
from vqpipe.sink.plan import Plan
from vqpipe.sink.run import EncodeRun, Run
from vqpipe.sources import asked_schema
from vqpipe.sources.limits import Cut, first_samples, first_shards
from vqpipe.sources.listing import Listing
from vqpipe.stages.conditions import Conditions


def take_first(
    job: Encode, begun: Run | None, planned: Plan | None, listing: Listing, selection: Selection
) -> tuple[Listing, Cut | None]:
    """Returns what a command takes of a source, and how the last shard of it is cut.

    A run that has begun has settled it, whatever the source has gained since.

    Args:
        job: What is asked for.
        begun: The run.
        planned: Its plan.
        listing: All of the source.
        selection: What to read of each sample.
    """
    if job.limit is None and job.limit_shards is None:
        return listing, None
    if planned and isinstance(begun, EncodeRun) and _is_same_limit(job, begun.identity):
        names = set(planned.names)
        shards = tuple(each for each in listing.shards if each.name in names)
        return replace(listing, shards=shards), begun.facts.limit_last
    if job.limit_shards is not None:
        listing = first_shards(listing, job.limit_shards)
    if job.limit is None:
        return listing, None
    return first_samples(listing, selection, job.limit)


def _is_same_limit(job: Encode, identity: EncodeIdentity) -> bool:
    return (job.limit, job.limit_shards) == (identity.limit, identity.limit_shards)


def settle_conditions(
    job: Encode,
    begun: Run | None,
    planned: Plan | None,
    listing: Listing,
    selection: Selection,
    kept: pa.Schema,
) -> Conditions:
    """Returns the conditions on stored columns, with the columns that are read for them alone.

    Raises:
        ConfigError: If a column is not there, or its type does not go with a condition.
    """
    where = parse(job.where)
    for text in where.sizes:
        check(text, pa.schema([(name, pa.int32()) for name in SIZES]))
    names = [name for name in where.columns if name not in kept.names]
    if names and listing.format != "parquet":
        raise ConfigError(_describe_unknown(names, listing.format, kept))
    asked = pa.schema([])
    if names:
        try:
            asked = asked_schema(listing, selection, names, begun_asking(begun, planned, names))
        except ConfigError as error:
            raise ConfigError(f"--where names {', '.join(map(repr, names))}: {error}") from None
    _check_types(where, pa.schema([*kept, *asked]))
    return Conditions(where.stored, asked)


def _describe_unknown(names: list[str], kind: str, kept: pa.Schema) -> str:
    """Returns what to say of names that no column has."""
    there = ", ".join(f"{each.name} ({each.type})" for each in kept)
    cure = "drop them" if kind == "folder" and not there else "name columns with --keep first"
    return (
        f"--where names {', '.join(map(repr, names))}, and unless the source is Parquet, only what "
        f"is kept can be asked for: {there or 'nothing is'}; {cure}, or ask for width and height"
    )


def _check_types(where: Where, columns: pa.Schema) -> None:
    for text in where.stored:
        check(text, pa.schema([columns.field(name) for name in columns_of(text)]))


def describe_choice(run: EncodeRun, taken: int, found: int) -> Fields:
    """Returns the lines about which samples are taken, if not all are.

    Args:
        run: Which takes them.
        taken: How many shards are.
        found: How many shards the source has.
    """
    limit, cut = describe_limit(run.identity), run.facts.limit_last
    if limit is None:
        return describe_where(run.identity)
    last = f", the last one cut at row {cut[1]:,}" if cut else ""
    said = f"{limit}: {taken:,} of {found:,} shard(s){last}"
    return [*describe_where(run.identity), ("limit", Prose(said))]
