"""The demo: sample photos from three kinds of source to codes, and back to a report.

python -m infra.demo.run
"""

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from infra.demo.picture import draw_pairs
from infra.demo.samples import build_sources

HERE = Path(__file__).parent
MODEL = HERE / "checkpoint"
OUTPUT = Path("demo")
OPTIONS = {
    "tars": ["--keep", "txt"],
    "parquet": ["--key", "id", "--keep", "photo"],
    "folder": [],
}


def main() -> int:
    """Runs the demo from nothing and says where everything is."""
    started = time.monotonic()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    print("Building sample shards from the photos of scikit-image and scikit-learn ...")
    sources = build_sources(OUTPUT / "sources")
    model = MODEL.relative_to(Path.cwd()) if MODEL.is_relative_to(Path.cwd()) else MODEL
    for name, source in sources.items():
        arguments = ["--source", source, "--sink", OUTPUT / "codes" / name, "--model", model]
        vqpipe("encode", *map(str, arguments), *OPTIONS[name])
    tars = str(OUTPUT / "codes" / "tars")
    vqpipe("evaluate", "--source", tars, "--samples", "48")
    vqpipe("inspect", tars)
    picture = OUTPUT / "reconstructions.png"
    score = draw_pairs(sources["folder"], OUTPUT / "codes" / "folder", MODEL, picture)
    print(f"\nOriginals beside what their codes decode to: {picture} (mean PSNR {score:.1f} dB)")
    print(f"Sources and codes are in {OUTPUT}/; it took {time.monotonic() - started:.0f} s.")
    print(f"Open {tars}/report.html in a browser: what the codes are worth, on one page.")
    return 0


def vqpipe(*arguments: str) -> None:
    """Runs one command as a user would, showing it first."""
    print(f"\n$ vqpipe {shlex.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "vqpipe", *arguments], check=True)  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
