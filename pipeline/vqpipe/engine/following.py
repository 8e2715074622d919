"""A job's log as it grows, to the job's end, through connections that break.

Ray sends a log over a WebSocket, each time from its beginning, and a connection may end in three
ways: with an error, in good order though the job goes on (the dashboard or the node's agent has
ended), and not at all, when packets are lost or a laptop has slept. So what was shown is counted,
in characters, and after each end, or a while of silence, the job's state and the whole log are
asked for anew: what is new of it is shown, and then the log is followed again.
"""

import asyncio
import json
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
from ray._private.authentication.http_token_authentication import format_authentication_http_error
from ray.job_submission import JobDetails

from vqpipe.engine.dashboard import Dashboard
from vqpipe.engine.job import Job, read_job
from vqpipe.engine.token import describe_refusal
from vqpipe.errors import ConfigError, IncompleteError

_SILENCE_S = 60.0
"""Seconds without a word after which a connection is looked after: a command says how far it is
every five. No pings do that: nobody on Ray's side listens to a client (2.60)."""
_TIMEOUT = aiohttp.ClientTimeout(total=600, sock_connect=10, sock_read=60)
_LEAST_PAUSE_S, _MOST_PAUSE_S = 0.5, 10.0
"""Seconds between two rounds; the more in vain, the longer."""


@dataclass(frozen=True)
class Listener:
    """Who is told what comes."""

    on_log: Callable[[str], None]
    """Called with each new piece of the log."""
    on_word: Callable[[str], None]
    """Called with what is to be said besides: that the dashboard does not answer, or does again."""
    patience_s: float
    """Seconds without an answer of the dashboard after which it is given up."""
    meanwhile: str = "goes on"
    """What the job does when it is not followed any more."""


def follow(dashboard: Dashboard, name: str, listener: Listener, shown: int = 0) -> Job:
    """Shows a job's log until the job is over, and returns how it has ended.

    Args:
        dashboard: Of its cluster.
        name: Of the job.
        listener: Who is told.
        shown: Characters of the log that are to be left out, since they are known.

    Raises:
        ConfigError: If the cluster wants another token by now.
        IncompleteError: If the dashboard does not answer for too long, or knows the job no more;
            or if SIGINT or SIGTERM comes. The job goes on.
    """
    return asyncio.run(_until_left(_Following(dashboard, name, listener, shown)))


async def _until_left(following: "_Following") -> Job:
    """Follows a job until the end, or until a signal comes.

    A handler that raises would not do: the loop takes what is raised amid its callbacks for theirs.
    """
    numbers: list[int] = []
    task, loop = asyncio.ensure_future(following.run()), asyncio.get_running_loop()

    def leave(number: int) -> None:
        numbers.append(number)
        task.cancel()

    if threading.current_thread() is threading.main_thread():
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, leave, each)
    try:
        return await task
    except asyncio.CancelledError:
        if not numbers:
            raise
        raise following.describe_leaving(signal.Signals(numbers[0]).name) from None


class _GoneError(Exception):
    """The cluster does not know the job."""


class _UnansweredError(Exception):
    """The dashboard did not answer, or somebody else did."""


