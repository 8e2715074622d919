from types import SimpleNamespace

import pytest
import torch

from tests.quality import judges
from vqpipe.codec.config import CodecConfig
from vqpipe.errors import CheckpointError
from vqpipe.images import square
from vqpipe.quality.judges import Judge
from vqpipe.stages.evaluate import Evaluating

HOW = CodecConfig(dtype="float32", pixel_range="signed", eager=True)


def test_evaluating_takes_only_the_weights_that_the_command_was_started_with(tmp_path):
    where = str(tmp_path / "lpips.pth")
    torch.save(judges.lpips_state("alex"), where)
    step = Evaluating(HOW, square(32), (4, 4), 8, lpips=Judge(where, "0" * 64))
    codec = SimpleNamespace(device=torch.device("cpu"), batch_size=1)
    with pytest.raises(CheckpointError, match="other weights"):
        step.prepare(lambda *_: codec)
