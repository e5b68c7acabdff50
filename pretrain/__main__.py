"""`python -m pretrain`, for launchers that want a module: `torchrun --nproc_per_node=2 -m pretrain train ...`."""

import sys

from pretrain.cli import main

if __name__ == "__main__":
    sys.exit(main())
