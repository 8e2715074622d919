import itertools

import numpy as np
import pyarrow as pa
import pytest

from vqpipe.code_layout import CodeLayout
from vqpipe.schema import codes_field, numbers_of

CODES = codes_field(CodeLayout.grid(2, 3, 300))


@pytest.mark.parametrize("cuts", [(0, 5), (0, 2, 2, 5), (1, 4)])
def test_numbers_of_a_column_in_chunks_are_its_rows_in_their_own_type(cuts):
    truth = np.arange(30, dtype=np.uint16).reshape(5, 6)
    whole = pa.array(truth.tolist(), CODES.type)
    chunks = [whole[a:b] for a, b in itertools.pairwise(cuts)]
    found = numbers_of(pa.chunked_array(chunks, CODES.type))
    assert found.dtype == np.uint16
    assert np.array_equal(found, truth[cuts[0] : cuts[-1]])


def test_numbers_of_a_column_leave_out_lists_that_are_null():
    column = pa.chunked_array([[[1] * 6, None], [None, [2] * 6]], CODES.type)
    assert numbers_of(column).tolist() == [[1] * 6, [2] * 6]


def test_numbers_of_no_rows_are_none_of_the_same_length():
    assert numbers_of(pa.chunked_array([], CODES.type)).shape == (0, 6)
