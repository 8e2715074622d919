"""A data set on the Hugging Face hub, which files go to, commit by commit.

A file is sent first and committed later: one that was sent is not sent again. Files that the hub
keeps apart (large ones, Parquet) are known there by their SHA-256, all others by git's digest.
"""

import hashlib
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from vqpipe.errors import ConfigError, IncompleteError
from vqpipe.hub import answers

KIND = "dataset"
MOST_IN_FOLDER = 10_000
"""Entries of a folder, from there on too many (https://huggingface.co/docs/hub/storage-limits)."""
MOST_FILE_BYTES = 500 * 10**9
"""The largest file that is taken (the same page)."""
_PAUSES_S = (1, 2, 4, 8, 16)
"""Seconds before a request is made again."""
_FIRST_PAUSES_S = (1, 2)
"""... before the first answer: nothing is lost, something is wrong."""
_LONGEST_WAIT_S = 60
_PATHS_AT_ONCE = 500

Result = TypeVar("Result")


@dataclass(frozen=True)
class Digests:
    """What tells the content of a file from others."""

    size: int
    """Bytes."""
    sha256: str
    git: str
    """Git's SHA-1 of it as a blob."""

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Returns those of bytes."""
        git = hashlib.sha1(b"blob %d\0%b" % (len(data), data), usedforsecurity=False)
        return cls(len(data), hashlib.sha256(data).hexdigest(), git.hexdigest())


@dataclass(frozen=True)
class Entry:
    """A file of a repository."""

    size: int
    """Bytes."""
    sha256: str | None
    """Of its content, if the hub keeps it apart."""
    git: str
    """Git's digest of the content; of a pointer to it if it is kept apart."""

    def holds(self, digests: Digests) -> bool:
        """Tells whether its content has these digests."""
        if self.sha256 is not None:
            return self.sha256 == digests.sha256
        return self.git == digests.git


@dataclass(frozen=True)
class Sent:
    """A file that was sent and waits for its commit."""

    path: str
    digests: Digests
    operation: Any
    """The client's."""


