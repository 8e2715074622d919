"""Several images of a sample: each is a row of its own, with its key, and says which one it is."""

from dataclasses import replace

import pyarrow as pa

from vqpipe.schema import IMAGE, Sample
from vqpipe.sources.damage import brief


def name_image(sample: Sample, name: str) -> Sample:
    """Returns a sample that says which image of several it is; so does its rejection."""
    kept = {**sample.kept, IMAGE: pa.array([name], pa.string())}
    rejection = sample.rejection
    if rejection is not None:
        rejection = replace(rejection, message=brief(f"image {name!r}: {rejection.message}"))
    return replace(sample, kept=kept, rejection=rejection)
