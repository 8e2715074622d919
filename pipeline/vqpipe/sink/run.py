"""The identity of a run, frozen in its sink: which choices its codes were made with.

A run is a sink with its identity. `run.json` is written once, before the first shard, and never
changes; every later command on the sink must ask for the same thing.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from vqpipe import storage
from vqpipe.errors import ConfigError, IncompleteError, MismatchError, StorageError
from vqpipe.schema import File
from vqpipe.sink import layout
from vqpipe.sink.identity import (
    CompactFacts,
    CompactIdentity,
    DecodeFacts,
    DecodeIdentity,
    EncodeFacts,
    EncodeIdentity,
    EvaluateFacts,
    EvaluateIdentity,
    Facts,
    Identity,
)
from vqpipe.sink.plan import Growth, Plan, digest, load_first_plan, load_plan

_ATTEMPTS = 10
_FOLDERS = {"data", "rejected", "left_out", "staging"}
"""Of a sink, which are given in its place at times."""
_R = TypeVar("_R", bound="Run")


@dataclass(frozen=True)
class Run:
    """A sink with its identity: what `run.json` says; each stage has a class of its own."""

    identity: Identity
    """Every choice that changes results; together with the plan, the fingerprint."""
    facts: Facts
    """What a reader of the results needs and what was found out: grid, codebook size, versions."""
    plan_sha256: str
    """Digest of the plan as it was when the run began."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of identity and first plan; equal fingerprints mean interchangeable shards."""
        return digest([self.identity.document(), self.plan_sha256])

    @property
    def stage(self) -> str:
        """The command, as the table of stages has it."""
        return self.identity.stage

    @property
    def entry(self) -> "Entry":
        """What the table of stages has of this one."""
        return STAGES[self.stage]

    def to_json(self) -> bytes:
        """Returns the content of `run.json`."""
        document = {
            "fingerprint": self.fingerprint,
            **self.facts.document(),
            "identity": self.identity.document(),
            "plan_sha256": self.plan_sha256,
        }
        return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


@dataclass(frozen=True)
class CodesRun(Run):
    """A run whose rows hold codes: of `vqpipe encode`, or put together from one."""

    identity: EncodeIdentity | CompactIdentity
    facts: EncodeFacts

    @property
    def encoding(self) -> EncodeIdentity:
        """How the codes were made."""
        if isinstance(self.identity, CompactIdentity):
            return self.identity.encoding
        return self.identity


@dataclass(frozen=True)
class EncodeRun(CodesRun):
    """A run of `vqpipe encode`."""

    identity: EncodeIdentity
    facts: EncodeFacts


@dataclass(frozen=True)
class CompactRun(CodesRun):
    """A run of `vqpipe compact`."""

    identity: CompactIdentity
    facts: CompactFacts


@dataclass(frozen=True)
class DecodeRun(Run):
    """A run of `vqpipe decode`."""

    identity: DecodeIdentity
    facts: DecodeFacts


@dataclass(frozen=True)
class EvaluateRun(Run):
    """A run of `vqpipe evaluate`."""

    identity: EvaluateIdentity
    facts: EvaluateFacts


@dataclass(frozen=True)
class Entry:
    """What the table of stages has of one: its classes, and its words."""

    run: type[Run]
    identity: type[Identity]
    facts: type[Facts]
    made: str
    """What the stage has done with a sample that it did not reject, in a word."""
    title: str
    """What is in the sink, in a line."""


STAGES = {
    "encode": Entry(
        run=EncodeRun,
        identity=EncodeIdentity,
        facts=EncodeFacts,
        made="encoded",
        title="Images as discrete codes, one row a view of an image",
    ),
    "decode": Entry(
        run=DecodeRun,
        identity=DecodeIdentity,
        facts=DecodeFacts,
        made="decoded",
        title="Images decoded from discrete codes, one row an image",
    ),
    "evaluate": Entry(
        run=EvaluateRun,
        identity=EvaluateIdentity,
        facts=EvaluateFacts,
        made="evaluated",
        title="Images and what their codes decode to, compared, one row an image",
    ),
    "compact": Entry(
        run=CompactRun,
        identity=CompactIdentity,
        facts=CompactFacts,
        made="compacted",
        title="Images as discrete codes, in files of as many rows, one row a view of an image",
    ),
}
"""Every stage, by the name of its command."""


@dataclass(frozen=True)
class _Said:
    """What a `run.json` says, of whichever stage and version."""

    identity: dict[str, Any]
    facts: dict[str, Any]
    plan_sha256: str

    @classmethod
    def parse(cls, data: bytes) -> "_Said":
        try:
            document = json.loads(data)
            identity, plan = dict(document.pop("identity")), str(document.pop("plan_sha256"))
            document.pop("fingerprint")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise MismatchError(
                "the sink's run.json is none that vqpipe wrote; use another sink"
            ) from error
        return cls(identity, document, plan)

    def run(self, sink: str) -> Run:
        stage = self.identity.get("stage")
        if not isinstance(stage, str) or stage not in STAGES:
            raise MismatchError(
                f"{sink}/run.json is of a stage {stage!r}, which this version of vqpipe does not "
                "know: use the version that wrote it, or another sink"
            )
        entry = STAGES[stage]
        wrong = entry.identity.find_wrong(self.identity) + entry.facts.find_wrong(self.facts)
        if wrong:
            raise MismatchError(
                f"{sink}/run.json does not say {', '.join(sorted(wrong))}, as that of every run of "
                f"vqpipe {stage} does: bring it back as it was (vqpipe decode also takes the "
                "Parquet files in data/ by themselves, with --model and --grid)"
            )
        identity, facts = entry.identity.read(self.identity), entry.facts.read(self.facts)
        return entry.run(identity, facts, self.plan_sha256)


