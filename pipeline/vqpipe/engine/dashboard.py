"""The dashboard of a Ray cluster: where it is, and which jobs it knows, starts and stops."""

import contextlib
import os
import shlex
from collections.abc import Iterator
from typing import Any

import ray
from ray.job_submission import JobSubmissionClient

from vqpipe.engine.job import Job, Request, read_job
from vqpipe.engine.token import describe_refusal
from vqpipe.errors import ConfigError

_TIMEOUT_S = (10.0, 60.0)
"""Seconds to connect, and to wait for an answer; Ray waits for ever, on a connection that is gone
as well. It looks for a place for a new job for 10 s."""
_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""What has the address where none is asked for, in Ray's order."""
STOP_WAIT_S = 300
"""Seconds that a job of ours has between SIGTERM and SIGKILL. Ray's default is 3, and a command
adds up its sink before it ends: a request for each of the shards that are committed."""


class TakenError(Exception):
    """There is a job of that name already."""


class Dashboard:
    """The dashboard of one cluster."""

    def __init__(self, address: str | None) -> None:
        """Finds it, and sees that it answers.

        Args:
            address: Its URL, or what else Ray takes, such as the cluster's own address; by default
                what the environment says, else a cluster of this machine.

        Raises:
            ConfigError: If nobody answers there, or a token is wanted.
        """
        self.url = address = _find_address(address)
        with self._explained(), _without_addresses():
            self._client = _Client(address or None)
        self.url = self._client.get_address()

    @property
    def headers(self) -> dict[str, str]:
        """What every request has to say, the token included."""
        return self._client.headers

    def find_jobs(self) -> list[Job]:
        """Returns all jobs that were submitted, ours and others, oldest first."""
        with self._explained():
            found = [each for each in self._client.list_jobs() if each.submission_id]
        return sorted(map(read_job, found), key=lambda job: (str(job.started or ""), job.name))

    def read_log(self, name: str) -> str:
        """Returns the log of a job as it is now."""
        with self._explained():
            return str(self._client.get_job_logs(name))

    def start(self, name: str, entrypoint: str, request: Request) -> None:
        """Starts a job: a shell command, on the cluster's head.

        Args:
            name: Of the job; no other has had it.
            entrypoint: The command; it must hold no secrets, since the cluster stores and shows it.
            request: What it is to do.

        Raises:
            TakenError: If there is one of that name.
            ConnectionError: If the answer did not arrive: the job may be there, or not.
        """
        env_vars = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
        try:
            self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=name,
                metadata=request.metadata(),
                runtime_env={"env_vars": env_vars},
            )
        except RuntimeError as error:
            if "already exists" in str(error):
                raise TakenError(name) from error
            raise ConfigError(f"{self.url} does not take the job: {error}") from error
        except OSError as error:
            raise ConnectionError(str(error)) from error

    def stop(self, name: str) -> None:
        """Asks a job to stop: it gets SIGTERM, and SIGKILL if it takes too long; does not wait."""
        with self._explained():
            self._client.stop_job(name)

    def describe_ways(self, name: str) -> tuple[str, str]:
        """Returns the commands that follow a job and stop it, to be pasted as they are."""
        rest = f"{shlex.quote(name)} --address {shlex.quote(self.url)}"
        return f"vqpipe logs {rest}", f"vqpipe stop {rest}"

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Makes what goes wrong with a request an error that says what to do."""
        try:
            yield
        except ray.exceptions.AuthenticationError as error:
            raise ConfigError(describe_refusal(self.url, str(error))) from error
        except (OSError, RuntimeError, ValueError, LookupError) as error:
            where = f"at {self.url}" if self.url else "on this machine"
            raise ConfigError(
                f"no Ray dashboard answers {where}: {error}; give its --address, such as "
                "http://head:8265, or set RAY_API_SERVER_ADDRESS to it"
            ) from error


class _Client(JobSubmissionClient):
    """Ray's client, with an end to its patience."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:  # noqa: ANN401 (Ray's)
        return super()._do_request(method, endpoint, timeout=_TIMEOUT_S, **options)

    @property
    def headers(self) -> dict[str, str]:
        """What every request has to say."""
        return dict(self._headers)


def _find_address(asked: str | None) -> str:
    """Returns the address that is asked for, or that the environment has; empty if there is none.

    Raises:
        ConfigError: If there are credentials in it.
    """
    names = (name for name in _VARIABLES if os.environ.get(name))
    source = "--address" if asked else next(names, "")
    address = asked or os.environ.get(source, "")
    if "@" in address:
        raise ConfigError(
            f"{source} holds credentials; take them out: RAY_AUTH_TOKEN_PATH names a file with "
            "the cluster's token"
        )
    return address.rstrip("/")


@contextlib.contextmanager
def _without_addresses() -> Iterator[None]:
    """Hides the addresses of the environment, which Ray prefers to the one that it is given."""
    before = {name: os.environ.pop(name) for name in _VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)
