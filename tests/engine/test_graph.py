"""How the graph cuts rows, without Ray."""

import itertools
from types import SimpleNamespace

import pytest

from vqpipe.codec.config import BATCH_SIZE
from vqpipe.engine.graph import BLOCK_IMAGES, PIXEL_BYTES, _rows_of_block

SIDES = (8, 256, 512, 1024, 4096)


@pytest.mark.parametrize("kind", BLOCK_IMAGES)
@pytest.mark.parametrize("side", SIDES)
def test_blocks_are_whole_samples_and_no_larger_than_they_have_to_be(kind, side):
    row_bytes, most = 3 * side**2, BLOCK_IMAGES[kind]
    for views, batch in itertools.product(range(1, 257), {1, 7, 64, 100, BATCH_SIZE[kind]}):
        rows = _rows_of_block(SimpleNamespace(batch_size=batch, views=views), row_bytes, most)
        assert rows % views == 0
        images = max(1, min(most, PIXEL_BYTES // row_bytes))
        # to twice the images, or batches, that there may be, it is rounded up to whole batches too
        assert rows < 2 * max(images, batch) + max(images, views)
        assert rows >= min(images, most)
        if views == 1:
            assert rows % batch == 0
            assert rows < images + batch


def test_blocks_are_whole_batches_too_where_that_makes_them_little_larger():
    found = {
        views: _rows_of_block(SimpleNamespace(batch_size=64, views=views), 3 * 256**2, 256)
        for views in (1, 2, 3, 10, 20, 64)
    }
    assert found == {1: 256, 2: 256, 3: 384, 10: 320, 20: 320, 64: 256}
