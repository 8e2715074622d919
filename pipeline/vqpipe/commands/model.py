"""Loads the model that a command names, or that a run was made with."""

from typing import Any

from vqpipe import storage
from vqpipe.code_layout import CodeLayout
from vqpipe.codec.weights import Weights
from vqpipe.commands.console import Prose
from vqpipe.commands.options import ModelOptions
from vqpipe.errors import ConfigError, MismatchError
from vqpipe.hub.names import parse_hub_file
from vqpipe.sink.run import CodesRun
from vqpipe.tokenizers.families import FAMILIES


def load_weights(asked: ModelOptions) -> Weights:
    """Returns the checkpoint, strictly checked.

    Raises:
        CheckpointError: There is none, or it is damaged or something else.
        ConfigError: An option does not go with such a model.
    """
    return Weights.load(
        asked.model,
        subfolder=asked.subfolder,
        revision=asked.revision,
        variant=asked.variant,
        config=asked.model_config,
        family=asked.family,
        weights=asked.weights,
    )


def layout_of(resolution: int, weights: Weights) -> CodeLayout:
    """Returns what the codes of an image are.

    Raises:
        ConfigError: If the model does not take RGB images of that resolution.
    """
    described = weights.description
    fault = described.find_fault(resolution, resolution)
    if fault:
        nearest = described.side_near(resolution)
        raise ConfigError(f"--resolution {resolution} is {fault}; use {nearest}")
    if described.channels != 3:
        raise ConfigError(f"the model takes {described.channels} channels, not RGB's 3")
    return described.layout_of(resolution, resolution)


def describe_family(weights: Weights) -> list[tuple[str, object]]:
    """Returns of which family a checkpoint was and what was done to it, line by line."""
    known = weights.provenance
    if not known:
        return []
    family = next((each for each in FAMILIES if each.name == known.get("family")), None)
    models = f": {family.models}" if family else ""
    return [
        ("family", Prose(f"{known.get('family')}{models}")),
        *(("", Prose(str(said))) for said in known.get("did", ())),
    ]


def record_model(asked: ModelOptions, weights: Weights) -> dict[str, Any]:
    """Returns what another command needs to load the same weights, wherever it is started."""
    config, file = asked.model_config, parse_hub_file(asked.model)
    known = f"hf://{file.repository}/{file.name}" if file else asked.model
    return {
        "model": known if weights.commit else storage.normalise_uri(asked.model),
        "subfolder": asked.subfolder,
        "revision": weights.commit,
        "variant": asked.variant,
        "config": config and (config if parse_hub_file(config) else storage.normalise_uri(config)),
        "family": asked.family,
        "weights": asked.weights,
    }


def load_recorded(asked: ModelOptions, run: CodesRun) -> Weights:
    """Returns the weights that a run was made with, from where it had them unless told otherwise.

    Raises:
        CheckpointError: They are not there, or damaged.
        ConfigError: Options say more of a model that is not named.
        MismatchError: They are others.
    """
    if asked.model:
        weights = load_weights(asked)
    else:
        _check_alone(asked)
        weights = Weights.load(**run.facts.model_options)
    if weights.sha256() != run.identity.model_sha256:
        raise MismatchError(
            f"{weights.where} holds other weights than the run was made with, whose SHA-256 is "
            f"{run.identity.model_sha256}; give theirs with --model"
        )
    return weights


def _check_alone(asked: ModelOptions) -> None:
    """Refuses what is said of a model where none is named.

    Raises:
        ConfigError: If anything is.
    """
    for name in ("subfolder", "revision", "variant", "model_config", "family", "weights"):
        if getattr(asked, name) is not None:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} says more of --model, and there is none: add --model")


def load_for_codes(asked: ModelOptions, run: CodesRun | None, source: str) -> Weights:
    """Returns weights that codes of a run can be decoded with.

    Args:
        asked: The model, where it is not to be that of the run.
        run: What made the codes; None for codes of another tool.
        source: Where they are, for messages.

    Raises:
        CheckpointError: They are not there, or damaged.
        ConfigError: Nothing says which ones.
        MismatchError: Their codebook is another one: codes would stand for other things.
    """
    if run and not asked.model:
        return load_recorded(asked, run)
    if not asked.model:
        raise ConfigError(
            f"{source} is no sink of vqpipe encode, so that nothing says which model its codes are "
            "of: add --model"
        )
    weights = load_weights(asked)
    if run and weights.codebook_sha256() != run.facts.codebook_sha256:
        raise MismatchError(
            f"{weights.where} has another codebook than the model that {source} was made with, so "
            "that its codes would stand for other things; give that model, or one that differs in "
            "nothing but its encoder or decoder"
        )
    return weights
