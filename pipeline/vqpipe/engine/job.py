"""A job of a Ray cluster as a person thinks of it: what it does, how it is, how it has ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from ray.job_submission import JobDetails, JobStatus

from vqpipe.errors import IncompleteError

_COMMAND, _ARGUMENTS, _SINK, _SAME = (
    f"vqpipe.{name}" for name in ("command", "arguments", "sink", "same")
)
"""What our jobs have in the metadata that Ray keeps with each: texts, which whoever reaches the
dashboard can read, as they can the command itself."""


@dataclass(frozen=True)
class Request:
    """What a job is to do."""

    command: str
    """Such as `encode`."""
    arguments: str = ""
    """Its own arguments, as a shell takes them; no secrets, as nowhere in a command."""
    sink: str = ""
    """Where its results go; empty if only a definition on the cluster says so."""
    same: str = ""
    """A digest: jobs that have the same are of the same command, however its options are ordered.
    Empty of jobs that somebody else has submitted."""

    def metadata(self) -> dict[str, str]:
        """Returns what Ray is to keep with the job."""
        return {
            _COMMAND: self.command,
            _ARGUMENTS: self.arguments,
            _SINK: self.sink,
            _SAME: self.same,
        }


@dataclass(frozen=True)
class Job:
    """A job that a cluster knows."""

    name: str
    """Ray's submission id."""
    state: str
    """Ray's word for it, in small letters: pending, running, succeeded, failed or stopped."""
    is_over: bool
    request: Request | None
    """None of a job that is not ours."""
    started: datetime | None
    """When it was submitted."""
    ended: datetime | None
    exit_code: int | None
    """Of its command, if that came to an end of its own."""
    message: str
    """What Ray says of how it is."""

    @property
    def is_ours(self) -> bool:
        """Whether it is a command of vqpipe."""
        return self.request is not None

    @property
    def seconds(self) -> float | None:
        """How long it took, or has taken so far."""
        if self.started is None:
            return None
        return ((self.ended or datetime.now(UTC)) - self.started).total_seconds()

    @property
    def code(self) -> int:
        """What who waited for its end ends with: its own exit code, or what says as much.

        Ray keeps none of a job that was stopped, or whose node was lost: of ours, that means that
        shards are left. A process that was killed has that of a shell, 128 and the signal.
        """
        if self.exit_code is None:
            return 0 if self.state == "succeeded" else IncompleteError.exit_code
        return self.exit_code if self.exit_code >= 0 else 128 - self.exit_code


def read_job(details: JobDetails) -> Job:
    """Returns what Ray knows of a job that was submitted."""
    return Job(
        name=str(details.submission_id),
        state=str(details.status.value).lower(),
        is_over=JobStatus(details.status).is_terminal(),
        request=_read_request(details.metadata or {}),
        started=_read_time(details.start_time),
        ended=_read_time(details.end_time),
        exit_code=details.driver_exit_code,
        message=details.message or "",
    )


def _read_request(metadata: Mapping[str, str]) -> Request | None:
    """Returns what a job is to do; None if it does not say so, as one that is not ours."""
    if _COMMAND not in metadata:
        return None
    arguments, sink, same = (metadata.get(name, "") for name in (_ARGUMENTS, _SINK, _SAME))
    return Request(metadata[_COMMAND], arguments, sink, same)


def _read_time(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
