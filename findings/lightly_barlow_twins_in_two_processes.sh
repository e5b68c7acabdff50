#!/usr/bin/env bash
# lightly's BarlowTwinsLoss(gather_distributed=True) is not the loss of the whole batch: every process normalizes its own part.
#
# The option sums the cross-correlations of all processes, but each comes from embeddings that were normalized with the
# mean and deviation of the process's own images. The paper's normalization is over the batch; its authors make it one over
# all processes with synchronized batch norm. So the loss of the same images depends on how many processes share them,
# and the more, the smaller each one's part, the further from it: without an error, and unlike lightly's VICReg, which
# gathers the embeddings first.
#
# Seen 2026-11-30 with torch 2.14.1, lightly 1.6.0, 16 embeddings of width 32, gathered over processes on a CPU:
#   1 process 1.04, 2 processes 1.15, 4 processes 1.43
#
# Fails if processes give the loss of one.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 lightly==1.6.0
cat > "$place/shared_batch.py" << 'PYTHON'
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from lightly.loss import BarlowTwinsLoss

PLACE = Path(sys.argv[1])


def loss_of_part(rank, count):
    torch.manual_seed(0)
    z = torch.randn(16, 32)
    pair = z, z + 0.5 * torch.randn(16, 32)
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{PLACE}/meeting-{count}", rank=rank, world_size=count)
    part = slice(rank * 16 // count, (rank + 1) * 16 // count)
    loss = BarlowTwinsLoss(gather_distributed=count > 1)(*(each[part] for each in pair))
    if rank == 0:
        (PLACE / f"loss-{count}").write_text(repr(loss.item()))
    if count > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    for count in (1, 2, 4):
        processes.spawn(loss_of_part, (count,), count)
    losses = {count: float((PLACE / f"loss-{count}").read_text()) for count in (1, 2, 4)}
    print(", ".join(f"{n} {'process' if n == 1 else 'processes'} {loss:.2f}" for n, loss in losses.items()))
    sys.exit(not all(abs(losses[count] - losses[1]) > 0.01 * losses[1] for count in (2, 4)))
PYTHON
"$place/env/bin/python" -W ignore "$place/shared_batch.py" "$place"
