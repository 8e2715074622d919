"""The start of a run: its plan and its identity frozen in the sink, or held against those there."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from vqpipe import storage
from vqpipe.errors import ConfigError, IncompleteError, MismatchError
from vqpipe.schema import File
from vqpipe.sink import layout
from vqpipe.sink.growth import Growth
from vqpipe.sink.plan import Plan
from vqpipe.sink.plan_file import load_first_plan
from vqpipe.sink.run import Opened, Run, check_frozen, find_said, load_said, open_sink

_ATTEMPTS = 10
_R = TypeVar("_R", bound=Run)


def start_run(sink: str, run: _R, listed: Plan, growth: Growth) -> Opened[_R]:
    """Freezes plan and identity in the sink, or checks that it holds the same ones.

    Args:
        sink: Where the run is or will be.
        run: What this command asks for.
        listed: The shards that the source has now.
        growth: What the plan may take in of what is new or changed there.

    Returns:
        The sink with run and plan as it has them; two commands that start at once agree on one of
        them.

    Raises:
        MismatchError: If the sink belongs to another run, of whichever stage; names the fields
            that differ.
        SourceChangedError: If the inputs differ from the plan in a way that `growth` does not
            allow; names the first shards.
        StorageError: If the plan is not the one that the identity speaks of.
        IncompleteError: If other commands keep adding to the plan.
    """
    said = find_said(sink)
    if said is None:
        _check_free(sink)
    if said is None:  # the plan first, under a name of its own: whichever is named is there
        storage.publish(layout.first_plan_uri(sink, run.plan_sha256), listed.to_bytes())
        storage.publish(layout.run_uri(sink), run.to_json())
        said = load_said(sink)
    _check_identity(sink, said.identity, run.identity.document())
    found = said.run(sink)
    assert isinstance(found, type(run)), "of the same stage"
    return _grow_plan(sink, found, listed, growth)


def foresee_run(sink: str, run: _R, listed: Plan, growth: Growth) -> Opened[_R]:
    """Returns the sink as `start_run` would leave it, without writing anything.

    Raises:
        VqpipeError: What `start_run` raises.
    """
    said = find_said(sink)
    if said is None:
        _check_free(sink)
        return Opened(sink, run, listed)
    _check_identity(sink, said.identity, run.identity.document())
    found = said.run(sink)
    assert isinstance(found, type(run)), "of the same stage"
    opened = open_sink(sink, found)
    check_frozen(opened)
    if growth.is_settled:
        return opened
    return replace(opened, plan=opened.plan.grow(listed, growth, sink))


def _check_free(sink: str) -> None:
    """Refuses a place whose `data/` has something already, and no run.

    Raises:
        ConfigError: If it has.
    """
    found = layout.list_committed(sink)
    if found and find_said(sink) is None:  # and no other command has begun there just now
        some = next(iter(found.values())).uri
        raise ConfigError(
            f"{sink} is no empty place: {some} is there, and no run.json. Give another one, or "
            "bring back the run.json of the run that made it"
        )


def _grow_plan(uri: str, run: _R, listed: Plan, growth: Growth) -> Opened[_R]:
    """Returns a sink once what is new or changed is in its plan.

    What another command adds at the same time is looked at again, and never lost.
    """
    for _ in range(_ATTEMPTS):
        file, sink = _create_plan(uri), open_sink(uri, run)
        check_frozen(sink)
        grown = sink.plan if growth.is_settled else sink.plan.grow(listed, growth, uri)
        if grown is sink.plan:
            return sink
        storage.delete(layout.success_uri(uri))  # it speaks of the plan before
        if storage.replace_if(file, grown.to_bytes()):
            storage.delete(layout.success_uri(uri))  # of a command that ended meanwhile
            return replace(sink, plan=grown)
    raise IncompleteError(
        f"other commands keep adding to {layout.plan_uri(uri)}: run the same command again"
    )


def _create_plan(sink: str) -> File:
    """Returns which `plan.parquet` is there; it is made of the first plan where there is none."""
    uri = layout.plan_uri(sink)
    try:
        return storage.stat(uri)
    except FileNotFoundError:
        storage.publish(uri, load_first_plan(sink).to_bytes())
    return storage.stat(uri)


def _check_identity(sink: str, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    differing = [
        f"  {name}: the sink has {found.get(name)!r}, this command asks for {asked.get(name)!r}"
        for name in sorted(found.keys() | asked.keys())
        if found.get(name) != asked.get(name)
    ]
    if differing:
        raise MismatchError(
            f"{sink} belongs to another run; these fields differ:\n"
            + "\n".join(differing)
            + "\nUse another sink, or the options of that run."
        )