class Repository:
    """One branch of a data set; every method raises what `answers.explain` makes of a refusal."""

    def __init__(self, name: str, branch: str) -> None:
        """Takes who is signed in from the client.

        Args:
            name: `org/name`.
            branch: Of it.

        Raises:
            ConfigError: If nobody is signed in.
        """
        from huggingface_hub import HfApi, get_token  # noqa: PLC0415 (heavy)

        self.name, self.branch, self._api = name, branch, HfApi()
        self._has_answered = False
        with self._explained():
            token = get_token()
        if token is None:
            raise ConfigError(
                "nobody is signed in to the Hugging Face hub: sign in with `hf auth login`, or put "
                "HF_TOKEN, a token that may write, into the environment"
            )
        _silence_client()

    @property
    def url(self) -> str:
        """Where people find it."""
        page = f"{self._api.endpoint}/datasets/{self.name}"
        return page if self.branch == "main" else f"{page}/tree/{self.branch}"

    def open(self, *, create: bool, private: bool) -> str:
        """Returns the commit that the branch ends with.

        Args:
            create: Make the data set, or the branch, if it is not there.
            private: It has to be private.

        Raises:
            ConfigError: If it is not there and not to be made, or public and not to be so.
        """
        from huggingface_hub import errors  # noqa: PLC0415 (heavy)

        passed_on = (errors.RevisionNotFoundError, errors.RepositoryNotFoundError)
        try:
            info = self._ask(self._look, passed_on)
        except passed_on as error:
            self._make(error, create=create, private=private)
            info = self._ask(self._look)
        if private and not info.private:
            raise ConfigError(
                f"{self.url} is public, and --private was given: make it private in its settings "
                "there, or give another name"
            )
        return str(info.sha)

    def _look(self) -> Any:  # noqa: ANN401 (the client's)
        return self._api.dataset_info(self.name, revision=self.branch)

    def _make(self, error: Exception, *, create: bool, private: bool) -> None:
        """Makes the branch, or the data set, that is missing."""
        from huggingface_hub import errors  # noqa: PLC0415 (heavy)

        is_there = isinstance(error, errors.RevisionNotFoundError)
        if isinstance(error, errors.GatedRepoError) or answers.is_of_token(error):
            raise answers.explain(error, self.name) or error
        if not create:
            what = f"branch {self.branch!r} of the data set" if is_there else "data set"
            raise ConfigError(
                f"there is no {what} {self.name} on the Hugging Face hub that you may see: correct "
                "the name, or add --create to make it, with --private if only you may see it"
            ) from error
        if not is_there:
            self._ask(
                lambda: self._api.create_repo(
                    self.name, repo_type=KIND, private=private or None, exist_ok=True
                )
            )
        if is_there or self.branch != "main":
            self._ask(
                lambda: self._api.create_branch(
                    self.name, branch=self.branch, repo_type=KIND, exist_ok=True
                )
            )

    def list_files(self, commit: str) -> dict[str, Entry]:
        """Returns the files of a commit, by path."""

        def look() -> dict[str, Entry]:
            found = self._api.list_repo_tree(
                self.name, repo_type=KIND, revision=commit, recursive=True
            )
            return dict(_entries(found))

        return self._ask(look)

    def read(self, path: str, commit: str) -> bytes:
        """Returns the content of one file of a commit."""

        def fetch() -> bytes:
            with tempfile.TemporaryDirectory() as folder:
                found = self._api.hf_hub_download(
                    self.name, path, repo_type=KIND, revision=commit, local_dir=folder
                )
                return Path(found).read_bytes()

        return self._ask(fetch)

    def send(self, files: Sequence[tuple[str, Digests, bytes | Path]]) -> list[Sent]:
        """Sends files, which a commit is to have later; what the hub has already is not sent.

        Args:
            files: Path, digests and content of each. A content in a file may be removed once this
                has returned; bytes of large files are given back.
        """
        from huggingface_hub import CommitOperationAdd  # noqa: PLC0415 (heavy)

        adds = [CommitOperationAdd(path, content) for path, _, content in files]
        with self._explained():
            self._api.preupload_lfs_files(
                self.name, adds, repo_type=KIND, revision=self.branch, free_memory=True
            )
        for add in adds:  # what goes into the commit itself, of whatever size
            if isinstance(add.path_or_fileobj, str):
                add.path_or_fileobj = Path(add.path_or_fileobj).read_bytes()
        known = zip(files, adds, strict=True)
        return [Sent(path, digests, add) for (path, digests, _), add in known]

    def commit(self, sent: Sequence[Sent], removed: Sequence[str], parent: str) -> str:
        """Commits what was sent; returns the new commit.

        One whose answer was lost may have been made, and is looked for before it is made again.

        Args:
            sent: Files that come in.
            removed: Paths of files that go.
            parent: The commit that the branch has to end with.

        Raises:
            IncompleteError: If the branch has got another commit meanwhile.
        """
        for pause in (*_PAUSES_S, None):
            try:
                return self._commit(sent, removed, parent)
            except Exception as error:  # noqa: BLE001 (raised again unless it may pass)
                wait = self._wait_for(error, pause)
            time.sleep(wait)
            head = str(self._ask(self._look).sha)
            if head != parent:
                return self._check_made(sent, removed, head)
        raise AssertionError("the last attempt returns or raises")

    def _wait_for(self, error: Exception, pause: int | None) -> float:
        """Returns after how many seconds it is worth looking what became of a commit."""
        if answers.is_overtaken(error):  # maybe by the one whose answer was lost
            return 0
        wait = max(pause or 0, answers.wait_of(error))
        if pause is None or not answers.is_passing(error) or wait > _LONGEST_WAIT_S:
            raise answers.explain(error, self.name) or error from error
        return wait

    def _commit(self, sent: Sequence[Sent], removed: Sequence[str], parent: str) -> str:
        from huggingface_hub import CommitOperationDelete  # noqa: PLC0415 (heavy)

        operations = [each.operation for each in sent]
        operations += [CommitOperationDelete(path, is_folder=False) for path in removed]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the hub would like a card to say
            made = self._api.create_commit(
                self.name,
                operations,
                commit_message=f"vqpipe push: {len(operations):,} files",
                repo_type=KIND,
                revision=self.branch,
                parent_commit=parent,
            )
        return str(made.oid)

    def _check_made(self, sent: Sequence[Sent], removed: Sequence[str], head: str) -> str:
        """Returns the end of the branch if it is the commit whose answer was lost."""
        paths = [*(each.path for each in sent), *removed]
        found: dict[str, Entry] = {}
        for start in range(0, len(paths), _PATHS_AT_ONCE):
            part = paths[start : start + _PATHS_AT_ONCE]
            looked = self._ask(
                lambda part=part: self._api.get_paths_info(  # type: ignore[misc]
                    self.name, part, repo_type=KIND, revision=head
                )
            )
            found |= dict(_entries(looked))
        is_made = all(each.path in found and found[each.path].holds(each.digests) for each in sent)
        if is_made and not any(path in found for path in removed):
            return head
        raise IncompleteError(
            f"somebody else changed {self.name} while it was written to: run the same command "
            "again, which sends what is missing"
        )

    def _ask(
        self, request: Callable[[], Result], passed_on: tuple[type[Exception], ...] = ()
    ) -> Result:
        """Returns the answer to a request; asks again where that may help."""
        for pause in _PAUSES_S if self._has_answered else _FIRST_PAUSES_S:
            try:
                answer = request()
            except passed_on:
                raise
            except Exception as error:
                wait = max(pause, answers.wait_of(error))
                if not answers.is_passing(error) or wait > _LONGEST_WAIT_S:
                    raise answers.explain(error, self.name) or error from error
            else:
                self._has_answered = True
                return answer
            time.sleep(wait)
        with self._explained():
            return request()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise answers.explain(error, self.name) or error from error


def _entries(found: Any) -> Iterator[tuple[str, Entry]]:  # noqa: ANN401 (the client's)
    """Yields path and entry of each file among what the client lists."""
    from huggingface_hub.hf_api import RepoFile  # noqa: PLC0415 (heavy)

    for each in found:
        if isinstance(each, RepoFile):
            sha256 = None if each.lfs is None else each.lfs.sha256
            yield each.path, Entry(each.size, sha256, each.blob_id)


def _silence_client() -> None:
    """Has the client say nothing: what it warns of has addresses in it that are signed."""
    from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415 (heavy)

    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the environment asks for them
        disable_progress_bars()
