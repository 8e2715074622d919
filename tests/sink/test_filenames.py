import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqpipe.sink.filenames import MAX_BYTES, drop_endings, safe_folder, safe_name, safe_names

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
    "CON/nul.txt/Com1",
]


DEVICES = {"con", "prn", "aux", "nul"} | {
    f"{port}{n}" for port in ("com", "lpt") for n in range(10)
}
"""https://learn.microsoft.com/windows/win32/fileio/naming-a-file: with any extension."""
TEXTS = st.text() | st.lists(st.sampled_from(["CON", "nul", "Com1", "x", ".", "/"])).map("".join)


@pytest.mark.fault(26)
@pytest.mark.parametrize("dots", [True, False])
@pytest.mark.parametrize("key", KEYS)
def test_safe_name_is_turned_back_by_unquote(key, dots):
    assert unquote(safe_name(key, dots=dots)) == key


@pytest.mark.fault(26)
@given(TEXTS, st.booleans())
def test_safe_name_of_any_key_stays_in_its_folder(key, dots):
    name = safe_name(key, dots=dots)
    assert re.fullmatch(r"[A-Za-z0-9_%./-]+", name)
    assert len(name) <= MAX_BYTES
    for part in name.split("/"):
        assert part
        assert not part.startswith(".")
        assert part.partition(".")[0].lower() not in DEVICES
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
    assert safe_name("console/com10.null") == "console/com10.null"


@pytest.mark.fault(26)
def test_safe_names_that_differ_in_capitals_alone_are_told_apart():
    names = safe_names(["IMG", "x/Y", "img", "Img", "a/%2F", "a/%2f"], dots=True)
    assert names == ["%49%4D%47", "x/Y", "img", "%49mg", "a/%252%46", "a/%252f"]


SIMILAR = st.text(alphabet="aAfF2./%", max_size=5) | st.sampled_from(["con", "Con", "CON", "cOn"])
LONG = st.sampled_from([letter * n for letter in "xX" for n in (MAX_BYTES, MAX_BYTES + 1)])


@pytest.mark.fault(26)
@given(st.lists(SIMILAR | LONG, unique=True), st.booleans())
def test_safe_names_differ_for_different_keys_on_disks_that_know_no_capitals(keys, dots):
    names = safe_names(keys, dots=dots)
    assert len({name.lower() for name in names}) == len(keys)
    assert all(len(name) <= MAX_BYTES for name in names)
    for name, key in zip(names, keys, strict=True):
        if key and "%%" not in name:
            assert unquote(name) == key
        if sum(other.lower() == key.lower() for other in keys) == 1:
            assert name == safe_name(key, dots=dots)


ENDINGS = ("jpg", "png", "gif")
NAMED = st.lists(
    st.sampled_from(["a", "A", "b", "/", ".", ".jpg", ".png", ".PNG", ".gif", ".txt", "%2E"]),
    max_size=5,
).map("".join)


def test_drop_endings_replaces_an_images_ending_where_nothing_else_has_that_name():
    assert drop_endings(["astronaut.png", "x/cat.JPG", "notes.txt", "b"], ENDINGS) == [
        "astronaut",
        "x/cat",
        "notes.txt",
        "b",
    ]
    alike = ["a.png", "a.jpg", "b", "b.gif", ".png", "x/.png", "c.png.gif", "c.txt"]
    assert drop_endings(alike, ENDINGS) == [*alike[:6], "c.png", "c.txt"]


@pytest.mark.fault(26)
@given(st.lists(NAMED, unique=True, max_size=12), st.booleans())
def test_drop_endings_never_gives_two_keys_one_file_whatever_their_order(keys, dots):
    texts = drop_endings(keys, ENDINGS)
    assert dict(zip(keys[::-1], drop_endings(keys[::-1], ENDINGS), strict=True)) == dict(
        zip(keys, texts, strict=True)
    )
    for text, key in zip(texts, keys, strict=True):
        assert key in {text, *(f"{text}.{kind}" for kind in (*ENDINGS, "PNG"))}
    files = [f"{name}.jpg" for name in safe_names(texts, dots=dots)]
    assert len({name.lower() for name in files}) == len(keys)
    folders = {name[:i] for name in files for i, letter in enumerate(name) if letter == "/"}
    assert not set(files) & folders


@pytest.mark.fault(26)
@given(st.lists(TEXTS.filter(len), unique=True))
def test_safe_folder_of_any_shard_is_one_part_of_a_path(shards):
    names = [safe_folder(shard) for shard in shards]
    assert len(set(names)) == len(shards)
    for name, shard in zip(names, shards, strict=True):
        assert re.fullmatch(r"[A-Za-z0-9_.%-]+", name)
        assert name.strip(".") == name
        assert name.lower().split(".")[0] not in DEVICES
        assert "%%" in name or unquote(name) == shard


def test_safe_folder_keeps_what_is_plain_and_cuts_what_is_long():
    assert safe_folder("train/part-00") == "train%2Fpart-00"
    names = {safe_folder("deep/" * 60 + str(i)) for i in range(10)}
    assert len(names) == 10
    assert all(len(name) <= MAX_BYTES for name in names)
