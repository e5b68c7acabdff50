"""Collapse measures: std, covariance and rank of the feature vectors of many images.

    vectors (N, D) -> directions -> count, sum and products, summed over batches and processes -> the measures

The norm of a vector does not affect its cosines, so every vector is first scaled to norm sqrt(D), which makes the
measures comparable between networks, layers and epochs:

    std          standard deviation of a dimension over the images, mean over the dimensions.  0 if all images have the
                 same direction, 1 if directions are spread evenly; the measure of Chen, He, "Exploring Simple Siamese
                 Representation Learning", 2021, times sqrt(D)
    covariance   the covariance term of Bardes, Ponce, LeCun, "VICReg", 2022: squares of the covariances between
                 different dimensions, their sum over D.  0 if the dimensions are uncorrelated
    rank         RankMe of Garrido, Balestriero, Najman, LeCun, 2023: exp of the entropy of the singular values of the
                 (N, D) matrix, not centered.  Effective rank: from 1 to D

A collapse is reported for std below 0.02 (image directions within about a degree), or rank below 2. Randomly
initialized networks are far above (std 0.28 to 0.97, rank 20 to 200 for eight of them). A backbone with batch norm
cannot fall that far: if VICReg is trained without its variance term, its expander collapses within an epoch, while
the three measures of the backbone stay in the normal range. So for methods with `Method.embed`, the standard
deviation of the embedding must also be at least a tenth of its target.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.devices import dist

LEAST_STD, LEAST_RANK, LEAST_SHARE = 0.02, 2.0, 0.1


class Health(NamedTuple):
    """The three measures."""

    std: float
    covariance: float
    rank: float


class Moments:
    """Moments of N vectors: count, sum (D,) and products (D, D), in float64."""

    def __init__(self, width: int, device: torch.device | None = None) -> None:
        self.count = 0
        self.sum = torch.zeros(width, dtype=torch.float64, device=device)
        self.products = torch.zeros(width, width, dtype=torch.float64, device=device)

    def add(self, vectors: Tensor) -> None:
        """Add vectors (N, D)."""
        vectors = vectors.double()
        self.count += len(vectors)
        self.sum += vectors.sum(0)
        self.products += vectors.T @ vectors

    def over_processes(self) -> Moments:
        """The sum over all processes."""
        whole = Moments(len(self.sum))
        for count, total, products in dist.gather((self.count, self.sum.cpu(), self.products.cpu())):
            whole.count, whole.sum, whole.products = whole.count + count, whole.sum + total, whole.products + products
        return whole

    def covariance(self) -> Tensor:
        """(D, D), over N - 1."""
        spread = self.products - self.sum[:, None] * self.sum / max(self.count, 1)
        return spread / max(self.count - 1, 1)


def health(vectors: Tensor, rows: int = 4096) -> Health:
    """This process's share of the vectors (N, D) -> the measures over all processes."""
    moments = Moments(vectors.shape[1], vectors.device)
    for part in directions(vectors).split(rows):
        moments.add(part)
    return health_of(moments.over_processes())


def directions(vectors: Tensor) -> Tensor:
    """(N, D) -> vectors scaled to norm sqrt(D); zero vectors stay 0."""
    return F.normalize(vectors.double(), dim=1) * vectors.shape[1] ** 0.5


def health_of(moments: Moments) -> Health:
    covariance = moments.covariance()
    variances = covariance.diagonal().clamp(min=0)
    between = covariance.square().sum() - covariance.diagonal().square().sum()
    return Health(
        std=float(variances.sqrt().mean()),
        covariance=float(between.clamp(min=0) / len(covariance)),
        rank=effective_rank(moments.products),
    )


def effective_rank(products: Tensor) -> float:
    """(D, D) products Z^T Z of some vectors Z -> exp of the entropy of Z's singular values, each over their sum."""
    values = torch.linalg.eigvalsh(products).clamp(min=0).sqrt()
    shares = values[values > 1e-6 * values.max()] / values.sum()
    return float(torch.special.entr(shares).sum().exp()) if len(shares) else 0.0


@torch.no_grad()
def deviation(embed: Callable[[Tensor], Tensor | None], vectors: Tensor, rows: int = 4096) -> float | None:
    """Pooled vectors (N, D) -> mean standard deviation of a method's embeddings, over all processes.

    Args:
        embed: (N, D) -> (N, E), or None for methods without embeddings.
    """
    parts = [embed(part) for part in vectors.split(rows)]
    if parts[0] is None:
        return None
    made = torch.cat([part for part in parts if part is not None]).double()
    sums = (len(made), made.sum(0).cpu(), made.square().sum(0).cpu())
    count, total, squares = (sum(column) for column in zip(*dist.gather(sums), strict=True))
    variances = torch.as_tensor((squares - total**2 / max(count, 1)) / max(count - 1, 1))
    return float(variances.clamp(min=0).sqrt().mean())


def collapse(found: Health, width: int, compared: float | None) -> str | None:
    """A warning if the representation has collapsed, else None.

    Args:
        found: measures of the backbone's vectors.
        width: their dimensions.
        compared: standard deviation of the method's embeddings relative to its target; None if it has none.
    """
    if found.std < LEAST_STD or found.rank < LEAST_RANK:
        return (
            f"the representation has collapsed: images share one direction (std {found.std:.2g} of at most 1, "
            f"rank {found.rank:.1f} of {width}); lower --lr, or increase the weight of the term against collapse"
        )
    if compared is not None and compared < LEAST_SHARE:
        return (
            f"the representation has collapsed: the standard deviation of the embeddings is {compared:.2g}, "
            f"its target 1; increase the weight of the variance term, or lower --lr"
        )
    return None
