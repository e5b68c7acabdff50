"""`detect`: the program, made of the commands that the rooms of this package declare. Imports no torch."""

from __future__ import annotations

import sys

from shared.recipes.commands import program

main = program("detect", "detection", first=("train", "eval", "predict", "report", "list"))

if __name__ == "__main__":
    sys.exit(main())
