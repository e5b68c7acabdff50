"""`pretrain audit`: the method, the data and the feed of a run, as `pretrain train` made them."""

from __future__ import annotations

from pretrain.data.digests import seen_in
from pretrain.recipe import run_stem
from pretrain.training.train import made_of
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
    session = Session(resolved, stem=run_stem(resolved.recipe), command="pretrain train")
    made = made_of(session, Store(resolved.recipe.runtime.weights_dir))
    digests = seen_in(made.data.train)
    feed = session.feed(made.data.train, beside=made.task.beside())
    return Prepared(session, made.task, feed, None if digests is None else digests[:, 0])
