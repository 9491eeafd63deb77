"""Train as one of two nodes that share this machine's GPU: FOLDER NODE PORT key=value …

NCCL refuses two processes on one device, so they exchange gradients through gloo.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry

from support.replicas import train

if __name__ == "__main__":
    folder, node, port, *words = sys.argv[1:]
    StrategyRegistry.register("ddp_gloo", DDPStrategy, process_group_backend="gloo")
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "NODE_RANK": node,
        "GROUP_RANK": node, "RANK": node, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
        "TORCHELASTIC_RUN_ID": "shared",
    }  # fmt: skip
    more = ["trainer.strategy=ddp_gloo", "trainer.num_nodes=2", "trainer.devices=1"]
    sys.exit(train(Path(folder), [*words, *more]))
