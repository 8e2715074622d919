"""Opens images in a child process, so that no image can take a worker down.

A decoder that crashes, hangs or asks for too much memory ends the child and costs one image: a new
child goes on behind it. Compressed images, pixels and records are handed over in shared memory, a
table at a time; through the socket goes a line a table. The child gets nothing of the parent's
environment, so that a decoder that is taken over finds no credentials there, and what it says is
not trusted: it fills records of fixed size. Pixels stay where the child has put them, for as long
as anyone refers to them: a table is large, and a copy of it takes as long as a dozen images. Pixels
are as little trusted as the image: a decoder that is taken over could change those of other images
of its table, and of those that its worker has not handed on yet.

    parent                                     child
    compressed images, empty records  ──────►  opens one after the other, each under a limit of
    looks at the clock meanwhile               processor time, fills pixels and records
    pixels, records                   ◄──────  says that it is done, or dies

A decoder that spins ends by processor time, one that waits by the clock, and the clock counts only
while the parent itself gets to look at it: a run that is suspended as a whole (SIGSTOP by Slurm,
`docker pause`, a sleeping machine) loses no image. An image is late twice before it is rejected.
"""

import fcntl
import json
import mmap
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from vqpipe.errors import ConfigError
from vqpipe.images import Compressed, OpenedImages, Preprocess, Views, views_of
from vqpipe.images.compressed import NO_IMAGE
from vqpipe.images.memory import Memory
from vqpipe.images.table import Places, Table
from vqpipe.rejections import LeftOut, Reason, Rejection

TIME_LIMIT_S = 60.0
"""Of processor time, for one image. The slowest honest ones, of 100 megapixels, take some."""
VIEW_LIMIT_S = 3.0
"""Of processor time besides, for each view after the first. Those of such images take up to one."""
CLOCK_LIMITS = 2
"""So many times the limit may pass by the clock; what waits that long hangs, or has no processor
that it could have in earnest."""
BYTES_PER_PIXEL = 24
"""Most memory that opening takes: 16-bit pixels in 32 bits, their copies, and the conversion."""
SPARE_BYTES = 256 * 2**20
"""Memory for all else that opening takes."""

# An image is given up at a blame of 10. The first crash may be the machine's, and so may the first
# delay. And no decoder sends SIGKILL: the kernel does when memory runs out, for whatever reason.
_GIVEN_UP, _TIMEOUT_BLAME, _CRASH_BLAME, _KILL_BLAME = 10, 5, 5, 2
_STARTS = 5
_TABLES = 4
"""Of images at a time: handed on, opened, ready to be, and one whose last reader is late."""
_LOOKS = 40  # at the clock, within the most that it may show


Seen = Callable[[int], object]
"""Told now and then how many images of a table are through."""


