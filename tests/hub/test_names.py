import pytest

from vqpipe.hub.names import parse_data_set


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("hf://org/codes", ("org/codes", None)),
        ("hf://org/codes/", ("org/codes", None)),
        ("hf://datasets/org/codes", ("org/codes", None)),
        ("hf://org/codes@small", ("org/codes", "small")),
        ("hf://datasets/org/codes@refs/pr/1", ("org/codes", "refs/pr/1")),
        ("hf://codes", None),
        ("hf://org/codes/data", None),
        ("hf://user:word@org/codes", None),
        ("hf://org/codes@user:word", None),
        ("org/codes", None),
        ("s3://org/codes", None),
        ("", None),
    ],
)
def test_parse_data_set_takes_a_repository_and_a_branch_and_nothing_else(where, expected):
    assert parse_data_set(where) == expected
