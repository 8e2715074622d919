"""A Ray cluster on this machine whose autoscaler starts nodes as they are asked for, and ends them.

A head without cores, on loopback only, and Ray's own autoscaler (v2, as on Kubernetes) with its
provider of make-believe nodes: each is a raylet of its own with the resources that it is said to
have. `ray.cluster_utils.AutoscalingCluster` would do the same on all interfaces, and begins by
stopping every Ray of the machine.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
from ray._private.state import GlobalState
from ray._raylet import GcsClientOptions

from vqpipe.engine import reaper

_HEAD = "f" * 51 + "00000"
"""What the provider takes the head's id to be."""
_HEAD_TYPE = "ray.head.default"
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Environment of nodes and drivers; else Ray takes the machine's own address for 127.0.0.1."""
_ENVIRONMENT = {
    **LOOPBACK,
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": _HEAD,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_raylet_start_wait_time_s": "300",  # on a busy machine, half a minute is too short
}
_SHORT = {"prefix": "vq", "dir": "/tmp", "ignore_cleanup_errors": True}  # noqa: S108
"""A folder whose name leaves room for the paths of Ray's sockets."""
_STORE_BYTES = 300 * 2**20


@dataclass(frozen=True)
class NodeType:
    """What nodes of a kind have, and how many of them there may be."""

    resources: Mapping[str, float]
    most: int
    labels: Mapping[str, str] | None = None


class AutoscaledCluster:
    """A context manager: the head, and the nodes that its autoscaler starts."""

    def __init__(self, kinds: Mapping[str, NodeType], idle_s: float = 60.0) -> None:
        """Describes a cluster.

        Args:
            kinds: Of nodes, by name.
            idle_s: Seconds after which a node without work is ended.
        """
        self._kinds, self._idle_s = kinds, idle_s
        self._stack = contextlib.ExitStack()
        self._state = GlobalState()
        self.environment = LOOPBACK
        """For commands that join it."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            mark = stack.enter_context(reaper.leave_nothing())
            folder = stack.enter_context(tempfile.TemporaryDirectory(**_SHORT))
            if not self._start(Path(folder), mark):
                raise RuntimeError(self._end())
            self._state._initialize_global_state(  # noqa: SLF001 (as `ray.cluster_utils` does)
                GcsClientOptions.create(self.address, None, True, True)  # noqa: FBT003 (positional)
            )
            self._stack = stack.pop_all()
        return self

    def _start(self, folder: Path, mark: Mapping[str, str]) -> bool:
        """Starts the head; tells whether it is there."""
        port = _free_port()
        self.address = f"127.0.0.1:{port}"
        config = folder / "autoscaler.json"
        config.write_text(json.dumps(self._config()))
        self._head = subprocess.Popen(  # noqa: S603 (this very file, no shell)
            [sys.executable, "-m", __spec__.name, str(folder), str(port), str(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **_ENVIRONMENT, **mark, "PYTHONPATH": _describe_path()},
            text=True,
        )
        assert self._head.stdout
        return bool(self._head.stdout.readline())

    def _end(self) -> str:
        """Ends head, autoscaler and thus all nodes; returns what the head said last."""
        for process in _tree(self._head.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return self._head.communicate()[1]

    def __exit__(self, *_: object) -> None:
        self._state.disconnect()
        self._end()
        self._stack.close()  # what is left by then, and the folder

    def _config(self) -> dict[str, Any]:
        """Returns what the autoscaler is told."""
        kinds: dict[str, Any] = {
            name: {
                "resources": {"object_store_memory": _STORE_BYTES, **kind.resources},
                "labels": dict(kind.labels or {}),
                "node_config": {},
                "min_workers": 0,
                "max_workers": kind.most,
            }
            for name, kind in self._kinds.items()
        }
        kinds[_HEAD_TYPE] = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
        return {
            "cluster_name": "here",
            "max_workers": sum(kind.most for kind in self._kinds.values()),
            "provider": {
                "type": "external",  # the name of Ray's own needs a file that wheels lack (2.60)
                "module": "infra.demo.provider.Provider",
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
                "launch_multiple": True,
                "head_node_id": _HEAD,
                "gcs_address": self.address,
            },
            "available_node_types": kinds,
            "head_node_type": _HEAD_TYPE,
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": self._idle_s / 60,
            **{name: {} for name in ("auth", "docker", "file_mounts")},
            **{name: [] for name in _COMMANDS},
        }

    def nodes(self) -> list[dict[str, Any]]:
        """Returns the nodes that are alive, as Ray describes them; the head is one."""
        return [each for each in self._state.node_table() if each["Alive"]]

    def processes(self, node_id: str) -> list[psutil.Process]:
        """Returns the processes of a node: its raylet, and what that has started."""
        raylets = (each for each in _tree(self._head.pid) if _is_raylet(each, node_id))
        return [each for raylet in raylets for each in _tree(raylet.pid)]

    def kill_node(self, node_id: str) -> None:
        """Ends a node as the loss of its machine does: all its processes at once."""
        processes = self.processes(node_id)
        for act in (psutil.Process.suspend, psutil.Process.kill):  # none acts on another's end
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    act(process)


_COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
)


def _describe_path() -> str:
    """Returns where the autoscaler, a script of Ray's, finds this package."""
    here = str(Path(__file__).parents[2])
    return os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))


def _tree(pid: int) -> list[psutil.Process]:
    """Returns a process and all that it has started."""
    found: dict[int, psutil.Process] = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        found = {each.pid: each for each in (root, *root.children(recursive=True))}
    return list(found.values())


def _is_raylet(process: psutil.Process, node_id: str) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.name() == "raylet" and any(node_id in word for word in process.cmdline())
    return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main(folder: str, port: str, config: str) -> None:
    """Runs the head until standard input ends."""
    from ray._private import node, parameter  # noqa: PLC0415 (with the environment from above)

    from infra.demo.provider import choose_ports  # noqa: PLC0415

    choose_ports()
    params = parameter.RayParams(
        temp_dir=folder,
        gcs_server_port=int(port),
        node_ip_address="127.0.0.1",
        num_cpus=0,
        num_gpus=0,
        include_dashboard=False,
        include_log_monitor=False,
        object_store_memory=_STORE_BYTES,
        min_worker_port=0,
        max_worker_port=0,
        node_manager_port=0,
        autoscaling_config=config,
    )
    started = node.Node(params, head=True, shutdown_at_exit=True, spawn_reaper=True)
    print(started.gcs_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
