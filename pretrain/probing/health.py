"""Is the representation alive?  Three numbers about the vectors of many images, and a sentence when it has collapsed.

    vectors (N, D) -> directions -> count, sum and products, added up over batches and processes -> the numbers

How long a vector is a network may choose freely, and a cosine does not see it. So every vector is first scaled to
length sqrt(D), which makes the numbers comparable between networks, layers and moments of a run:

    std          deviation of a dimension over the images, mean over the dimensions.  0 when all images have one
                 direction, 1 when directions fill the space evenly; the measure of Chen, He, "Exploring Simple Siamese
                 Representation Learning", 2021, times sqrt(D)
    covariance   the covariance term of Bardes, Ponce, LeCun, "VICReg", 2022: squares of the covariances between
                 different dimensions, their sum over D.  Redundancy: 0 when every dimension says something else
    rank         RankMe of Garrido, Balestriero, Najman, LeCun, 2023: exp of the entropy of the singular values of the
                 (N, D) matrix, which is not centered.  Directions in use: from 1 to D

What is a collapse?  Cosines that no longer differ: std under 0.02 (directions of images are a degree apart), or fewer
than two directions in use. Networks at random weights lie far above (std 0.28 to 0.97, rank 20 to 200 for eight of
them), so it is no matter of being untrained. But a backbone with batch norm, which forces its layers to vary, cannot
fall that far: when VICReg is trained without its variance term, the expander behind it shrinks everything to a point
within an epoch, and the backbone merely stops learning, its own three numbers within the range of healthy ones. So
where a method says what its loss compares (`Method.embed`), that must vary, too: by a tenth of what the method aims at.
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
    """The three numbers."""

    std: float
    covariance: float
    rank: float


class Moments:
    """What is kept of N vectors, however many: their number, the sum (D,) and the products (D, D), in float64."""

    def __init__(self, width: int, device: torch.device | None = None) -> None:
        self.count = 0
        self.sum = torch.zeros(width, dtype=torch.float64, device=device)
        self.products = torch.zeros(width, width, dtype=torch.float64, device=device)

    def add(self, vectors: Tensor) -> None:
        """(N, D) more vectors."""
        vectors = vectors.double()
        self.count += len(vectors)
        self.sum += vectors.sum(0)
        self.products += vectors.T @ vectors

    def over_processes(self) -> Moments:
        """Those of all processes as one."""
        whole = Moments(len(self.sum))
        for count, total, products in dist.gather((self.count, self.sum.cpu(), self.products.cpu())):
            whole.count, whole.sum, whole.products = whole.count + count, whole.sum + total, whole.products + products
        return whole

    def covariance(self) -> Tensor:
        """(D, D), over N - 1."""
        spread = self.products - self.sum[:, None] * self.sum / max(self.count, 1)
        return spread / max(self.count - 1, 1)


def health(vectors: Tensor, rows: int = 4096) -> Health:
    """This process's share of the vectors, (N, D) -> the numbers over all processes."""
    moments = Moments(vectors.shape[1], vectors.device)
    for part in directions(vectors).split(rows):
        moments.add(part)
    return health_of(moments.over_processes())


def directions(vectors: Tensor) -> Tensor:
    """(N, D) -> the same directions at length sqrt(D); what has no length stays 0."""
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
    """Pooled vectors (N, D) -> deviation of what a method's loss compares, mean over dimensions, over all processes.

    Args:
        embed: (N, D) -> (N, E), or None where the loss compares no such vectors.
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
    """A sentence when the representation tells images apart no longer, None when it is alive.

    Args:
        found: health of the backbone's vectors.
        width: their dimensions.
        compared: deviation of what the loss compares, in units of what it aims at; None where it compares none.
    """
    if found.std < LEAST_STD or found.rank < LEAST_RANK:
        return (
            f"the representation has collapsed: images share one direction (std {found.std:.2g} of at most 1, "
            f"rank {found.rank:.1f} of {width}); lower --lr, or give weight to what keeps images apart"
        )
    if compared is not None and compared < LEAST_SHARE:
        return (
            f"the representation has collapsed: what the loss compares deviates between images by {compared:.2g}, "
            f"where it aims at 1; give weight to its variance term, or lower --lr"
        )
    return None
