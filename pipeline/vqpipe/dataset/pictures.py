"""What codes decode to, for a look at what a trainer is given."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vqpipe.dataset.columns import Shape
from vqpipe.errors import MismatchError
from vqpipe.extras import explain_missing
from vqpipe.sink.snapshot import Snapshot

if TYPE_CHECKING:
    from vqpipe.codec.codec import Codec

PIXELS = "pixels"
"""Of a batch: (B, 3, H, W) uint8 RGB."""


@dataclass
class Pictures:
    """Decodes codes, with the model that made them; loaded where it is first used."""

    model_options: Mapping[str, Any]
    """Arguments of `codec.weights.Weights.load`."""
    codebook_sha256: str
    pixel_range: Any
    device: str
    _codec: "Codec | None" = field(default=None, init=False, repr=False)

    @classmethod
    def of(cls, snapshot: Snapshot, model: str | None, device: str) -> "Pictures":
        """Returns what decodes the codes of a sink.

        Args:
            snapshot: The sink.
            model: Where the model is now, if not where the run had it.
            device: Where to run it, as torch has it.
        """
        facts = snapshot.run.facts
        options = dict(facts.model_options) if model is None else {"model": model}
        return cls(options, facts.codebook_sha256, snapshot.run.encoding.pixel_range, device)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_codec": None}  # each process has its own

    def decode(self, codes: npt.NDArray[Any], shape: Shape) -> npt.NDArray[np.uint8]:
        """Returns the images of codes: (B, 3, H, W) uint8 RGB.

        Args:
            codes: (B, n).
            shape: Of an image's codes.

        Raises:
            CheckpointError: If the model is not there, or damaged.
            MismatchError: If its codebook is another one.
        """
        images, _ = self._ready().decode(codes.astype(np.int64).reshape(-1, *shape))
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))

    def _ready(self) -> "Codec":
        if self._codec is None:
            try:
                self._codec = self._load()
            except ModuleNotFoundError as error:
                said = explain_missing(error, "decoding codes needs")
                raise ModuleNotFoundError(said, name=error.name) from error
        return self._codec

    def _load(self) -> "Codec":
        from vqpipe.codec.codec import Codec  # noqa: PLC0415 (takes what a reader does not)
        from vqpipe.codec.config import CodecConfig  # noqa: PLC0415
        from vqpipe.codec.weights import Weights  # noqa: PLC0415

        weights = Weights.load(**self.model_options)
        if weights.codebook_sha256() != self.codebook_sha256:
            raise MismatchError(
                f"{weights.where} has another codebook than the model that made the codes, so that "
                "they would stand for other things: name that one by model"
            )
        how = CodecConfig(pixel_range=self.pixel_range, eager=True)
        return Codec(weights, how, device=self.device)
