"""One run where everything around it is against it: what it says, and what it leaves outside."""

import contextlib
import re
import threading
from collections import defaultdict
from pathlib import Path

import psutil
import pytest

from tests import shell
from tests.makers import jpeg, tar_of
from tests.shadows import ran, shadow

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SHARDS, IMAGES = 40, 3


class Watch:
    """Looks at all of Ray's workers on this machine, for the length of a block."""

    def __enter__(self):
        self.seen = defaultdict(set)
        """What each did, by process: titles that Ray gave it, and `torch` if that was loaded."""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    def _look(self):
        while not self._done.wait(0.1):
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                    title = "".join(process.cmdline()[:1])
                    if title.startswith("ray::"):
                        maps = Path(f"/proc/{process.pid}/maps").read_text()
                        has_torch = {"torch"} if "libtorch" in maps else set()
                        self.seen[process.pid] |= {title.removeprefix("ray::")} | has_torch


@pytest.fixture(scope="module")
def surrounded(tmp_path_factory):
    """A run of many small shards, from a folder with files that are called as ours are.

    Returns its folder, its home, what it printed, and what its workers were seen to have loaded.
    """
    root = tmp_path_factory.mktemp("surroundings")
    source, home = root / "source", root / "home"
    source.mkdir()
    home.mkdir()
    for shard in range(SHARDS):
        members = {f"{shard}-{i}.jpg": jpeg(40, 30, seed=i) for i in range(IMAGES)}
        (source / f"{shard:03d}.tar").write_bytes(tar_of(members))
    long = root / ("x" * 89)
    long.mkdir()
    shadow(root / "shadows")
    with pytest.MonkeyPatch.context() as patch:
        # Workers take longer to start than this, and no block moves meanwhile.
        patch.setenv("RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S", "1")
        patch.setenv("TMPDIR", str(long))
        patch.setenv("HOME", str(home))
        for name in ("RAY_TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        options = ("--skip-doctor", "--pixel-range", "signed")
        with Watch() as workers:
            printed = shell.encode(source, root / "codes", *options, cwd=root / "shadows")
    return root, home, printed, workers.seen


def test_encode_outlives_the_guard_that_ray_data_has_of_its_own(surrounded):
    root, *_ = surrounded
    assert (root / "codes" / "_SUCCESS").exists()
    assert len(shell.rows(root / "codes")) == SHARDS * IMAGES


def test_encode_folder_for_temporary_files_too_long_for_sockets_is_named(surrounded):
    root, _, printed, _ = surrounded
    assert str(root / ("x" * 89)) in printed


def test_encode_token_that_ray_needs_is_its_owners_alone(surrounded):
    _, home, *_ = surrounded
    token = home / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.parent.stat().st_mode & 0o777 == 0o700


def test_encode_many_shards_says_nothing_in_rays_words(surrounded):
    _, _, printed, _ = surrounded
    assert not re.findall(r"(?im)^.*(?:warn|deprecat|traceback).*$", printed)


def test_encode_in_a_folder_with_files_called_as_ours_are_runs_none_of_them(surrounded):
    root, *_ = surrounded
    assert not ran(root / "shadows")


def test_encode_workers_that_read_open_or_commit_load_no_torch(surrounded):
    *_, seen = surrounded
    codecs = [each for each in seen.values() if any("CodecActor" in title for title in each)]
    others = [each for each in seen.values() if each not in codecs]
    done = " ".join(title for each in others for title in each)
    assert all(step in done for step in ("read_views", "commit")), done
    assert codecs
    assert all("torch" in each for each in codecs)
    assert not [each for each in others if "torch" in each]
