"""Picks stand in sinks and fingerprints: they are held against what earlier versions picked."""

import pytest

from vqpipe.picks import hash_of, is_picked, pick_names
from vqpipe.stages.evaluate import pick_rows

NAMES = [f"train/{number:05d}" for number in range(1000)]
KEYS = [f"{number:04d}.png" for number in range(500)]


def test_pick_names_are_those_of_before():
    picked = [f"train/00{number}" for number in ("019", "168", "685", "947", "997")]
    assert pick_names(NAMES, 5) == pick_names(reversed(NAMES), 5) == picked
    assert pick_names(["ä/ö", "b", "日本", "a b"], 2) == ["b", "ä/ö"]
    assert hash_of("train/00000").hex() == "834b0448a3f66cc1"


def test_pick_rows_are_those_of_before_and_of_equal_keys_the_first():
    picked = [148, 206, 228, 231, 263, 351, 353, 454]
    assert pick_rows([*KEYS, "a\udc80", "a\udc80"], 8) == picked
    assert pick_rows(["a", "a", "a"], 2) == [0, 1]


def test_is_picked_are_those_of_before():
    picked = [number for number in range(300) if is_picked(f"{number:03d}.jpg", 0.02)]
    assert picked == [1, 5, 25, 62, 100, 128, 238]


@pytest.mark.parametrize(
    ("key", "said"), [("", 0xE4A6A0577479B2B4), ("é\udcff.png", 0x5047E14B28C5FDBB)]
)
def test_is_picked_a_key_of_any_bytes_is_by_its_hash(key, said):
    assert is_picked(key, (said + 2**12) / 2**64)
    assert not is_picked(key, (said - 2**12) / 2**64)
    assert is_picked(key, 1)
