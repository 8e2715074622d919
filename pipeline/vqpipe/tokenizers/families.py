"""All families of checkpoints, and which of them one is of: told by names and config, or asked for.

A wrong family gives plausible codes. So nothing is guessed: where names and config leave a doubt,
`--family` has to settle it, and what it says is held against both.
"""

import importlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor

from vqpipe.errors import CheckpointError, ConfigError
from vqpipe.tokenizers.averages import choose, split_averages
from vqpipe.tokenizers.ddconfig import find_model
from vqpipe.tokenizers.family import Family, Network, Part, Stored
from vqpipe.tokenizers.family_names import FamilyName, Which
from vqpipe.tokenizers.naming import State
from vqpipe.vqgan.tensors import list_names

FAMILIES: tuple[Family, ...] = tuple(
    importlib.import_module(f"vqpipe.tokenizers.{name}").FAMILY for name in get_args(FamilyName)
)
"""All of them. One that has the signs of another and more is told from it by these."""

AVERAGES = ("ema.", "ema_model.", "model_ema.")
"""Ends of what stands before the names of running averages that have their full names."""
UNSERVED = {"quantize.embed.weight": "a GumbelVQ of taming-transformers"}
"""What there are known names of, and no network for."""
PREFERRED = "first_stage_model."
"""What stands before the names of the tokenizer where a larger model has a second one, of what it
is conditioned on (CompVis/taming-transformers, `taming/models/cond_transformer.py`)."""


@dataclass(frozen=True)
class Reading:
    """A checkpoint as it was read."""

    family: Family
    network: Network
    weights: Which | None
    """Which were taken; None where there is nothing to choose."""
    said: tuple[str, ...]
    """What was done and what was left out, in words."""

    def provenance(self) -> dict[str, Any]:
        """Returns what is to be known of it later, as JSON has it."""
        return {
            "family": self.family.name,
            "pixel_range": self.family.pixel_range,
            "weights": self.weights,
            "did": list(self.said),
        }


def read(stored: Stored, family: FamilyName | None = None, weights: Which | None = None) -> Reading:
    """Returns the network that a published checkpoint is.

    Args:
        stored: The checkpoint.
        family: Name of its family, where that was asked for.
        weights: Raw ones or averages, where that was asked for.

    Raises:
        CheckpointError: It is none, it is damaged, or it is not of that family; or the family does
            not show.
        ConfigError: It does not show which weights are meant.
    """
    found = _find_family(stored, family)
    taken = _take(stored.raw, found, stored.source)
    apart = _take(stored.averages, found, stored.source)
    raw, flat = split_averages(taken.raw, found.holders, stored.source)
    averages = {**apart.raw, **taken.averages, **flat}
    state, which, chosen = choose(raw, averages, weights, found.rule, stored.source)
    kept = {name: each for name, each in state.items() if not name.startswith(found.leftovers)}
    part = Part(kept, stored.source, stored.config, stored.config_source)
    network = _convert(found, part, raw if which == "ema" else {})
    left = [*taken.others, *(name for name in state if name not in kept)]
    said = [f"weights: {chosen}"] if chosen else []
    return Reading(found, network, which, (*said, *network.did, *_tell_left(left)))


def _convert(family: Family, part: Part, raw: State) -> Network:
    """Returns the network of a family.

    Raises:
        CheckpointError: See `family.Family`; of averages of a part, it says so.
    """
    try:
        return family.convert(part)
    except CheckpointError as error:
        lacking = set(raw) - set(part.state)
        if not lacking:
            raise
        raise CheckpointError(
            f"{error} (these are running averages, and there are none of {list_names(lacking)}: "
            "the weights as they are can be had with --weights raw)"
        ) from error


def _tell_left(names: list[str]) -> list[str]:
    """Returns what to say of tensors that are no part of the network."""
    if not names:
        return []
    if len(names) <= 3:
        return [f"left out: {', '.join(sorted(names))}"]
    starts = sorted({name.partition(".")[0] for name in names})
    shown = ", ".join(starts[:5]) + (", ..." if starts[5:] else "")
    return [f"left out: {len(names):,} other tensors, of {shown}"]


@dataclass(frozen=True)
class _Taken:
    """The tensors of one tokenizer, without what stands before their names in the file."""

    raw: dict[str, Tensor]
    averages: dict[str, Tensor]
    others: list[str]
    """Names of what is no part of it."""


def _take(state: State, family: Family, source: str) -> _Taken:
    """Returns a family's tensors, wherever in a larger model they are.

    Raises:
        CheckpointError: The file holds several models of the family.
    """
    starts = _starts(state, family)
    averaged = [start for start in starts if start.endswith(AVERAGES)]
    raw = [start for start in starts if start not in averaged]
    raw = [start for start in raw if start.endswith(PREFERRED)] or raw
    if len(raw) > 1 or len(averaged) > 1:
        shown = " and ".join(sorted(start or "the top" for start in (*raw, *averaged)))
        raise CheckpointError(
            f"{source} holds the weights of several models of family {family.name}, at {shown}; "
            "save the one that is meant in a file of its own"
        )
    parts = {start: _under(state, start, starts) for start in (*raw, *averaged)}
    used = {start + name for start, part in parts.items() for name in part}
    return _Taken(
        raw=parts[raw[0]] if raw else {},
        averages=parts[averaged[0]] if averaged else {},
        others=[name for name in state if name not in used],
    )


