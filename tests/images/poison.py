"""Images that take the process down that opens them, and what makes a Python process obey them."""

from pathlib import Path

CRASH, CRASH_ONCE, HANG, SLEEP, MEMORY, ABORT, ENVIRONMENT, KILL, KILL_ONCE = (
    b"POISON %d\n" % number + b"\0" * 50 for number in range(9)
)
HANG_ONCE, SLEEP_ONCE, AWAIT, NAMELESS = (
    b"POISON %d\n" % number + b"\0" * 50 for number in range(9, 13)
)
"""NAMELESS sends a signal that has no name; AWAIT has a file `reached` made beside the site, and is
an image as soon as there is `go`."""

_SITE = """
import ctypes, os, signal, time
from pathlib import Path

from PIL import Image

_open = Image.open


def crash():
    ctypes.string_at(0)


def once(deed):
    if not Path(__file__).with_name("done").exists():
        Path(__file__).with_name("done").touch()
        deed()
    return Image.new("RGB", (20, 20), "red")


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def hang():
    while True:
        pass


def fill():
    kept = []
    while True:
        kept.append(bytearray(2**26))


def wait():
    Path(__file__).with_name("reached").touch()
    while not Path(__file__).with_name("go").exists():
        time.sleep(0.01)
    return Image.new("RGB", (20, 20), "red")


def tell():
    raise ValueError(" ".join(f"{name}={value}" for name, value in os.environ.items()))


_DEEDS = [
    crash,
    lambda: once(crash),
    hang,
    lambda: time.sleep(1000),
    fill,
    os.abort,
    tell,
    kill,
    lambda: once(kill),
    lambda: once(hang),
    lambda: once(lambda: time.sleep(1000)),
    wait,
    lambda: os.kill(os.getpid(), signal.SIGRTMIN + 1),
]


def open(stream, *arguments, **options):
    start = stream.read(20)
    stream.seek(0)
    if start.startswith(b"POISON"):
        return _DEEDS[int(start.split()[1])]()
    return _open(stream, *arguments, **options)


Image.open = open
"""


def write_site(folder: Path) -> Path:
    """Makes every Python whose path begins with the folder obey poisoned images."""
    (folder / "sitecustomize.py").write_text(_SITE)
    return folder
