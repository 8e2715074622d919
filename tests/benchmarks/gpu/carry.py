"""Wheels of what a GPU machine lacks, small enough to be copied there with the repository.

Versions are those of constraints.txt. Of Ray's wheel, more than half is for what a run does not
do: other languages, other libraries, the pages of its dashboard.
"""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

from tests.benchmarks.gpu.steps import ROOT

FOLDER = ROOT / "build" / "carried"
SITE = ROOT / "build" / "site"
"""Where they lie installed, on the machine that they were carried to."""
MOST_BYTES = 56 * 2**20
"""Of all wheels together: with the repository itself, less than 64 MiB."""
NAMES = (
    "ray",
    "jsonschema",
    "jsonschema-specifications",
    "referencing",
    "rpds-py",
    "bracex",
    "tyro",
    "docstring-parser",
    "typeguard",
    "diffusers",
    "importlib-metadata",
)
"""What `vqpipe` and Ray's core and Data import, and such a machine is not known to have."""
_PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
_LEFT_OUT = re.compile(r"^ray/(jars|cpp|rllib|serve|llm|tune|dashboard/client)/")
"""Of all files in wheels; what is left of Ray still imports `ray.data`."""


def main(python):
    """Fills the folder anew; returns 0, or 1 if it is too large."""
    for old in (FOLDER, SITE):
        shutil.rmtree(old, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    download(python)
    for wheel in sorted(FOLDER.glob("*.whl")):
        before = wheel.stat().st_size
        strip(wheel)
        print(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} of {before / 2**20:.1f} MiB")
    total = sum(wheel.stat().st_size for wheel in FOLDER.glob("*.whl"))
    fits = total <= MOST_BYTES
    print(f"{total / 2**20:.1f} MiB in {FOLDER}{'' if fits else ', which is too much'}")
    return 0 if fits else 1


def download(python):
    """Fetches a wheel of each, for that Python on x86-64 Linux, without what it needs itself."""
    places = [word for platform in _PLATFORMS for word in ("--platform", platform)]
    kind = ("--only-binary=:all:", "--implementation", "cp", "--python-version", python, *places)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *kind]
    pinned = [f"{name}=={version}" for name, version in versions().items()]
    subprocess.run([*command, "--dest", str(FOLDER), *pinned], check=True)


def versions():
    """Returns the version of each name, as constraints.txt has it."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = dict(re.findall(r"^([\w.-]+)==(\S+)", line)[0] for line in lines if "==" in line)
    known = {normal(name): version for name, version in pairs.items()}
    return {name: known[normal(name)] for name in NAMES}


def normal(name):
    """Returns a package's name as PEP 503 has it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def strip(wheel):
    """Writes a wheel again without what is left out, its own list of files included."""
    thin = wheel.with_suffix(".thin")
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(thin, "w") as target:
        for entry in source.infolist():
            if not _LEFT_OUT.search(entry.filename):
                target.writestr(entry, keep(entry.filename, source.read(entry)))  # may be run
    thin.replace(wheel)


def keep(name, data):
    """Returns what a file is to hold: a list of files, only those that are there."""
    if not name.endswith(".dist-info/RECORD"):
        return data
    lines = data.decode().splitlines(keepends=True)
    return "".join(line for line in lines if not _LEFT_OUT.search(line)).encode()


def unpack():
    """Returns where the carried wheels lie installed, or None if none were carried."""
    wheels = sorted(map(str, FOLDER.glob("*.whl")))
    if not wheels:
        return None
    if not SITE.exists():
        how = ("--quiet", "--no-index", "--no-deps", "--no-compile", "--target", str(SITE))
        subprocess.run([sys.executable, "-m", "pip", "install", *how, *wheels], check=True)
        name_ourselves()
    return SITE


def name_ourselves():
    """Has `vqpipe`, which runs from the repository, found by name and version as if installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name, version = project["name"], project["version"]
    folder = SITE / f"{name}-{version}.dist-info"
    folder.mkdir()
    said = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (folder / "METADATA").write_text(said)
