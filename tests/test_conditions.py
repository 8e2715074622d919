"""What `--where` may say, and what an image's size makes of it: Python itself is the oracle."""

import itertools

import pytest

from vqpipe.conditions.expression import NO_WHERE, columns_of, parse
from vqpipe.errors import ConfigError
from vqpipe.images.sizes import holds

SIZES = [1, 2, 7, 255, 256, 257, 2**31 - 1]


@pytest.mark.parametrize(
    "text",
    [
        "width >= 256",
        "width > height or not height != 7",
        "1 < width <= 256 != height",
        "width in (2, 257.0) or height not in [7]",
        "width / height > 0.5 or width * height >= 65536",
        "not (width - -1 < +height)",
        "(width == 256) == (height == 256)",
        "height in {-1, 2}",
        "-width < -1e2",
    ],
)
def test_holds_of_every_size_is_what_python_says(text):
    where = parse(text)
    assert (where.sizes, where.stored) == ((where.text,), ())
    for width, height in itertools.product(SIZES, repeat=2):
        expected = eval(text, {}, {"width": width, "height": height})  # our own text
        assert holds(where.text, width, height) == expected


def test_holds_of_what_is_unknown_is_false_and_so_is_its_opposite():
    for text in ("width / (height - 7) > 0", "not width / (height - 7) > 0"):
        assert not holds(text, 5, 7)
    assert holds("width / (height - 7) > 0 or width == 5", 5, 7)
    assert not holds("width / (height - 7) > 0 and width == 5", 5, 7)
    assert not holds("not (width / (height - 7) > 0 and width == 5)", 5, 7)
    assert holds("not (width / (height - 7) > 0 and width == 6)", 5, 7)
    assert not holds("width / (height - 7) in [1, 2]", 5, 7)


def test_parse_takes_conditions_apart_where_and_joins_them():
    where = parse(
        ' width>=256 and (height>=256 and(nsfw<.1 or nsfw is None)) and\n column["a b"]  '
    )
    assert where.sizes == ("width >= 256", "height >= 256")
    assert where.stored == ("nsfw < 0.1 or nsfw is None", "column['a b']")
    assert where.columns == ("nsfw", "a b")
    assert parse(where.text) == where == parse(f"({where.text})")
    assert parse(None) == NO_WHERE


def test_parse_width_of_a_column_is_no_size():
    where = parse("column['width'] > 5 and width > 5 and column > 1")
    assert (where.sizes, where.columns) == (("width > 5",), ("width", "column"))
    assert columns_of(where.stored[0]) == ("width",)


def test_parse_words_of_a_text_are_no_names():
    assert parse("caption != 'width and height, or \\'this\\''").columns == ("caption",)


HOSTILE = [
    "__import__('os').system('true')",
    "().__class__",
    "x.y == 1",
    "[c for c in x] == 1",
    "f'{x}' == 'a'",
    "(lambda: x)() > 1",
    "x if y else z",
    "(x := 1) > 0",
    "x ** 9 ** 9 ** 9 > 1",
    "x << 99999999 > 1",
    "x % 2 == 1",
    "~x == 1",
    "x @ y == 1",
    "x[0] == 1",
    "x['a'] == 1",
    "column[0] == 1",
    "column[x] == 1",
    "column['a']['b'] == 1",
    "column['a':'b'] == 1",
    "x == b'a'",
    "x == 1j",
    "x == ...",
    "x == 99999999999999999999",
    "x == [1]",
    "x in y",
    "x in []",
    "x in [y]",
    "x in [None]",
    "x in [[1]]",
    "x in 'abc'",
    "x in [1] == y",
    "x in [f(1)]",
    "x == None",
    "x < None",
    "None is None",
    "width is None",
    "x is y",
    "x is 1",
    "x + 1 is None",
    "{1: x}",
    "*x",
    "await x",
    "x; y",
    "x = 1",
    "import os",
    "x >",
    "(x",
    "'",
    "",
    "  ",
    "#",
    "x\0",
    "\ud800 == 1",
    "1 < 2",
    "True",
    "x > 1 and True",
    "width > x",
    "width > 1 or x > 1",
    "-" * 9000 + "x",
    "(" * 5000,
    "not " * 2000 + "x",
    "x+" * 4000 + "1 > 2",
    "x > 1 or " * 5000 + "x",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_parse_refuses_all_else_and_says_what_may_be_said(text):
    with pytest.raises(ConfigError) as refused:
        parse(text)
    said = str(refused.value)
    assert said.startswith("--where ")
    assert len(said) < 1_200


def test_parse_refusal_names_the_place():
    for text, place in {
        "width > 5 and  foo(height)": "at character 16, 'foo(height)': functions",
        "é == 'ü' and x.y": "at character 14, 'x.y': attributes",
        "width > 5 and and": "at character 15",
        "width > 5 and (1 < 2)": "at character 16, '1 < 2': this is the same for all",
        "width > x and height > 1": "at character 1, 'width > x': this has both",
    }.items():
        with pytest.raises(ConfigError) as refused:
            parse(text)
        assert place in str(refused.value)
