"""The demo of a cluster: no machine at first, others come as they are asked for, and one is lost.

python -m infra.demo.cluster

A head without cores starts on this machine. `vqpipe encode` asks it for machines, and Ray's
autoscaler brings them: one that opens images, and others whose GPU is one in name, so that they
encode on their CPU. In the middle of the run one of these is killed, as spot machines are.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from infra.demo.autoscaled import AutoscaledCluster, NodeType
from infra.demo.run import MODEL, OUTPUT, vqpipe
from infra.demo.samples import build_photos

KINDS = {
    "cpu": NodeType({"CPU": 2}, most=1),
    "gpu": NodeType({"CPU": 0, "GPU": 1}, most=2, labels={"pool": "codes"}),
}
PHOTOS, SHARDS = 2400, 24
OPTIONS = (
    *("--resolution", "64", "--batch-size", "8"),
    *("--codec-resources", "GPU=1", "--codec-labels", "pool=codes"),
)
_POLL_S = 0.5
_DIGITS = 6
"""Of an id, as the summary of a run has them behind a machine's address."""


def main() -> int:
    """Runs the demo from nothing and says what happened."""
    folder = OUTPUT / "cluster"
    shutil.rmtree(folder, ignore_errors=True)
    print(f"Building {SHARDS} shards of {PHOTOS} photos ...")
    build_photos(folder / "source", PHOTOS, SHARDS)
    with AutoscaledCluster(KINDS) as cluster:
        print(f"A Ray cluster without any cores listens on {cluster.address}.\n", flush=True)
        code = _run(cluster, folder)
    if code:
        return code
    vqpipe("verify", str(folder / "codes"))
    print(f"\nCodes are in {folder}/codes; every photo is there once, though a machine was lost.")
    return 0


def _run(cluster: AutoscaledCluster, folder: Path) -> int:
    """Encodes, and tells of machines as they come and go; returns the exit code."""
    places = ("--source", folder / "source", "--sink", folder / "codes", "--model", MODEL)
    words = [*map(str, places), *OPTIONS, "--address", cluster.address]
    print(f"$ vqpipe encode {' '.join(words)}", flush=True)
    started = time.monotonic()
    process = subprocess.Popen(  # noqa: S603 (this very program)
        [sys.executable, "-m", "vqpipe", "encode", *words],
        env={**os.environ, **cluster.environment},
    )
    watcher = threading.Thread(
        target=_watch, args=(cluster, folder / "codes", process, started), daemon=True
    )
    watcher.start()
    code = process.wait()
    watcher.join()
    return code


def _watch(
    cluster: AutoscaledCluster, sink: Path, process: "subprocess.Popen[bytes]", started: float
) -> None:
    """Tells which machines there are until the command ends, and takes one away in the middle."""
    before: dict[str, str] = {}
    is_lost = False
    while process.poll() is None:
        now = _machines(cluster)
        for node_id in now.keys() - before.keys():
            _say(started, f"machine {node_id[-_DIGITS:]} has come: {now[node_id]}")
        for node_id in before.keys() - now.keys():
            _say(started, f"machine {node_id[-_DIGITS:]} is gone")
        before = now
        gpus = [node_id for node_id, has in now.items() if "GPU" in has]
        if not is_lost and len(gpus) > 1 and list(sink.glob("data/*.parquet")):
            is_lost = True
            cluster.kill_node(gpus[0])
            _say(started, f"machine {gpus[0][-_DIGITS:]} is killed, as if it had been reclaimed")
        time.sleep(_POLL_S)


def _machines(cluster: AutoscaledCluster) -> dict[str, str]:
    """Returns what each machine has, by Ray's id, without the head, which has nothing."""
    found = {}
    for node in cluster.nodes():
        amounts = {kind: node["Resources"].get(kind, 0) for kind in ("CPU", "GPU")}
        if any(amounts.values()):
            found[node["NodeID"]] = ", ".join(f"{n:g} {kind}" for kind, n in amounts.items() if n)
    return found


def _say(started: float, text: str) -> None:
    print(f"[{time.monotonic() - started:5.1f} s]  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
