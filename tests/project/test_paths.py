"""Every path and every dotted name in texts, code, manifests and tests leads somewhere."""

import pkgutil
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pipeline/vqpipe"
TEXTS = (".py", ".md", ".toml", ".yaml", ".yml")
PATH = re.compile(r"(?<![\w./:-])((?:pipeline|jobs|infra|tests)/[\w./*-]*[\w/*])")
DOTTED = re.compile(r"(?<![\w./-])vqpipe(?:\.[A-Za-z_]\w*)+")
IN_ROOMS = re.compile(r"`((?:[a-z_]+/)+(?:[\w]+\.\w+)?)`")
BREACHES = {
    "tests/commands/typed_calls.py",
    "tests/project/test_contracts.py",
    "tests/shadows.py",
}
"""Tests that name what must not be."""
KEYS = {"vqpipe.histogram", "vqpipe.totals", "vqpipe.command"}
"""Of Parquet footers, and of jobs of a cluster: no names of modules."""


@pytest.fixture(scope="module")
def texts():
    """Contents of all files that people read, by path."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    names = [name for name in listed if name.endswith(TEXTS) or "." not in Path(name).name]
    found = {name: (ROOT / name) for name in names if (ROOT / name).is_file()}
    found = {name: path for name, path in found.items() if name not in BREACHES}
    assert len(found) > 250
    return {name: path.read_text() for name, path in found.items()}


def is_there(name):
    if "*" in name:
        return any(ROOT.glob(name))
    return (ROOT / name).exists()


def test_paths_lead_to_files(texts):
    found = {(name, path) for name, text in texts.items() for path in PATH.findall(text)}
    assert len({path for _, path in found}) > 40
    assert not sorted((name, path) for name, path in found if not is_there(path))


def test_dotted_names_lead_to_modules_and_what_is_in_them(texts):
    found = {(name, dotted) for name, text in texts.items() for dotted in DOTTED.findall(text)}
    assert len(found) > 500
    assert not sorted((name, dotted) for name, dotted in found if not leads_somewhere(dotted))


def leads_somewhere(dotted):
    if dotted in KEYS:
        return True
    try:
        pkgutil.resolve_name(dotted)
    except (ImportError, AttributeError):
        return False
    return True


def test_pages_that_speak_of_rooms_name_files_in_them(texts):
    pages = [
        name for name in texts if name.endswith(".md") and name != "tests/benchmarks/RESULTS.md"
    ]
    names = {(page, name) for page in pages for name in IN_ROOMS.findall(texts[page])}
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    spoken = {(page, name) for page, name in names if name.split("/")[0] in rooms}
    assert len(spoken) > 15
    assert not sorted((page, name) for page, name in spoken if not (PACKAGE / name).exists())
