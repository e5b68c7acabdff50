"""`detect`: the program, collected from the commands of this package's rooms. Imports no torch."""

from __future__ import annotations

import sys
from pathlib import Path
from runpy import run_path

try:
    run_path(str(Path(__file__).resolve().parents[1] / "shared" / "neighbors.py"))["check"]()
except ImportError as hidden:
    sys.exit(f"detect: {hidden}")

from shared.recipes.commands import program

main = program("detect", "detection", first=("train", "eval", "predict", "report", "list"))

if __name__ == "__main__":
    sys.exit(main())
