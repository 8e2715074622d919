"""The identity of a run, frozen in its sink: which choices its codes were made with.

A run is a sink with its identity. `run.json` is written once, before the first shard, and never
changes; every later command on the sink must ask for the same thing.
"""

import functools
import json
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from vqpipe import storage
from vqpipe.errors import MismatchError, StorageError
from vqpipe.sink import layout
from vqpipe.sink.digest import digest
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
from vqpipe.sink.plan import Plan
from vqpipe.sink.plan_file import load_plan

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
class Said:
    """What a `run.json` says, of whichever stage and version."""

    identity: dict[str, Any]
    facts: dict[str, Any]
    plan_sha256: str

    @classmethod
    def parse(cls, data: bytes) -> "Said":
        """Returns what the bytes of a `run.json` say."""
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
        """Returns the run of a sink that says this."""
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
    return Said.parse(data).run(sink)


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
    return load_said(sink).run(sink)


def find_run(sink: str) -> Run | None:
    """Returns the run of a sink, or None if none has been started there.

    Raises:
        MismatchError: If its `run.json` is damaged, or none that vqpipe wrote.
    """
    said = find_said(sink)
    return said.run(sink) if said else None


def guess_sink(uri: str) -> str | None:
    """Says which sink is meant by one of its folders; None if it is none of those."""
    parent, _, name = uri.rpartition("/")
    if name in _FOLDERS and find_said(parent):
        return f"It is a folder of {parent}, which is one: give that"
    return None


def load_said(sink: str) -> Said:
    """Returns what the `run.json` of a sink says.

    Raises:
        FileNotFoundError: If no run has been started there.
        MismatchError: If it is damaged.
    """
    return Said.parse(storage.read(layout.run_uri(sink)))


def find_said(sink: str) -> Said | None:
    """Returns what the `run.json` of a sink says, or None if no run has been started there."""
    try:
        return load_said(sink)
    except FileNotFoundError:
        return None


def is_complete(sink: str) -> bool:
    """Tells whether a sink's run has ended with everything of its plan committed and checked."""
    try:
        said = dict(json.loads(storage.read(layout.success_uri(sink))))
    except (FileNotFoundError, TypeError, ValueError):
        return False
    return bool(said.get("plan_sha256") == load_plan(sink).sha256())


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