class _Following:
    """One job that is followed."""

    def __init__(self, dashboard: Dashboard, name: str, listener: Listener, shown: int) -> None:
        self._dashboard, self._name, self._listener = dashboard, name, listener
        self._shown = shown
        self._pause_s = _LEAST_PAUSE_S
        self._failed: float | None = None
        """When the dashboard was first found not to answer; None while it does."""

    async def run(self) -> Job:
        """Goes round until the job is over."""
        async with aiohttp.ClientSession(
            headers=self._dashboard.headers, timeout=_TIMEOUT, trust_env=True
        ) as session:
            while True:
                with suppress(_UnansweredError):
                    await self._tail(session)
                try:
                    job = await self._ask(session)
                    await self._catch_up(session, job)
                except _UnansweredError as error:
                    self._note_failure(str(error))
                else:
                    if job.is_over:
                        return job
                await asyncio.sleep(self._pause_s)
                self._pause_s = min(2 * self._pause_s, _MOST_PAUSE_S)

    async def _tail(self, session: aiohttp.ClientSession) -> None:
        """Shows the log as it comes, until the connection ends or falls silent."""
        position = 0
        async with self._connection(session) as socket:
            while True:
                message = await socket.receive(timeout=_SILENCE_S)
                if message.type is not aiohttp.WSMsgType.TEXT:
                    return
                self._show(message.data, position)
                position += len(message.data)

    @asynccontextmanager
    async def _connection(
        self, session: aiohttp.ClientSession
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Connects to the log of a `with` block; a line of it may be of any length."""
        timeout = aiohttp.ClientWSTimeout(ws_close=1.0)
        try:
            async with session.ws_connect(
                self._url("/logs/tail"), max_msg_size=0, timeout=timeout
            ) as socket:
                yield socket
        except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is one
            raise _UnansweredError(_describe(error)) from error

    async def _ask(self, session: aiohttp.ClientSession) -> Job:
        """Returns how the job is."""
        try:
            found = await self._get(session, "")
            job = read_job(JobDetails(**found))
        except _GoneError:
            raise IncompleteError(
                f"the cluster at {self._dashboard.url} does not know {self._name} any more: it has "
                "been started anew. The same command, submitted again, finishes what is left"
            ) from None
        except (TypeError, ValueError) as error:
            raise _UnansweredError(f"what answers is no dashboard of Ray: {error}") from error
        self._note_answer()
        return job

    async def _catch_up(self, session: aiohttp.ClientSession, job: Job) -> None:
        """Shows what has not been shown of the log, however the connection to it has ended."""
        try:
            self._show(str((await self._get(session, "/logs"))["logs"]), 0)
        except (_GoneError, _RefusedError, KeyError, TypeError) as error:
            if job.is_over:
                self._listener.on_word(f"the rest of the log cannot be had: {error}")

    async def _get(self, session: aiohttp.ClientSession, what: str) -> dict[str, Any]:
        """Returns what the dashboard answers to a question about the job."""
        try:
            async with session.get(self._url(what)) as response:
                text = await response.text()
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            raise _UnansweredError(_describe(error)) from error
        self._check(response.status, text)
        try:
            found = json.loads(text)
        except ValueError as error:
            raise _UnansweredError("what answers is no dashboard of Ray") from error
        return dict(found)

    def _check(self, status: int, text: str) -> None:
        """Refuses an answer that is none."""
        if refusal := format_authentication_http_error(status, text):
            raise ConfigError(describe_refusal(self._dashboard.url, refusal))
        if status == 404 and "does not exist" in text:
            raise _GoneError(text)
        if status == 500:
            raise _RefusedError(text.strip().splitlines()[-1] if text.strip() else "error 500")
        if status != 200:  # such as 502 of a proxy before it
            raise _UnansweredError(f"the answer is {status}")

    def _url(self, what: str) -> str:
        return f"{self._dashboard.url}/api/jobs/{self._name}{what}"

    def _show(self, text: str, position: int) -> None:
        """Shows what is new of a piece of the log that begins at a position."""
        fresh = text[max(self._shown - position, 0) :]
        if fresh:
            self._shown += len(fresh)
            self._pause_s = _LEAST_PAUSE_S
            self._note_answer()
            self._listener.on_log(fresh)

    def _note_answer(self) -> None:
        if self._failed is not None:
            self._failed = None
            self._listener.on_word(f"{self._dashboard.url} answers again")

    def _note_failure(self, why: str) -> None:
        """Says once that nobody answers, and gives up when that has lasted too long."""
        patience_s, url = self._listener.patience_s, self._dashboard.url
        if self._failed is None:
            self._failed = time.monotonic()
            self._pause_s = _LEAST_PAUSE_S
            self._listener.on_word(
                f"{url} does not answer ({why}); trying for {patience_s:g} s. The job does not wait"
            )
        elif time.monotonic() - self._failed > patience_s:
            raise IncompleteError(
                f"{url} did not answer for {patience_s:g} s: {why}. If the cluster still runs, the "
                f"job does too: {self._dashboard.describe_ways(self._name)[0]} shows it. If not, "
                "run the same command on another cluster to finish"
            )

    def describe_leaving(self, signal_name: str) -> IncompleteError:
        """Returns what who follows a job ends with when a signal comes."""
        follow_it, stop_it = self._dashboard.describe_ways(self._name)
        return IncompleteError(
            f"left by {signal_name}; job {self._name} {self._listener.meanwhile}. Follow it with "
            f"{follow_it}, and stop it with {stop_it}"
        )


class _RefusedError(_UnansweredError):
    """The dashboard answers that it cannot."""


def _describe(error: BaseException) -> str:
    return str(error) or type(error).__name__
