"""Running averages of weights (EMA) that lie in a file beside the weights themselves.

`LitEma` (CompVis/latent-diffusion, `ldm/modules/ema.py`, and who took it over) keeps each under the
name of its parameter with all dots taken out, in a module of its own. Which of both is meant, raw
or average, changes codes, and shows in nothing but a slightly better picture.
"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from vqpipe.errors import CheckpointError, ConfigError
from vqpipe.tokenizers.family_names import Which
from vqpipe.tokenizers.naming import State
from vqpipe.vqgan.tensors import list_names

Holders = Mapping[str, str]
"""Starts of the averages' names, by starts of the names that they are averages of."""

_COUNTERS = {"decay", "num_updates"}
"""What such a module holds beside averages."""


class Rule(NamedTuple):
    """Which of both a family's own programs take."""

    which: Which
    why: str
    """Ends a sentence about it."""


def split_averages(
    state: State, holders: Holders, source: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return raw weights, and averages under the names of what they are averages of.

    Raises:
        CheckpointError: What an average is of does not show.
    """
    raw = {n: tensor for n, tensor in state.items() if not n.startswith(tuple(holders.values()))}
    averages: dict[str, Tensor] = {}
    for start, holder in holders.items():
        full = _by_short(raw, start, source)
        short = {n.removeprefix(holder): n for n in state if n.startswith(holder)}
        strange = short.keys() - full.keys() - _COUNTERS
        if strange:
            raise CheckpointError(
                f"{source}: {list_names({short[n] for n in strange})} should be averages of "
                "weights that are there too, and these are not; get the file anew"
            )
        averages |= {full[n]: state[name] for n, name in short.items() if n in full}
    return raw, averages


def _by_short(raw: State, start: str, source: str) -> dict[str, str]:
    """Return names by what `LitEma` calls their averages."""
    names = [name for name in raw if name.startswith(start)]
    found = {name.removeprefix(start).replace(".", ""): name for name in names}
    if len(found) < len(names):
        twice = set(names) - set(found.values())
        raise CheckpointError(
            f"{source}: without dots, {list_names(twice)} would be called as another tensor is, so "
            "that it does not show whose average is whose; save the weights that are meant alone"
        )
    return found


def choose(
    raw: State, averages: State, asked: Which | None, rule: Rule | None, source: str
) -> tuple[State, Which | None, str]:
    """Return weights, which they are (None where there is one kind), and what to say of the choice.

    Raises:
        ConfigError: Those that were asked for are not there; or both are, and nothing says which.
    """
    if not averages or not raw:
        there: Which = "raw" if raw else "ema"
        if asked not in (None, there):
            missing = "running averages" if asked == "ema" else "weights beside running averages"
            raise ConfigError(f"{source} holds no {missing}; leave --weights {asked} out")
        return raw or averages, None if there == "raw" else "ema", ""
    if asked is None and rule is None:
        raise ConfigError(
            f"{source} holds weights and their running averages, which give other codes; say which "
            "ones the models take that you will train: --weights ema or --weights raw"
        )
    which = asked or (rule.which if rule else "raw")
    why = "asked for" if asked else f"which {rule.why}" if rule else ""
    other = "raw weights" if which == "ema" else "running averages"
    said = f"{'running averages (ema)' if which == 'ema' else 'raw weights'}, {why}"
    return averages if which == "ema" else raw, which, f"{said}; the file holds {other} too"
