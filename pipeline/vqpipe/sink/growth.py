"""What a plan may take in of a source that is not what it was, and what it refuses."""

from dataclasses import dataclass, field

from vqpipe.errors import SourceChangedError


@dataclass(frozen=True)
class Growth:
    """What a plan may take in when the source is not what it was."""

    extend: bool = False
    """Shards that are new."""
    replace_changed: bool = False
    """Shards whose files changed; they are done again."""
    is_settled: bool = False
    """Whether the plan of a run that has begun is taken as it is, whatever a listing says."""


@dataclass(frozen=True)
class Changes:
    """Names of shards, by what became of them since they were planned."""

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


def check_allowed(changes: Changes, growth: Growth, sink: str) -> None:
    """Refuses what the plan may not take in, and says which option would let it."""
    cures = {
        "new": ("take them in with --extend", growth.extend),
        "changed": ("do them again with --replace-changed", growth.replace_changed),
        "gone": ("bring them back: what a run has planned stays part of it", False),
    }
    said = [
        f"  {len(names):,} {what}: {some_of(names)}\n    {cure}"
        for what, (cure, is_allowed) in cures.items()
        if (names := getattr(changes, what)) and not is_allowed
    ]
    if said:
        raise SourceChangedError(
            f"the source is not what {sink} was planned from:\n"
            + "\n".join(said)
            + "\nOr take a new sink. Nothing was changed."
        )


def some_of(names: list[str]) -> str:
    """Returns the first few names of shards, for a message."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
