import json

import pyarrow as pa
import pytest

from vqpipe import schema
from vqpipe.code_layout import CodeLayout

VAR = tuple((side, side) for side in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
LAYOUTS = {
    "grid": (CodeLayout.grid(16, 24, 16384), 384, (16, 24), 14, "16 x 24"),
    "sequence": (CodeLayout("sequence", ((32,),), (4096,)), 32, (32,), 12, "a sequence of 32"),
    "stacked": (
        CodeLayout("stacked", ((16, 16, 8),), (4096,) * 7 + (5000,)),
        2048,
        (16, 16, 8),
        13,
        "16 x 16 places of 8",
    ),
    "scales": (CodeLayout("scales", VAR, (4096,)), 680, (680,), 12, "10 scales, 1 x 1 to 16 x 16"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_says_how_many_codes_in_which_shape_of_how_many_bits(name):
    layout, length, shape, bits, said = LAYOUTS[name]
    assert (layout.length, layout.shape, layout.bits) == (length, shape, bits)
    assert layout.describe() == said
    assert max(layout.codebooks) == layout.codebook_size <= 1 << layout.bits


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_comes_back_from_json(name):
    layout = LAYOUTS[name][0]
    document = json.loads(json.dumps(layout.document()))
    assert CodeLayout.read(document) == layout
    assert document["kind"] == name
    assert document.keys() == {"kind", "shapes", "order", "codebooks", "bits"}


@pytest.mark.parametrize(
    ("size", "kind"),
    [
        (1, pa.uint8()),
        (256, pa.uint8()),
        (257, pa.uint16()),
        (65_536, pa.uint16()),
        (65_537, pa.uint32()),
        (2**32, pa.uint32()),
        (2**32 + 1, pa.uint64()),
    ],
)
def test_codes_are_stored_as_the_smallest_type_that_holds_them(size, kind):
    field = schema.codes_field(CodeLayout("sequence", ((3,),), (size,)))
    assert field.type == pa.list_(kind, 3)
    pa.array([[0, size - 1, 0]], field.type).validate(full=True)
