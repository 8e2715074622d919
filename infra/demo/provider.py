"""Nodes in name for Ray's autoscaler, that start on a busy machine as well.

A raylet (Ray 2.60) waits 15 s for its agents to write down which ports they have, and then ends
itself; a process of Python that has just been started may take longer. So ports are chosen here,
and stand there before.
"""

import socket
from pathlib import Path
from typing import Any

from ray._private.node import Node
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

_PORTS = (
    "dashboard_agent_listen_port",
    "metrics_agent_port",
    "metrics_export_port",
    "runtime_env_agent_port",
)
_start_raylet = Node.start_raylet


def _start_raylet_with_ports(node: Any, *given: Any) -> None:  # noqa: ANN401 (as Ray's own)
    folder = Path(node.get_session_dir_path())
    for name, port in _free_ports().items():
        setattr(node._ray_params, name, port)  # noqa: SLF001
        (folder / f"{name}_{node.node_id}").write_text(str(port))
    _start_raylet(node, *given)


def _free_ports() -> dict[str, int]:
    """Returns a free port for each of a node's agents, by Ray's names."""
    listeners = [socket.socket() for _ in _PORTS]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    found = {name: each.getsockname()[1] for name, each in zip(_PORTS, listeners, strict=True)}
    for listener in listeners:
        listener.close()
    return found


def choose_ports() -> None:
    """Has ports chosen before for all nodes that are started in this process."""
    Node.start_raylet = _start_raylet_with_ports


class Provider(FakeMultiNodeProvider):  # type: ignore[misc]
    """Ray's own provider of nodes in name."""

    def __init__(self, *given: Any) -> None:  # noqa: ANN401 (as Ray's own)
        choose_ports()
        super().__init__(*given)
