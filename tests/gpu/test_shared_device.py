"""Two processes that share one GPU, as two nodes do, across an unfreeze."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import torch

from support.apart import ends
from support.tiny import TINY, TWO_UNFREEZES

NODE = Path(__file__).with_name("node.py")


def find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_two_nodes_end_with_the_same_network(tmp_path):
    words = [*TINY, *TWO_UNFREEZES, "trainer=gpu", "callbacks=none", f"run_dir={tmp_path / 'run'}"]
    port = str(find_free_port())
    nodes = [
        subprocess.Popen(
            [sys.executable, NODE, tmp_path / "replicas", str(number), port, *words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        said = [node.communicate(timeout=240)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(said)
    first, second = ends(tmp_path)
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
    assert len(first["optimizer"]["state"]) > 0