def _starts(state: Collection[str], family: Family) -> list[str]:
    """Returns what stands before names, wherever there are all signs of a family."""
    first, *others = family.signs
    found = [name[: -len(first)] for name in state if name.endswith(first)]
    return [
        start
        for start in found
        if (not start or start.endswith(".")) and all(start + sign in state for sign in others)
    ]


def _under(state: State, start: str, starts: Iterable[str]) -> dict[str, Tensor]:
    """Returns tensors whose names begin so, without that, but for those of a model inside."""
    inner = tuple(each for each in starts if each != start and each.startswith(start))
    return {
        name.removeprefix(start): tensor
        for name, tensor in state.items()
        if name.startswith(start) and not (inner and name.startswith(inner))
    }


def needed_shards(index: Mapping[str, str]) -> set[str]:
    """Returns which shards of a checkpoint hold its tokenizer: all, if none shows by the names.

    Args:
        index: File that holds each tensor, by the tensor's name.
    """
    return {index[name] for name in needed_names(index)}


def needed_names(names: Collection[str]) -> list[str]:
    """Returns which tensors of a larger model are its tokenizer's: all, if none shows by names."""
    starts = {start for each in FAMILIES for start in _starts(names, each)}
    return [name for name in names if not starts or name.startswith(tuple(starts))]


def _find_family(stored: Stored, asked: FamilyName | None) -> Family:
    """Returns the family of a checkpoint.

    Raises:
        CheckpointError: It is of none, or not of the one that was asked for or that it says; or it
            may be of several.
        ConfigError: What was asked for is not what the config says.
    """
    fitting = _fitting({**stored.raw, **stored.averages})
    named = next(
        (each for each in FAMILIES if stored.config and each.is_named(stored.config)), None
    )
    if asked:
        family = next(each for each in FAMILIES if each.name == asked)
        if named and named.name not in (asked, *family.same_as):
            raise ConfigError(
                f"--family {asked} does not go with {stored.config_source}, which says that this "
                f"is of family {named.name} ({named.models}); leave it out"
            )
        return _hold(family, f"--family {asked}", fitting, stored)
    if named:
        return _hold(named, stored.config_source, fitting, stored)
    if not fitting:
        raise CheckpointError(_say_strange(stored))
    if len(fitting) > 1:
        raise CheckpointError(_say_doubt(fitting, stored))
    return fitting[0]


def _fitting(state: State) -> list[Family]:
    """Returns the families whose signs are all there, but for those of which others have more."""
    found = [each for each in FAMILIES if _starts(state, each)]
    return [
        each for each in found if not any(set(each.signs) < set(other.signs) for other in found)
    ]


def _hold(family: Family, who: str, fitting: list[Family], stored: Stored) -> Family:
    """Returns a family that something says, held against the names."""
    if family in fitting:
        return family
    seen = " or ".join(each.name for each in fitting) or "none that is known"
    names = {*stored.raw, *stored.averages}
    missing = set(family.signs) - names
    more = {sign for each in fitting for sign in each.signs} & names - set(family.signs)
    if missing:
        why = f"it lacks {list_names(missing)}"
    elif more:
        why = f"it also has {list_names(more)}"
    else:
        why = "what that family has is in several places"
    raise CheckpointError(
        f"{stored.source} is not of family {family.name}, as {who} says: by its names it is of "
        f"{seen}, and {why}"
    )


def _say_strange(stored: Stored) -> str:
    names = {*stored.raw, *stored.averages}
    known = ", ".join(each.name for each in FAMILIES)
    return (
        f"{stored.source} holds no tokenizer that is known, by its names "
        f"({list_names(names) or 'none'}){_say_nearest(names)}; known are diffusers' VQModel and "
        f"the families {known}"
    )


def _say_nearest(names: set[str]) -> str:
    """Returns what to say of the family whose signs are nearly all there; nothing of others."""
    for sign, stranger in UNSERVED.items():
        if any(name.endswith(sign) for name in names):
            return f": it is {stranger}, which is not served"
    nearest = min(FAMILIES, key=lambda each: len(_lacking(each, names)))
    lacking = _lacking(nearest, names)
    if len(lacking) == len(nearest.signs):
        return ""
    return f": the nearest is {nearest.name}, of which it lacks {list_names(lacking)}"


def _lacking(family: Family, names: set[str]) -> set[str]:
    return {sign for sign in family.signs if not any(name.endswith(sign) for name in names)}


def _say_doubt(fitting: list[Family], stored: Stored) -> str:
    choices = "; ".join(f"--family {each.name}: {each.models}" for each in fitting)
    model = find_model(stored.config) if stored.config is not None else None
    if stored.config is None:
        why = f"{stored.config_source} that says which: name one with --model-config"
    elif model and model.target:
        why = f"{stored.config_source} names {model.target!r}, of which nothing is known here"
    else:
        why = f"{stored.config_source} does not say which"
    return (
        f"{stored.source} may be of several families, whose names are the same and whose codes are "
        f"not, and {why}. Or say {choices}"
    )
