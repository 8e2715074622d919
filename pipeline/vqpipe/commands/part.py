"""A part of a run's shards that one command does, of several that know nothing of each other.

For job arrays: each part is a command on a machine of its own. What is there in the sink is all
that they share.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from vqpipe.picks import hash_of

if TYPE_CHECKING:
    from vqpipe.sink.plan import Plan  # it takes pyarrow

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """One of several parts of equally many shards, by a hash of their names."""

    index: int
    """From 0."""
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def places(self, plan: "Plan") -> list[int]:
        """Returns the places in the plan of the shards of this part, in order.

        They are dealt out in turn, in order of their hashes, so that no part has two more than
        another; what was planned later comes behind, so that it moves none of those before.
        """
        generations = plan.table["generation"].to_pylist()
        hashes = [hash_of(name, what_for=b"part") for name in plan.names]
        order = sorted(range(len(plan)), key=lambda place: (generations[place], hashes[place]))
        return sorted(order[self.index :: self.count])

    def take(self, plan: "Plan", left: Mapping[int, T]) -> dict[int, T]:
        """Returns what of the shards that are left, by place in the plan, is of this part."""
        return {place: left[place] for place in self.places(plan) if place in left}


def parse_part(text: str | None) -> Part | None:
    """Returns the part that `--part` names; None for all of a run.

    Raises:
        ValueError: If it names none.
    """
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    index, count = map(int, found.groups()) if found else (0, 0)
    if index >= count:
        raise ValueError(
            f"--part is {text}; it must be such as 0/8, the first of eight parts, or 7/8, the last"
        )
    return Part(index, count)
