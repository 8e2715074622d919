"""The options with which every command that takes a model says which one."""

from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.errors import MismatchError
from pipeline.run import Run
from pipeline.weights import Weights


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model; a job declares `model` again where it takes it by position."""

    model: str
    """A folder (local or s3://) of a diffusers VQModel, a Hugging Face repository (org/name), or
    one file with weights (.ckpt, .safetensors, .bin), such as a VQGAN of CompVis."""
    subfolder: str | None = None
    """Folder of the VQModel inside --model, such as vqvae in a diffusers pipeline."""
    revision: str | None = None
    """Branch, tag or commit of a Hugging Face repository; run.json records the commit."""
    variant: str | None = None
    """Which of a folder's weights to take, such as fp16; the plain ones if not given."""
    model_config: str | None = None
    """Config of a --model that is one file: CompVis' YAML or diffusers' JSON; found if it is the
    only one beside it."""

    def load_weights(self) -> Weights:
        """Returns the checkpoint, strictly checked.

        Raises:
            CheckpointError: There is none, or it is damaged or something else.
            ConfigError: An option does not go with such a model.
        """
        return Weights.load(
            self.model,
            subfolder=self.subfolder,
            revision=self.revision,
            variant=self.variant,
            config=self.model_config,
        )

    def record(self, weights: Weights) -> dict[str, Any]:
        """Returns what another command needs to load the same weights, wherever it is started."""
        config = self.model_config
        return {
            "model": self.model if weights.commit else storage.normalise_uri(self.model),
            "subfolder": self.subfolder,
            "revision": weights.commit,
            "variant": self.variant,
            "config": config and storage.normalise_uri(config),
        }


def load_recorded(asked: ModelOptions, run: Run) -> Weights:
    """Returns the weights that a run was made with, from where it had them unless told otherwise.

    Raises:
        CheckpointError: They are not there, or damaged.
        MismatchError: They are others.
    """
    weights = asked.load_weights() if asked.model else Weights.load(**run.facts["model_options"])
    if weights.sha256() != run.identity["model_sha256"]:
        raise MismatchError(
            f"{weights.where} holds other weights than the run was made with, whose SHA-256 is "
            f"{run.identity['model_sha256']}; give theirs with --model"
        )
    return weights
