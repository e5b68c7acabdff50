"""Weighted nearest neighbors and collapse measures of a frozen backbone.

    images -> center crop -> backbone in eval mode -> vectors (N, D) with labels
    query  -> its k most similar vectors of the bank, by cosine -> each votes exp(cosine / temperature) for its class

Wu, Xiong, Yu, Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", 2018, temperature 0.07;
k 20 as in Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021. Bank and queries are
distributed over the processes.

`Probe` implements `--probe` during training. It restores train and eval modes and does not change running statistics.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from pretrain.methods import Method
from pretrain.probing.health import collapse, deviation, health
from shared.devices import dist
from shared.devices.ahead import ahead
from shared.errors import UsageError
from shared.feeding.pixels import Normalize, PixelStats

log = logging.getLogger(__name__)
K, TEMPERATURE = 20, 0.07
AT_ONCE = 2**26  # similarities in memory at a time


class Vectors(NamedTuple):
    """This process's share of the vectors (N, D) float32 and labels (N,)."""

    values: Tensor
    labels: Tensor

    def of_all(self) -> Vectors:
        """The vectors of all processes, gathered in each."""
        gathered = dist.gather((self.values.cpu(), self.labels.cpu()))
        values, labels = (torch.cat(column).to(self.values.device) for column in zip(*gathered, strict=True))
        return Vectors(values, labels)


class Probe:
    """Nearest neighbors and collapse measures during training, on the same images every time.

    Args:
        bank, queries: re-iterable batches of labeled images, this process's share.
        num_classes: of both.
        pixels: pixel mean and std of the backbone.
        device: of the backbone.
        k: number of neighbors.
    """

    def __init__(
        self,
        bank: Iterable[Any],
        queries: Iterable[Any],
        num_classes: int,
        pixels: PixelStats,
        device: torch.device,
        k: int = K,
    ) -> None:
        self.bank, self.queries, self.num_classes, self.k = bank, queries, num_classes, k
        self.normalize, self.device = Normalize(pixels).to(device), device

    def __call__(self, task: Method) -> dict[str, float]:
        """knn, std, covariance, rank and, for methods with embeddings, embedding_std; logs a warning on collapse."""
        with torch.no_grad(), eval_mode(task):
            backbone: Any = task.exports()["backbone"]
            bank, queries = (
                vectors_of(backbone, self.normalize, batches, self.device) for batches in (self.bank, self.queries)
            )
            compared = deviation(task.embed, bank.values)
        metrics = nearest_neighbors(bank, queries, self.num_classes, k=self.k)
        found = health(bank.values)
        warning = collapse(found, backbone.width, compared)
        if warning and dist.is_main():
            log.warning("%s", warning)
        more = {} if compared is None else {"embedding_std": compared}
        return {"knn": metrics["knn"], **found._asdict(), **more}


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Context in eval mode; restores the mode of every submodule."""
    modes = [(part, part.training) for part in module.modules()]
    module.train().eval()  # via train mode, in which TinyViT drops its cached attention biases
    try:
        yield
    finally:
        module.train()
        for part, training in modes:
            part.training = training


@torch.no_grad()
def vectors_of(backbone: Backbone, normalize: nn.Module, batches: Iterable[Any], device: torch.device) -> Vectors:
    """Batches of (images (B, 3, H, W) uint8, labels (B,)) -> pooled vectors. The backbone must be in eval mode."""
    values, labels = [torch.zeros(0, backbone.width, device=device)], [torch.zeros(0, dtype=torch.int64, device=device)]
    for images, classes in ahead(batches, device):
        values.append(backbone(normalize(images)).float())
        labels.append(classes)
    return Vectors(torch.cat(values), torch.cat(labels))


def check_k(k: int, bank: int, flag: str = "--k") -> None:
    if k > bank:
        raise UsageError(f"{k} nearest neighbors are more than the {bank} images; give a smaller {flag}")


def nearest_neighbors(
    bank: Vectors, queries: Vectors, num_classes: int, *, k: int = K, temperature: float = TEMPERATURE
) -> dict[str, float]:
    """Accuracy of the votes: top-1 (`knn`) and, with more than five classes, top-5 (`knn_top5`)."""
    queries = queries.of_all()
    with torch.autocast(bank.values.device.type, enabled=False):  # bfloat16 is too coarse for cosine / 0.07
        votes = knn_votes(bank, queries.values, num_classes, k=k, temperature=temperature)
    return shares_right(votes, queries.labels.to(votes.device), "knn")


def knn_votes(bank: Vectors, queries: Tensor, num_classes: int, *, k: int, temperature: float) -> Tensor:
    """Queries (Q, D) -> votes (Q, num_classes), -inf for classes without votes; both are the same in every process.

    Args:
        bank: this process's share; the k nearest are over all shares.
    """
    values = F.normalize(bank.values)
    rows = max(1, AT_ONCE // max(len(values), 1))
    found = [nearest(values, bank.labels, F.normalize(part), k) for part in queries.split(rows)]
    mine = tuple(torch.cat(column).cpu() for column in zip(*found, strict=True))
    cosines, labels = (torch.cat(column, 1) for column in zip(*dist.gather(mine), strict=True))
    cosines, places = cosines.topk(k, 1)
    votes = torch.zeros(len(queries), num_classes)
    votes.scatter_add_(1, labels.gather(1, places), (cosines / temperature).exp())
    return votes.masked_fill_(votes == 0, -torch.inf)


def nearest(values: Tensor, labels: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Unit vectors (N, D) with labels (N,), unit queries (Q, D) -> cosines (Q, k) and labels (Q, k) of the nearest."""
    cosines, places = (queries @ values.T).topk(min(k, len(values)), 1)
    return cosines, labels[places]


def shares_right(scores: Tensor, labels: Tensor, name: str) -> dict[str, float]:
    """Scores (N, K), labels (N,) -> top-1 accuracy as `name` and, with more than five classes, top-5."""
    best = scores.topk(min(5, scores.shape[1]), 1)
    right = (best.indices == labels[:, None]) & (best.values > -torch.inf)
    count = max(len(labels), 1)
    shares = {name: int(right[:, 0].sum()) / count}
    return shares | ({f"{name}_top5": int(right.sum()) / count} if scores.shape[1] > 5 else {})