class Sandbox:
    """Opens images in a child; made once in a worker, it keeps its child and its memory.

    One thread may prepare tables while another has them opened, so that the child never waits.
    """

    def __init__(self, how: Preprocess, time_limit_s: float = TIME_LIMIT_S) -> None:
        self.how = how
        self.time_limit_s = time_limit_s + VIEW_LIMIT_S * (how.views - 1)
        self._memories: list[Memory] = []
        self._child: _Child | None = None

    def open(self, images: Compressed, seen: Seen = lambda _: None) -> OpenedImages:
        """Returns the views of N compressed images, as `open_images` does; see `open_prepared`."""
        return self.open_prepared(self.prepare(images), seen)

    def prepare(self, images: Compressed) -> "Prepared":
        """Puts images where a child finds them."""
        memory = self._free_memory(images)
        table = Table(memory.map, len(images), self.how)
        memory.lend(table.pixels)
        table.fill(images)
        return Prepared(table, memory, images.sizes != NO_IMAGE)

    def open_prepared(self, prepared: "Prepared", seen: Seen = lambda _: None) -> OpenedImages:
        """Returns the views of images, as `open_images` does.

        Args:
            prepared: The images.
            seen: Told how many of them are through, while it takes long.

        Raises:
            ConfigError: If a child does not even start.
        """
        try:
            self._see_through(prepared, seen)
        except BaseException:
            self._end_child()  # which is in the middle of it
            raise
        return prepared.table.take(prepared.had)

    def _see_through(self, prepared: "Prepared", seen: Seen) -> None:
        """Has the child open all of a table, and another where one dies at it."""
        table, blame = prepared.table, dict.fromkeys(range(len(prepared.had)), 0)
        if self._child and self._child.has_ended():
            self._end_child()  # between two tables, which is no image's fault
        while (row := self._work(prepared, seen)) is not None:
            child, self._child = cast(_Child, self._child), None
            rejection, weight = child.explain(self.time_limit_s)
            blame[row] += weight
            if blame[row] >= _GIVEN_UP:
                table.reject(row, rejection)

    def close(self) -> None:
        """Ends the child and gives the memory back; of lent pixels when nobody refers to them."""
        self._end_child()
        self._memories = []

    def _free_memory(self, images: Compressed) -> Memory:
        """Returns memory with room for images that nobody else refers to.

        A child learns of new memory when it starts, and has its limit from then on: so there is
        more than one at once. What is not written to takes up nothing.
        """
        needed = Places.of(len(images), self.how).data + images.nbytes
        free = [memory for memory in self._memories if memory.is_free]
        for memory in free:
            if memory.size >= needed:
                return memory
        new = [Memory(max(mmap.PAGESIZE, 2 * needed)) for _ in range(_TABLES)]
        self._memories = [memory for memory in self._memories if memory not in free] + new
        return new[0]

    def _end_child(self) -> None:
        if self._child:
            self._child.close()
            self._child = None

    def _work(self, prepared: "Prepared", seen: Seen) -> int | None:
        """Has the child open what is left; returns None, or the row at which it died."""
        if self._child and prepared.memory not in self._child.memories:
            self._end_child()
        if self._child is None:
            self._child = self._start()
        limit_s = CLOCK_LIMITS * self.time_limit_s
        is_through = self._child.open(prepared, limit_s, seen)
        return None if is_through else prepared.table.first_left()

    def _start(self) -> "_Child":
        """Returns a child that is ready; one that is killed on the way is replaced."""
        for _ in range(_STARTS):
            child = _Child(self._memories, self.how, self.time_limit_s)
            code = child.await_ready()
            if code is None:
                return child
            if code >= 0:
                break
        raise ConfigError(
            f"the process that opens images does not start (exit code {code}); it needs some "
            "200 MB of memory, and Python as this one has it"
        )


def _open_or_reject(image: bytes, how: Preprocess, lot: int) -> Views | Rejection | LeftOut:
    try:
        return views_of(image, how, lot)
    except MemoryError:
        limit = _most_bytes(how) / 2**20
        return Rejection(Reason.TOO_MUCH_MEMORY, f"opening it takes more than {limit:,.0f} MiB")


def _most_bytes(how: Preprocess) -> int:
    """Returns how much memory an image, its canvas and its views may take."""
    return BYTES_PER_PIXEL * how.canvas_pixels + how.views * how.view_bytes + SPARE_BYTES


class Prepared(NamedTuple):
    """Images that lie where a child finds them."""

    table: Table
    memory: Memory
    """That the table is in."""
    had: npt.NDArray[np.bool_]
    """(N,) which rows have an image, by our own word: what the child writes is not trusted."""


