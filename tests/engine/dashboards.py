"""A dashboard with one job, whose log and state a test sets; it answers as Ray's does."""

import asyncio
import threading
from contextlib import contextmanager

from aiohttp import WSMsgType, web

from tests.storage.ports import free_port

VERSION = {"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""}


class FakeDashboard:
    """What is answered, and how."""

    def __init__(self):
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = ""
        self.status = "RUNNING"
        self.exit_code = None
        self.knows_job = True
        self.sizes = []
        """Characters after which tails end, one after the other; then they end with the log."""
        self.drops = False
        """Whether tails that end so are dropped, not closed in order."""
        self.is_silent = False
        """Whether a tail stays open without a word after the log."""
        self.refusals = []
        """HTTP codes of the next answers about the job."""
        self.log_code = 200
        self.tails = 0
        self.started = {}
        """Jobs that were started, by name."""
        self.loses = 0
        """Answers to come about a start that are lost."""

    async def _version(self, _):
        return web.json_response(VERSION)

    def _details(self, name="job"):
        details = {"type": "SUBMISSION", "submission_id": name, "status": self.status}
        details |= {"entrypoint": "true", "driver_exit_code": self.exit_code}
        return details | {"start_time": 1_000_000, "message": "Ray's own words"}

    async def _list(self, _):
        jobs = [self._details() | {"metadata": {}}] if self.knows_job else []
        jobs += [
            self._details(name) | {"metadata": asked["metadata"]}
            for name, asked in self.started.items()
        ]
        return web.json_response(jobs)

    async def _start(self, request):
        asked = await request.json()
        name = asked["submission_id"]
        if name in self.started:
            return web.Response(status=500, text=f"Job with submission_id {name} already exists.")
        self.started[name] = asked
        if self.loses:
            self.loses -= 1
            request.transport.abort()
        return web.json_response({"job_id": name, "submission_id": name})

    async def _info(self, _):
        if self.refusals:
            return web.Response(status=self.refusals.pop(0), text="from somebody else")
        if not self.knows_job:
            return web.Response(status=404, text="Job job does not exist")
        return web.json_response(self._details())

    async def _logs(self, _):
        return web.json_response({"logs": self.log}, status=self.log_code)

    async def _tail(self, request):
        self.tails += 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        size = self.sizes.pop(0) if self.sizes else len(self.log)
        for at in range(0, size, 7):
            await socket.send_str(self.log[at : min(at + 7, size)])
        if self.is_silent and not self.sizes:
            while (await socket.receive()).type is not WSMsgType.CLOSE:
                pass
        elif self.drops:
            await asyncio.sleep(0)
            request.transport.abort()
        return socket

    async def serve(self, started, stop):
        """Answers until it is stopped."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/api/version", self._version),
                web.get("/api/jobs/", self._list),
                web.post("/api/jobs/", self._start),
                web.get("/api/jobs/job", self._info),
                web.get("/api/jobs/job/logs", self._logs),
                web.get("/api/jobs/job/logs/tail", self._tail),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        host, port = self.url.removeprefix("http://").split(":")
        await web.TCPSite(runner, host, int(port)).start()
        started.set()
        await stop.wait()
        await runner.cleanup()


@contextmanager
def serve(dashboard):
    """Has a dashboard answer for the length of a `with` block."""
    loop, started, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    thread = threading.Thread(
        target=lambda: loop.run_until_complete(dashboard.serve(started, stop)), daemon=True
    )
    thread.start()
    assert started.wait(60)
    try:
        yield dashboard
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
