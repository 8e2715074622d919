import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.filenames import MAX_BYTES, safe_name

KEYS = [
    "train/0001",
    "cat.jpg",
    "../../etc/passwd",
    "/etc/passwd",
    "a//b/",
    ".hidden/..",
    "a/./b",
    "nul\0byte",
    "two\nlines",
    "é😀",
    "%2F",
    "a b?*:|<>\\",
    "<script>alert(1)</script>",
]


@pytest.mark.fault(26)
@pytest.mark.parametrize("dots", [True, False])
@pytest.mark.parametrize("key", KEYS)
def test_safe_name_is_turned_back_by_unquote(key, dots):
    assert unquote(safe_name(key, dots=dots)) == key


@pytest.mark.fault(26)
@given(st.text(), st.booleans())
def test_safe_name_of_any_key_stays_in_its_folder(key, dots):
    name = safe_name(key, dots=dots)
    assert re.fullmatch(r"[A-Za-z0-9_%./-]+", name)
    assert len(name) <= MAX_BYTES
    for part in name.split("/"):
        assert part
        assert not part.startswith(".")
    assert "." not in (name.rpartition("/")[0] if dots else name)


@pytest.mark.fault(26)
@given(st.lists(st.text(alphabet="a./%\0", max_size=6), unique=True), st.booleans())
def test_safe_name_differs_for_different_keys(keys, dots):
    names = [safe_name(key, dots=dots) for key in keys]
    assert len(set(names)) == len(keys)
    files = {f"{name}.jpg" for name in names}
    folders = {name[:i] for name in files for i, letter in enumerate(name) if letter == "/"}
    assert not files & folders


@pytest.mark.fault(26)
def test_safe_name_of_long_keys_is_cut_and_still_tells_them_apart():
    names = {safe_name("é" * 2048 + str(i)) for i in range(100)}
    assert len(names) == 100
    assert all(len(name) <= MAX_BYTES and "%%" in name for name in names)


def test_safe_name_keeps_what_is_plain():
    assert safe_name("n01440764/n01440764_10026.JPEG") == "n01440764/n01440764_10026.JPEG"
    assert safe_name("0001.seg", dots=False) == "0001%2Eseg"
