"""A checkpoint as it is stored: found, read whole, and checked, wherever it is."""

import contextlib
import functools
import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline import storage
from pipeline.errors import CheckpointError
from pipeline.vqgan import VQConfig
from pipeline.vqgan.checkpoint import (
    CHECKPOINT_FILES,
    CONFIG_FILE,
    WEIGHTS_FILE,
    read_checkpoint,
)


@dataclass(frozen=True)
class Weights:
    """A checkpoint as it is stored: read once, sent to every codec."""

    files: dict[str, bytes]
    where: str

    @classmethod
    def load(cls, uri: str, subfolder: str | None = None) -> "Weights":
        """Returns the files of a model folder on any store.

        Raises:
            CheckpointError: If it has none of them.
        """
        where = storage.normalise_uri(storage.join_uri(uri, *([subfolder] if subfolder else [])))
        files = {}
        for name in CHECKPOINT_FILES:
            with contextlib.suppress(FileNotFoundError):
                files[name] = storage.read(storage.join_uri(where, name))
        if not files:
            raise CheckpointError(
                f"{where} holds no model: expected {CONFIG_FILE} and {WEIGHTS_FILE}, as diffusers "
                "saves a VQModel; give the folder that holds them (in a pipeline: add "
                "--subfolder vqvae)"
            )
        return cls(files, where)

    @functools.cached_property
    def parsed(self) -> tuple[VQConfig, dict[str, Tensor]]:
        """Architecture and weights, strictly checked against each other."""
        return read_checkpoint(self.files, self.where)

    @property
    def config(self) -> VQConfig:
        """The architecture."""
        return self.parsed[0]

    def sha256(self) -> str:
        """Returns a digest of names, shapes, dtypes and values of all tensors."""
        found = hashlib.sha256()
        for name, tensor in sorted(self.parsed[1].items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            found.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()
