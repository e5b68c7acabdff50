"""Classes by name: the cosine of a region's vector and a name's vector is the logit; any names can be asked.

    region's vector f (K, D), name's vectors e (C, D) -> 100 cos(f, e)        no bias, no temperature, no background
    an image's names   those of its own data set, of which some take part in the loss

Wang et al., "Detecting Everything in the Open World: Towards Universal Object Detection", CVPR 2023: each data set is
a part of its own, and its images are compared with its own names only. Its federated subset of the names is that of
Gupta, Dollar, Girshick, "LVIS", 2019, section 4.

Shape letters: I images, B regions of an image, K regions of all images, C names of a data set, D width of the vectors,
A names that take part.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from detection.parts.roi.sampling import BACKGROUND
from detection.types import Target

FACTOR = 100.0  # the temperature CLIP was trained to
NOBODY = -2  # fills up shorter lists of names; neither a label nor background


class Vocabularies(nn.Module):
    """The vectors of the names of each data set, as buffers `vectors_0`, `vectors_1`, ...; random until told others.

    current: the data set by whose names detections are called.

    Args:
        sizes: names of each data set.
        width: D.
    """

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.width, self.current = width, 0
        rng = torch.Generator().manual_seed(0)
        self.speak([F.normalize(torch.randn(size, width, generator=rng)) for size in sizes])

    def __len__(self) -> int:
        return sum(name.startswith("vectors_") for name in self._buffers)

    def vectors(self, dataset: int) -> Tensor:
        """(C, D) of a data set."""
        return self.get_buffer(f"vectors_{dataset}")

    def drawable(self, dataset: int) -> Tensor:
        """(C,) bool: names that may be drawn as negatives."""
        return self.get_buffer(f"drawable_{dataset}")

    def speak(self, vectors: Sequence[Tensor]) -> None:
        """Other names: the vectors (C, D) of each data set replace those here; D is as it was."""
        at = self.vectors(0).device if len(self) else None
        for name in list(self._buffers):
            delattr(self, name)
        for number, of_set in enumerate(vectors):
            if of_set.dim() != 2 or of_set.shape[1] != self.width:
                raise ValueError(f"vectors of shape {tuple(of_set.shape)} are not {self.width} wide")
            self.register_buffer(f"vectors_{number}", of_set.detach().to(at, torch.float32, copy=True))
            everything = torch.ones(len(of_set), dtype=torch.bool, device=at or of_set.device)
            self.register_buffer(f"drawable_{number}", everything, persistent=False)
        self.current = 0

    def draw_only(self, seen: Sequence[Tensor]) -> None:
        """Of each data set (C,) bool: names without a training image are not drawn as negatives."""
        for number, of_set in enumerate(seen):
            self.drawable(number).copy_(of_set)

    def logits(self, regions: Tensor, dataset: int | None = None) -> Tensor:
        """Vectors of regions (K, D) -> (K, C) of a data set, by default the current one; in float32."""
        with torch.autocast(regions.device.type, enabled=False):
            names = self.vectors(self.current if dataset is None else dataset)
            return FACTOR * F.normalize(regions.float()) @ F.normalize(names).t()


def partitioned_loss(
    vocabularies: Vocabularies,
    regions: Tensor,
    labels: list[Tensor],
    targets: list[Target],
    *,
    most: int = 50,
    only_known: bool = False,
) -> Tensor:
    """Binary cross-entropy of every region with the names that take part in its image; the mean over the images.

    An image's loss is summed over its regions and names, and divided by its number of regions. A region without an
    object is no positive of any name, and no negative of names of which not every object is annotated.

    Args:
        regions: vectors (K, D), image after image.
        labels: of each image (B,), in its data set; -1 for background.
        targets: objects of each image, with its data set.
        most, only_known: see `taking_part`.
    """
    with torch.autocast(regions.device.type, enabled=False):
        numbers = [target.get("dataset", 0) for target in targets]
        chosen = [
            taking_part(vocabularies.drawable(number), label, target, most=most, only_known=only_known)
            for number, label, target in zip(numbers, labels, targets, strict=True)
        ]
        vectors = [vocabularies.vectors(number)[names] for number, (names, _) in zip(numbers, chosen, strict=True)]
        names_IA = pad_sequence([names for names, _ in chosen], batch_first=True, padding_value=NOBODY)
        counted_IA = pad_sequence([counted for _, counted in chosen], batch_first=True, padding_value=False)
        labels_IB = pad_sequence(labels, batch_first=True, padding_value=NOBODY)
        counts = [len(label) for label in labels]
        vectors_IDA = FACTOR * F.normalize(pad_sequence(vectors, batch_first=True), dim=2).transpose(1, 2)
        regions_IBD = in_rows(regions.float(), counts)
        # the products are divided, not the regions: a third of the passes over them, forward and backward
        logits_IBA = regions_IBD @ vectors_IDA / regions_IBD.norm(dim=2, keepdim=True).clamp(min=1e-12)
        weights_IBA = (labels_IB != NOBODY)[:, :, None] & counted_IA[:, None]
        vague = [is_among(names, target.get("unfinished")) for (names, _), target in zip(chosen, targets, strict=True)]
        vague_IA = pad_sequence(vague, batch_first=True, padding_value=False)
        weights_IBA = weights_IBA & ~((labels_IB == BACKGROUND)[:, :, None] & vague_IA[:, None])
        true_IBA = (labels_IB[:, :, None] == names_IA[:, None]).float()
        loss_IBA = F.binary_cross_entropy_with_logits(logits_IBA, true_IBA, weights_IBA.float(), reduction="none")
        return (loss_IBA.sum((1, 2)) / regions.new_tensor([max(1, n) for n in counts], dtype=torch.float32)).mean()


def in_rows(regions: Tensor, counts: list[int]) -> Tensor:
    """(K, D) of images with so many regions each -> (I, B, D), shorter rows filled up with 0."""
    if len(set(counts)) == 1:
        return regions.unflatten(0, (len(counts), counts[0]))
    return pad_sequence(list(regions.split(counts)), batch_first=True)


def taking_part(
    drawable: Tensor, labels: Tensor, target: Target, *, most: int, only_known: bool = False
) -> tuple[Tensor, Tensor]:
    """The names that take part in the loss of one image: (A,) labels, and (A,) bool, False for those that only fill up.

    The labels of its regions always do. If they are fewer than `most`, others are drawn at random, none of them twice.
    Names that its file does not annotate, and those of which not every object is annotated, are never drawn. The shapes
    do not depend on values on the device, so nothing waits for it.

    Args:
        drawable: (C,) bool, names that may be drawn.
        labels: (B,) of its regions, negative for background.
        most: names in all; 0 for every name.
        only_known: nothing is drawn: the labels of its objects take part, and those known to be absent. It needs the
            list of those; images without one are as without this.
    """
    absent = target.get("absent") if only_known else None
    size = len(drawable)
    here = torch.zeros(size + 1, dtype=torch.bool, device=drawable.device)
    here[labels.clamp(min=-1)] = True  # the last place is that of background
    if absent is not None:
        here[target["labels"]] = True
        here[absent] = True
    here = here[:size]
    drawn = torch.ones_like(drawable) if most <= 0 else drawable
    if (unfinished := target.get("unfinished")) is not None:
        drawn = drawn.clone()
        drawn[unfinished] = False
    if (known := target.get("known")) is not None:
        drawn = drawn & known
    if absent is not None:
        drawn, room = torch.zeros_like(drawn), len(target["labels"]) + len(absent)
    else:
        room = size if most <= 0 else max(most, len(target["labels"]))
    first = torch.rand(size, device=drawable.device)  # who comes first is drawn
    order = torch.where(here, first + 2, torch.where(drawn, first, -1.0))
    order, names = order.topk(min(room, size))
    within = torch.arange(len(names), device=names.device) < (most if most > 0 else size)
    return names, (order >= 2) | ((order >= 0) & within)


def is_among(names: Tensor, listed: Tensor | None) -> Tensor:
    """(A,), (U,) -> (A,) bool: the names that are in the list."""
    return torch.zeros_like(names, dtype=torch.bool) if listed is None else torch.isin(names, listed)
