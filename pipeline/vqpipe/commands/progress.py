"""How far a run is: a live line on a terminal, elsewhere a plain line every few seconds."""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from vqpipe.commands.console import stderr
from vqpipe.occupancy import Occupancy, Setting, Spent

if TYPE_CHECKING:  # help and mistakes are answered without Ray
    from vqpipe.engine.counter import Share
    from vqpipe.engine.laggards import Laggard

_LOG_EVERY_S = 5.0
_HISTORY_S = 60.0
_LEAST_S, _LEAST_IMAGES = 15.0, 10
"""What has to be seen before the time that is left is told: seconds of work, and images, or a tenth
of all if these are fewer."""
_LEAST_WORKING_S = 3.0
"""Of work before a speed is shown: the codec may be noticed when its first images are through."""
CURVE_POINTS = 200
"""Most points of the curve of images over time."""
_MANY_SHARDS = 500
"""A request each of more takes so long that a person wonders."""


def announce(doing: str, shards: int) -> None:
    """Says on stderr that something is about to take a while, if there are many shards to it."""
    if shards > _MANY_SHARDS:
        console = stderr()
        console.print(f"  {doing} {shards:,} shards ...", style="dim", markup=False)


class _Moment(NamedTuple):
    """How far a command was, and on what its time was spent until then."""

    seconds: float
    images: int
    durable: int
    shards: int
    spent: Spent


