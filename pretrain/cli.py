"""`pretrain`: the program, made of the commands that the rooms of this package declare. Imports no torch."""

from __future__ import annotations

import sys
from pathlib import Path
from runpy import run_path

try:
    run_path(str(Path(__file__).resolve().parents[1] / "shared" / "neighbors.py"))["check"]()
except ImportError as hidden:
    sys.exit(f"pretrain: {hidden}")

from shared.recipes.commands import program

main = program("pretrain", "pretrain", first=("train", "eval", "list", "pack"))

if __name__ == "__main__":
    sys.exit(main())
