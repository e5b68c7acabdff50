"""An export in the store."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared.weights.card import Card, Exported
from shared.weights.store import Store
from tests.shared.weights.of_exports import network


@pytest.fixture
def exported(store: Store, card: Callable[..., Card]) -> Exported:
    return store.put(network(seed=1), card())
