"""One run where everything around it is against it: what it says, and what it leaves outside."""

import re

import pytest

from tests import shell
from tests.makers import jpeg, tar_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SHARDS, IMAGES = 40, 3


@pytest.fixture(scope="module")
def surrounded(tmp_path_factory):
    """A run of many small shards; returns its folder, its home and what it printed."""
    root = tmp_path_factory.mktemp("surroundings")
    source, home = root / "source", root / "home"
    source.mkdir()
    home.mkdir()
    for shard in range(SHARDS):
        members = {f"{shard}-{i}.jpg": jpeg(40, 30, seed=i) for i in range(IMAGES)}
        (source / f"{shard:03d}.tar").write_bytes(tar_of(members))
    long = root / ("x" * 89)
    long.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        # Workers take longer to start than this, and no block moves meanwhile.
        patch.setenv("RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S", "1")
        patch.setenv("TMPDIR", str(long))
        patch.setenv("HOME", str(home))
        for name in ("RAY_TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        options = ("--skip-doctor", "--pixel-range", "signed")
        printed = shell.encode(source, root / "codes", *options)
    return root, home, printed


def test_encode_outlives_the_guard_that_ray_data_has_of_its_own(surrounded):
    root, _, _ = surrounded
    assert (root / "codes" / "_SUCCESS").exists()
    assert len(shell.rows(root / "codes")) == SHARDS * IMAGES


def test_encode_folder_for_temporary_files_too_long_for_sockets_is_named(surrounded):
    root, _, printed = surrounded
    assert str(root / ("x" * 89)) in printed


def test_encode_token_that_ray_needs_is_its_owners_alone(surrounded):
    _, home, _ = surrounded
    token = home / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.parent.stat().st_mode & 0o777 == 0o700


def test_encode_many_shards_says_nothing_in_rays_words(surrounded):
    _, _, printed = surrounded
    assert not re.findall(r"(?im)^.*(?:warn|deprecat|traceback).*$", printed)