def parse_run(data: bytes, sink: str) -> Run:
    """Returns the run that the `run.json` of a sink describes.

    Raises:
        MismatchError: If it is damaged, or none that vqpipe wrote; names the fields that are wrong.
    """
    return _Said.parse(data).run(sink)


_R_co = TypeVar("_R_co", bound=Run, covariant=True)


@dataclass(frozen=True)
class Opened(Generic[_R_co]):
    """A sink that was opened: where it is, whose it is, and what was planned by then."""

    uri: str
    run: _R_co
    plan: Plan
    """As it was when the sink was opened: another command may add to it (`load_plan`)."""


Sink = Opened[Run]
"""Of any stage."""
CodesSink = Opened[CodesRun]
"""With rows of codes."""
EncodeSink = Opened[EncodeRun]
"""Of `vqpipe encode`."""
CompactSink = Opened[CompactRun]
"""Of `vqpipe compact`."""
DecodeSink = Opened[DecodeRun]
"""Of `vqpipe decode`."""
EvaluateSink = Opened[EvaluateRun]
"""Of `vqpipe evaluate`."""


def open_sink(uri: str, run: _R) -> Opened[_R]:
    """Returns a sink of which the run has been read already, with its plan as it is now.

    Raises:
        MismatchError: If the plan is none of ours.
        StorageError: If all plans of the run are gone.
    """
    return Opened(uri, run, load_plan(uri))


def load_run(sink: str) -> Run:
    """Returns the run of a sink.

    Raises:
        FileNotFoundError: If no run has been started there.
        MismatchError: If its `run.json` is damaged, or none that vqpipe wrote.
    """
    return _load_said(sink).run(sink)


def find_run(sink: str) -> Run | None:
    """Returns the run of a sink, or None if none has been started there.

    Raises:
        MismatchError: If its `run.json` is damaged, or none that vqpipe wrote.
    """
    said = _find_said(sink)
    return said.run(sink) if said else None


def guess_sink(uri: str) -> str | None:
    """Says which sink is meant by one of its folders; None if it is none of those."""
    parent, _, name = uri.rpartition("/")
    if name in _FOLDERS and _find_said(parent):
        return f"It is a folder of {parent}, which is one: give that"
    return None


def _load_said(sink: str) -> _Said:
    return _Said.parse(storage.read(layout.run_uri(sink)))


def _find_said(sink: str) -> _Said | None:
    try:
        return _load_said(sink)
    except FileNotFoundError:
        return None


def is_complete(sink: str) -> bool:
    """Tells whether a sink's run has ended with everything of its plan committed and checked."""
    try:
        said = dict(json.loads(storage.read(layout.success_uri(sink))))
    except (FileNotFoundError, TypeError, ValueError):
        return False
    return bool(said.get("plan_sha256") == load_plan(sink).sha256())


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
    said = _find_said(sink)
    if said is None:
        _check_free(sink)
    if said is None:  # the plan first, under a name of its own: whichever is named is there
        storage.publish(layout.first_plan_uri(sink, run.plan_sha256), listed.to_bytes())
        storage.publish(layout.run_uri(sink), run.to_json())
        said = _load_said(sink)
    _check_identity(sink, said.identity, run.identity.document())
    found = said.run(sink)
    assert isinstance(found, type(run)), "of the same stage"
    return _grow_plan(sink, found, listed, growth)


def foresee_run(sink: str, run: _R, listed: Plan, growth: Growth) -> Opened[_R]:
    """Returns the sink as `start_run` would leave it, without writing anything.

    Raises:
        VqpipeError: What `start_run` raises.
    """
    said = _find_said(sink)
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
    if found and _find_said(sink) is None:  # and no other command has begun there just now
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


def check_frozen(sink: Sink) -> None:
    """Checks that the sink's plan is the one its identity speaks of, or has grown from it.

    Raises:
        StorageError: If it is not.
    """
    if sink.plan.first().sha256() != sink.run.plan_sha256:
        raise StorageError(
            f"{layout.plan_uri(sink.uri)} is not the plan that {layout.run_uri(sink.uri)} names: "
            "somebody has put one of the two there. Bring back the right one, or use another sink"
        )


def check_creates_once(sink: Sink) -> bool:
    """Tells whether the store honours create-if-absent, by creating `run.json` again.

    Either way the object holds the same bytes afterwards.
    """
    return storage.creates_once(layout.run_uri(sink.uri), sink.run.to_json())
