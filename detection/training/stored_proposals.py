"""Stored proposals of a run: given where the network takes them, and made by the same weights everywhere."""

from __future__ import annotations

from detection.data.coco import CocoDetection
from detection.data.proposals import Proposals
from detection.nets import takes_proposals
from detection.recipe import DataConfig
from shared.errors import UsageError, WeightsError
from shared.weights.card import Card


def check_given(config: DataConfig, network: str) -> None:
    """Raise UsageError unless stored proposals are given exactly if the network takes them."""
    if takes_proposals(network) and config.proposals is None:
        raise UsageError(
            f"{network} needs stored proposals; make them with `detect propose --weights TAG --output proposals` and "
            "the data's flags, then give --proposals proposals, or --proposals truth for the true boxes"
        )
    if config.proposals is not None and not takes_proposals(network):
        raise UsageError(f"{network} makes its own proposals; remove --proposals, or use unidetector_regions")


def made_by(data: CocoDetection) -> dict[str, str] | None:
    """{arch, tag, digest} of the weights that made the data's proposals; None for none, or true ones."""
    return data.proposals.weights if isinstance(data.proposals, Proposals) else None


def check_one_maker(*sets: CocoDetection | None) -> None:
    """Raise WeightsError if the proposals of some images were made by other weights than those of others."""
    makers = {maker["digest"]: maker for data in sets if data is not None and (maker := made_by(data))}
    if len(makers) > 1:
        first, *_, last = map(called, makers.values())
        raise WeightsError(
            f"the proposals of some images are of {first}, those of others of {last}; make all with the same weights, "
            "by `detect propose`"
        )


def check_maker(card: Card, maker: dict[str, str], way_out: str) -> None:
    """Raise WeightsError if weights were trained on the proposals of other weights than `maker`."""
    learned = card.data.get("proposals")
    if learned is not None and learned["digest"] != maker["digest"]:
        raise WeightsError(
            f"{card.arch} {card.tag} was trained on proposals of {called(learned)}, and these are of {called(maker)}; "
            f"{way_out}"
        )


def called(maker: dict[str, str]) -> str:
    return "{arch} {tag}@{digest:.6}".format(**maker)
