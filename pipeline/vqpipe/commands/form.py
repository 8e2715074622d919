"""A command as the parser (tyro) takes it: a dataclass made of the options that it may be told."""

from dataclasses import make_dataclass
from typing import Annotated, Any

import tyro

from vqpipe.commands.catalogue import Option

STYLE = (tyro.conf.OmitSubcommandPrefixes,)
"""How all forms are parsed."""


def make_form(name: str, about: str, options: list[Option], *, has_pairs: bool = False) -> type:
    """Returns the form of a command.

    Args:
        name: Of the command.
        about: What it does.
        options: What it can be told.
        has_pairs: Whether each switch has one that takes it back, `--no-eager`.
    """
    entries = [
        (
            each.name,
            _annotate(each, has_pairs=has_pairs),
            *([] if each.is_required else [each.default]),
        )
        for each in options
        if each.is_said
    ]
    form = make_dataclass(name, entries, kw_only=True, frozen=True)
    form.__doc__ = about
    return form


def _annotate(option: Option, *, has_pairs: bool) -> Any:  # noqa: ANN401 (what a type is)
    """Returns the type of an option, with what stands for its value and what there is to say."""
    notes = [
        tyro.conf.arg(
            metavar=option.placeholder, help=option.help, help_behavior_hint=option.default_said
        )
    ]
    if option.is_switch and not has_pairs:
        notes.append(tyro.conf.FlagCreatePairsOff)
    return Annotated[(option.annotation, *notes)]
