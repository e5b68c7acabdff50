"""`python -m detection`, for launchers that want a module: `torchrun --nproc_per_node=2 -m detection train ...`."""

import sys

from detection.cli import main

if __name__ == "__main__":
    sys.exit(main())
