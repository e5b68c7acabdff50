"""`detect audit`: the detector, the data and the feed of a run, as `detect train` made them."""

from __future__ import annotations

import numpy as np

from detection.recipe import run_stem
from detection.training.train import feed_of, made_of
from shared.recipes.recipe import Resolved
from shared.runs.audit import Prepared
from shared.runs.session import Session
from shared.weights.store import Store


def prepare(resolved: Resolved) -> Prepared:
    """Build what the recipe trains.

    Raises:
        WeightsError: weights that it started from are not there.
        DataError: the data is not there.
    """
    session = Session(resolved, stem=run_stem(resolved.recipe), command="detect train")
    made = made_of(session, Store(resolved.recipe.runtime.weights_dir))
    marks = np.concatenate([images.photographs.marks for images in made.data.trains])
    return Prepared(session, made.task, feed_of(session, made.data), marks)