@dataclass
class Progress:
    """Counts of one command on a run; `images` are those of this command, not of earlier ones."""

    shards_total: int
    bytes_total: int
    """Of the shards that this command still has to do."""
    shards_before: int = 0
    """Committed by earlier commands."""
    shards: int = 0
    encoded: int = 0
    """Images through the codec; a little ahead of what is durable."""
    durable: int = 0
    """Samples staged or committed, rejected and left out ones included."""
    left_out: int = 0
    """Of these."""
    reasons: Counter[str] = field(default_factory=Counter)
    dropped: list[str] = field(default_factory=list)
    """What was wrong with staged rows that have to be read anew."""
    rejected_images: int = 0
    """Images that the rejections stand for, at least."""
    read: int = 0
    """Samples read from the source."""
    read_bytes: int = 0
    """Bytes of the source that they took."""
    devices: tuple[str, ...] = ()
    """Names of what was encoded on."""
    shares: Mapping[str, "Share"] = field(default_factory=dict)
    """What each machine has done, by name."""
    laggards: tuple["Laggard", ...] = ()
    """Shards that took far longer than others, and who did them again."""
    started: float = field(default_factory=time.monotonic)
    start_up_s: float | None = None
    """Until the first codec was ready: Ray, workers, weights and warm-up; None before."""
    opens: bool = True
    """Whether images are opened before the codec."""
    spent: Spent = field(default_factory=Spent)
    """What workers spent their time on, and how much of it there was."""
    gpu_memory: tuple[int, int] | None = None
    """Most bytes of a GPU's memory in use, and bytes that it has; None if not known."""
    ended: float | None = None
    """When the work ended; None before."""
    curve: list[tuple[float, int]] = field(default_factory=list)
    """Seconds since the start and images that were through then; `CURVE_POINTS` at most, the first
    where the first codec was ready."""
    images_known: int | None = None
    """Images that this command has to do, of a stage that only reads and writes them; None of one
    with a codec, which nobody can tell before."""
    committed: set[int] = field(default_factory=set)
    """Places in the plan of the shards that this command has committed."""
    _steady: list[_Moment] = field(default_factory=list)
    """When the first images were through, and the last."""
    _curve_step_s: float = 1.0
    _history: deque[tuple[float, int]] = field(default_factory=deque)

    def commit(self, shard: int) -> None:
        """Counts a committed shard; two writers may both report one."""
        self.committed.add(shard)
        self.shards = len(self.committed)

    @property
    def has_begun(self) -> bool:
        """Whether a worker was ready: a codec, or where there is none, one that reads."""
        reads = self.images_known is not None and self.start_up_s is not None
        return bool(self.devices) or reads

    @property
    def rejected(self) -> int:
        """Rejections of this command."""
        return self.reasons.total()

    @property
    def images(self) -> int:
        """Images that are through; until all are, what dead workers had done counts twice."""
        if self.is_through:
            return self.durable
        return max(self.encoded + self.rejected + self.left_out, self.durable)

    @property
    def is_through(self) -> bool:
        """Whether every shard is committed."""
        return self.shards_before + self.shards == self.shards_total

    @property
    def images_total(self) -> int | None:
        """Images of this command, judged from the bytes of those read; None before any."""
        if self.images_known is not None:
            return self.images_known
        if not self.read_bytes:
            return None
        if self.is_through:
            return self.images
        return max(self.images, round(self.read * self.bytes_total / self.read_bytes))

    @property
    def seconds(self) -> float:
        """From the command's start to its end, or until now."""
        return (time.monotonic() if self.ended is None else self.ended) - self.started

    @property
    def working_s(self) -> float:
        """Seconds since the first codec was ready; 0 before."""
        return 0.0 if self.start_up_s is None else self.seconds - self.start_up_s

    @property
    def rate(self) -> float:
        """Images/s, wherever they are shown or stored: images that are through per `working_s`."""
        return self.images / self.working_s if self.working_s > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds left at the speed of about the last half minute; None before that says anything.

        The first images come one by one, while workers still start: of a run of two minutes they
        tell half an hour.
        """
        total = self.images_total
        if total is None or not self._history:
            return None
        (begun, _), (now, images) = self._history[0], self._history[-1]
        least = min(_LEAST_IMAGES, total // 10)
        since = (begun + now) / 2  # half of what has been seen may be the start of workers
        known = [each for each in self._history if each[0] <= since and images - each[1] >= least]
        if now - begun < _LEAST_S or not known:
            return None
        then, before = known[-1]
        return (total - images) * (now - then) / (images - before) if images > before else None

    @property
    def occupancy(self) -> Occupancy | None:
        """How busy each part was from the first images that were through to the last.

        None before there are two, and of a stage without a codec.
        """
        if len(self._steady) < 2 or not self.devices:
            return None
        first, last = self._steady
        if last.seconds <= first.seconds:
            return None
        kind = "cpu" if all(each.startswith("cpu") for each in self.devices) else "cuda"
        return Occupancy.of(
            last.spent.minus(first.spent),
            last.seconds - first.seconds,
            Setting(kind, self.opens, self.gpu_memory),
            images=last.images - first.images,
            shards=last.shards - first.shards,
        )

    def end(self) -> None:
        """Stops the clock: what follows is no more of the work."""
        self.ended = time.monotonic()

    def note(self) -> None:
        """Notes how far it is now; call it every second or so."""
        if self.start_up_s is None:
            return
        self._note_speed()
        self._note_steady()
        if not self.curve:
            self.curve.append((round(self.start_up_s, 1), 0))
        if self.seconds - self.curve[-1][0] < self._curve_step_s:
            return
        self.curve.append((round(self.seconds, 1), self.images))
        if len(self.curve) > CURVE_POINTS:
            self._curve_step_s *= 2
            del self.curve[1::2]

    def _note_steady(self) -> None:
        """Notes when the last images were through that anybody knows of, and the first."""
        now = _Moment(self.seconds, self.images, self.durable, self.shards, self.spent)
        if not now.images:
            return
        if not self._steady or now[1:3] != self._steady[-1][1:3]:
            self._steady[1:] = [now]

    def _note_speed(self) -> None:
        """Adds to the last minute, or as long as some images take, from the first image on."""
        if self.images:
            self._history.append((time.monotonic(), self.images))
        while len(self._history) > 2 and self._tells_enough(self._history[1]):
            self._history.popleft()

    def _tells_enough(self, since: tuple[float, int]) -> bool:
        """Tells whether what has been seen since then is enough to judge the speed by."""
        now, images = self._history[-1]
        return now - since[0] > _HISTORY_S and images - since[1] >= _LEAST_IMAGES

    def describe(self) -> tuple[str, ...]:
        """Returns the parts of the line that is shown."""
        if not self.images:
            doing = "waiting for the first images" if self.devices else "starting workers"
            if self.images_known is not None and self.read:
                doing = f"read {self.read:,}/{self.images_known:,} images"
            return (f"{doing}, {describe_seconds(self.seconds)}",)
        total, left_s = self.images_total, self.left_s
        shards = f"{self.shards_before + self.shards:,}/{self.shards_total:,} shards"
        about = "" if total == self.images_known else "~"
        images = f"{self.images:,}" + (f"/{about}{total:,}" if total else "") + " images"
        eta = "ETA " + ("?" if left_s is None else describe_seconds(left_s))
        rate = f"{self.rate:,.1f}" if self.working_s >= _LEAST_WORKING_S else "?"
        return shards, images, f"{rate} images/s", f"{self.rejected:,} rejected", eta


def describe_seconds(seconds: float) -> str:
    """Returns a length of time as a clock has it: `2:05`, `1:00:00`."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


class Display:
    """Shows progress while a `with` block lasts; call `show` as often as you like."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._show: Callable[[Progress], None] = (
            self._show_live if console.is_terminal else self._show_line
        )
        self._logged = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live.is_started:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """Shows where the run is now."""
        self._show(progress)

    def _show_live(self, progress: Progress) -> None:
        total = progress.images_total
        grid = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=total, completed=progress.images, width=24, pulse=total is None)
        grid.add_row(self._title, bar, *progress.describe())
        self._live.update(grid, refresh=True)

    def _show_line(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._logged >= _LOG_EVERY_S:
            self._logged = now
            clock = time.strftime("%H:%M:%S")
            line = f"{clock}  {self._title}  " + "  ".join(progress.describe())
            self._console.print(line, soft_wrap=True)