class _Child:
    """The process that opens images: `main` below."""

    def __init__(self, memories: list[Memory], how: Preprocess, time_limit_s: float) -> None:
        self.memories = memories
        """What it knows of."""
        self._is_late = False
        files = [memory.file.fileno() for memory in memories]
        self._channel, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        task = {
            "memories": files,
            "channel": theirs.fileno(),
            "lifeline": lifeline,
            "time_limit_s": time_limit_s,
            "how": how.document(),
        }
        with theirs, os.fdopen(lifeline):
            self._process = subprocess.Popen(  # noqa: S603 (our own module, no shell)
                [sys.executable, "-m", "vqpipe.images.sandbox", json.dumps(task)],
                pass_fds=(*files, theirs.fileno(), lifeline),
                env={"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def await_ready(self) -> int | None:
        """Waits until it is ready; returns its exit code if it ends instead."""
        if self._channel.recv(1):
            return None
        self._hang_up()
        return self._process.wait()

    def open(self, prepared: Prepared, clock_limit_s: float, seen: Seen) -> bool:
        """Has it open what is left of a table; returns False if it dies, or is ended for delay.

        Args:
            prepared: The images.
            clock_limit_s: Most seconds for one of them, by the clock.
            seen: Told how many of them are through, at every look at the clock.
        """
        table, place = prepared.table, self.memories.index(prepared.memory)
        try:
            self._channel.sendall(f"{place} {len(table.records)}\n".encode())
            self._is_late = not self._await(table, clock_limit_s, seen)
            if self._is_late:
                self._process.kill()
            return bool(self._channel.recv(1))
        except OSError:
            return False

    def _await(self, table: Table, clock_limit_s: float, seen: Seen) -> bool:
        """Waits for a word, or the end; returns False when one image has taken too long.

        Of the time between two looks at the clock at most twice what was asked for counts: where it
        is more, this process did not run either.
        """
        look_s = clock_limit_s / _LOOKS
        row, late_s, looked = table.first_left(), 0.0, time.monotonic()
        while not select.select([self._channel], [], [], look_s)[0]:
            now = time.monotonic()
            late_s, looked = late_s + min(now - looked, 2 * look_s), now
            seen(table.count_done())
            if (current := table.first_left()) != row:
                row, late_s = current, 0.0
            if late_s > clock_limit_s:
                return False
        return True

    def explain(self, time_limit_s: float) -> tuple[Rejection, int]:
        """Returns why an image is rejected at which the child died, and its share of the blame."""
        self._process.kill()  # what ends by itself has ended
        code = self._process.wait()
        self._hang_up()
        if self._is_late or code == -signal.SIGPROF:
            clock = f"{CLOCK_LIMITS * time_limit_s:g} s by the clock"
            limit = clock if self._is_late else f"{time_limit_s:g} s of processor time"
            late = f"opening it took more than {limit}, and again"
            return Rejection(Reason.TIMED_OUT, late), _TIMEOUT_BLAME
        how = f"signal {_name(-code)}" if code < 0 else f"exit code {code}"
        crash = f"the process that opened it ended with {how}"
        if code == -signal.SIGKILL:
            times = -(-_GIVEN_UP // _KILL_BLAME)
            short = f"{crash}, {times} times: the machine has less memory than it takes"
            return Rejection(Reason.TOO_MUCH_MEMORY, short), _KILL_BLAME
        return Rejection(Reason.DECODER_CRASHED, crash), _CRASH_BLAME

    def has_ended(self) -> bool:
        """Tells whether it is no more."""
        return self._process.poll() is not None

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()
        self._hang_up()

    def _hang_up(self) -> None:
        self._channel.close()
        os.close(self._lifeline)


def _name(number: int) -> str:
    """Returns what a signal is called; those from 32 on have no names."""
    named = number in {each.value for each in signal.Signals}
    return signal.Signals(number).name if named else str(number)


def main(task: dict[str, Any]) -> None:
    """Opens tables of images as they are announced, until the parent closes the channel."""
    how = Preprocess.read(task["how"])
    memories = [mmap.mmap(file, 0) for file in task["memories"]]
    channel = socket.socket(fileno=task["channel"])
    _end_with(task["lifeline"])
    _limit_memory(how)
    channel.sendall(b"r")
    for line in channel.makefile("rb"):
        memory, count = map(int, line.split())
        _open_all(Table(memories[memory], count, how), how, task["time_limit_s"])
        channel.sendall(b".")


def _open_all(table: Table, how: Preprocess, time_limit_s: float) -> None:
    """Opens what is still to open of a table."""
    for row, image, lot in table.left():
        signal.setitimer(signal.ITIMER_PROF, time_limit_s)  # whose signal ends the process
        opened = _open_or_reject(image, how, lot)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if isinstance(opened, tuple):
            table.put(row, opened)
        elif isinstance(opened, LeftOut):
            table.leave_out(row, opened)
        else:
            table.reject(row, opened)


def _end_with(lifeline: int) -> None:
    """Has the kernel end this process as soon as the other end of a pipe closes.

    A parent that is killed while a decoder hangs must not leave the hanging child behind. (Linux's
    PR_SET_PDEATHSIG would end the child with the thread that started it, not with the process.)
    """
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)  # SIGIO, which ends a process


def _limit_memory(how: Preprocess) -> None:
    """Limits address space to what there is now and what one image may take."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * mmap.PAGESIZE + _most_bytes(how)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
