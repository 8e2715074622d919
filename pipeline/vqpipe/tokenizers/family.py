"""A family of checkpoints: how it is told from others, and what makes a network of ours of it.

    Stored   a file of weights as it was published, and the config beside it
    Part     of it, the weights of one tokenizer, under the family's names
    Network  the same under our names, its arithmetic in terms of a network that we have

A family is a file beside this one, with its `FAMILY`, and a line in `tokenizers.family_names`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from vqpipe.errors import CheckpointError
from vqpipe.tokenizers.averages import Holders, Rule
from vqpipe.tokenizers.family_names import FamilyName
from vqpipe.tokenizers.naming import State
from vqpipe.vqgan.checkpoint import ADVICE

PixelRange = Literal["signed", "unit"]
"""[-1, 1] or [0, 1], as `codec.config` has it."""


@dataclass(frozen=True)
class Stored:
    """Weights as they were published."""

    raw: State
    """Tensors by name, without what wrapped them for training; empty if all are averages."""
    source: str
    """Name or URL of the file, for errors."""
    averages: State = field(default_factory=dict)
    """Running averages that the file has in a dict of their own, by the same names."""
    config: Mapping[str, Any] | None = None
    """What the YAML or JSON file says that goes with it."""
    config_source: str = ""
    """Name or URL of that."""


@dataclass(frozen=True)
class Part:
    """Weights of one tokenizer."""

    state: State
    """By the family's names."""
    source: str
    config: Mapping[str, Any] | None = None
    config_source: str = ""

    def check_said(self, said: Mapping[str, Any], shown: Mapping[str, Any]) -> None:
        """Hold what the config says, where it says it, against what the weights show, by name.

        Raises:
            CheckpointError: They differ.
        """
        for name, value in shown.items():
            if said.get(name, value) != value:
                raise CheckpointError(
                    f"{self.config_source}: {name} is {said[name]!r}, and the weights in "
                    f"{self.source} are of one where it is {value!r}; {ADVICE}"
                )


@dataclass(frozen=True)
class Network:
    """A network that we have."""

    name: str
    """Of its class: `VQModel`."""
    config: Mapping[str, Any]
    """Its architecture, as JSON can hold it."""
    state: Mapping[str, Tensor]
    """Every weight, checked."""
    did: tuple[str, ...] = ()
    """What was done to the weights besides renaming, in words."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Checkpoints that are named alike and computed alike."""

    name: FamilyName
    """As `--family` says it."""
    models: str
    """Who is of it, in words."""
    signs: tuple[str, ...]
    """Tensors that every checkpoint of it has; which others have as well is known to `families`."""
    is_named: Callable[[Mapping[str, Any]], bool]
    """Whether a config says that it is of this family."""
    convert: Callable[[Part], Network]
    """Makes a network of it. Raises CheckpointError where it cannot, or where tensors are missing,
    extra, misshaped, not floating or not finite."""
    same_as: tuple[FamilyName, ...] = ()
    """Families that compute the same, whose configs do as well."""
    pixel_range: PixelRange | None = None
    """What its pixels are; None where its models differ in that."""
    leftovers: tuple[str, ...] = ()
    """Starts of names that only training needs."""
    holders: Holders = field(default_factory=dict)
    """Where it keeps running averages."""
    rule: Rule | None = None
    """Which of raw weights and averages its own programs take."""
