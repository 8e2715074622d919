"""Packages of the peers that our pins leave out, in a folder of their own.

They are installed without what they depend on, most of which the pins have: so torch stays what it
is, and torchvision away, which LitData and MosaicML streaming ask for and do not need here.
"""

import subprocess
import sys
from pathlib import Path

FOLDER = Path("build/readers")
"""What processes of the peers have on their path besides."""
_PACKAGES = {
    "lit": ("litdata==0.2.76", "obstore==0.12.1"),
    "mds": (
        "mosaicml-streaming==0.13.0",
        "brotli==1.2.1",
        "catalogue==2.0.10",
        "cramjam==2.14.0",
        "python-snappy==0.7.3",
        "tokenizers==0.23.3",
        "transformers==5.24.0",
        "zstd==1.5.7.2",
    ),
}


def install():
    """Installs each peer; returns those that could not be, and what pip said."""
    failed = {}
    for peer, packages in _PACKAGES.items():
        where = FOLDER / peer
        if (where / ".installed").exists():
            continue
        words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
        done = subprocess.run(
            [*words, "--target", where, *packages], capture_output=True, text=True
        )
        if done.returncode:
            failed[peer] = done.stderr.strip().splitlines()[-1]
        else:
            (where / ".installed").touch()
    return failed


def path_of(side):
    """Returns the folder that a side has on its path besides, if it is one of theirs."""
    peer = side.split("_")[0]
    return [str((FOLDER / peer).resolve())] if peer in _PACKAGES else []
