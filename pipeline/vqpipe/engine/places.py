"""Which machines of a cluster workers go to: what these must have, and whether there are any."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_ARGUMENTS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
"""What Ray has arguments of their own for."""


@dataclass(frozen=True)
class Place:
    """What a machine must have to take a worker; nothing here changes a result."""

    resources: Mapping[str, float] = field(default_factory=dict)
    """How much of a resource is set aside for each worker, by Ray's names."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Values that labels have, in Ray's words: `H100`, `!H100`, `in(H100, A100)`."""

    def __bool__(self) -> bool:
        return bool(self.resources or self.labels)

    def options(self, **least: Any) -> dict[str, Any]:  # noqa: ANN401 (whatever Ray takes)
        """Returns arguments of `ray.remote`: these, and over them what this place asks for."""
        named = {_ARGUMENTS[name]: amount for name, amount in self._of_ray()}
        others = {name: amount for name, amount in self.resources.items() if name not in _ARGUMENTS}
        found = {**least, **named}
        if others:
            found["resources"] = others
        if self.labels:
            found["label_selector"] = dict(self.labels)
        return found

    def _of_ray(self) -> list[tuple[str, float]]:
        return [(name, self.resources[name]) for name in _ARGUMENTS if name in self.resources]

    def fits(self, machine: Mapping[str, Any]) -> bool:
        """Tells whether a machine, as `capacity.machines` has it, has all of that."""
        labels = machine.get("Labels") or {}
        return all(
            machine["Resources"].get(name, 0) >= amount for name, amount in self.resources.items()
        ) and all(is_met(labels.get(name), wanted) for name, wanted in self.labels.items())

    def describe(self) -> str:
        """Returns what is asked for, in words."""
        amounts = [f"{amount:g} {name}" for name, amount in self.resources.items()]
        labels = [f"label {name}={value}" for name, value in self.labels.items()]
        return " and ".join([*amounts, *labels])


def is_met(value: str | None, wanted: str) -> bool:
    """Tells whether a machine's label has a wanted value, by Ray's rules.

    Args:
        value: What the machine has; None if it lacks the label.
        wanted: `H100`, `in(H100, A100)`, or either with a `!` before it, which machines without
            the label meet too.
    """
    said = wanted.removeprefix("!")
    several = re.fullmatch(r"in\((.*)\)", said)
    values = [each.strip() for each in several[1].split(",")] if several else [said]
    return (value in values) is (said == wanted)


def describe_missing(place: Place, machines: Iterable[Mapping[str, Any]], who: str) -> str:
    """Returns that no machine has what some workers ask for, in a sentence; empty if one has.

    Args:
        place: What they ask for.
        machines: Those of the cluster.
        who: They.
    """
    found = list(machines)
    if not place or any(map(place.fits, found)):
        return ""
    return f"{who} ask for {place.describe()}, which none of the cluster's {len(found)} nodes has"
