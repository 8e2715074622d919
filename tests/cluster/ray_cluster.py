"""A Ray cluster of several nodes on this machine, on loopback only; each node can be lost.

Each node is the tree of one process of its own, so that a test kills it as a machine dies: at once,
and by process id. `ray start` is no help: it refuses a second node on 127.0.0.1.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile

import psutil

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Environment of nodes and drivers; else Ray takes the machine's own address for 127.0.0.1."""


class Node:
    """One node; resources are those of Ray's `RayParams`, such as `num_cpus`."""

    def __init__(self, temp_dir, gcs_address=None, **resources):
        asked = {"temp_dir": temp_dir, "gcs_address": gcs_address, **resources}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.ray_cluster", json.dumps(asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **LOOPBACK},
            text=True,
        )
        self.gcs_address = self._process.stdout.readline().strip()
        if not self.gcs_address:
            raise RuntimeError(self._process.communicate()[1])

    def processes(self):
        """Returns the node's processes that are alive, workers and their children included."""
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self):
        """Ends all of it as the loss of a machine does."""
        processes = self.processes()
        for process in processes:  # none may act upon the death of another
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        for process in {*processes, *self.processes()}:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.communicate()
        _, alive = psutil.wait_procs(processes, timeout=30)
        assert not alive, alive

    def kill_head(self):
        """Ends the head alone: the process that knows the cluster."""
        (head,) = (each for each in self.processes() if each.name() == "gcs_server")
        head.kill()


class RayCluster:
    """A context manager: a head without cores, and the nodes that are added to it."""

    def __enter__(self):
        self._temp_dir = tempfile.mkdtemp(prefix="vq")  # short: sockets lie in it
        self.nodes = []
        try:
            self.head = self.add(num_cpus=0)
        except BaseException:
            self.__exit__()
            raise
        self.address = self.head.gcs_address
        return self

    def add(self, **resources):
        """Starts a node that joins; the first is the head."""
        head = self.nodes[0].gcs_address if self.nodes else None
        self.nodes.append(Node(self._temp_dir, head, **resources))
        return self.nodes[-1]

    def __exit__(self, *_):
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self._temp_dir, ignore_errors=True)


def main(asked):
    """Runs one node until standard input ends."""
    from infra.demo.provider import choose_ports
    from ray._private import node, parameter

    choose_ports()
    is_head = asked["gcs_address"] is None
    params = parameter.RayParams(
        node_ip_address="127.0.0.1",
        include_dashboard=False,
        include_log_monitor=False,
        object_store_memory=300 * 2**20,
        min_worker_port=0,
        max_worker_port=0,
        node_manager_port=0,
        **asked,
    )
    started = node.Node(params, head=is_head, shutdown_at_exit=True, spawn_reaper=True)
    print(started.gcs_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
