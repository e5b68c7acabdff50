"""`detect`: the program, collected from the commands of this package's rooms. Imports no torch."""

from __future__ import annotations

import sys

from shared.recipes.commands import program

main = program("detect", "detection", first=("train", "eval", "predict", "report", "list"))

if __name__ == "__main__":
    sys.exit(main())
