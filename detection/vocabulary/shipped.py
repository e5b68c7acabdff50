"""The vectors that come with the program: CLIP's for the names of COCO, Objects365 and LVIS, for any machine.

recipes/vocabularies/clip_rn50.safetensors      model clip:RN50, 1024 wide, the mean over 81 sentences
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from detection.vocabulary.table import Vocabulary
from shared.recipes.files import recipe_folder

CLIP = "clip:RN50"
TABLES = {CLIP: "clip_rn50.safetensors"}


def table_path(model: str) -> Path:
    return recipe_folder() / "vocabularies" / TABLES[model]


@cache
def shipped(model: str) -> Vocabulary | None:
    """The vocabulary of a text model that comes with the program; None if there is none of that model."""
    return Vocabulary.read(table_path(model)) if model in TABLES else None
