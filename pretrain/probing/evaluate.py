"""`pretrain eval`: nearest neighbors, linear probe and collapse measures of a backbone.

    weights by tag + labeled images -> vectors -> nearest neighbors, std, covariance, rank
                                    -> frozen backbone and a linear layer -> the loop -> accuracy

Pixel statistics, image size and crop are those of the weights' training by default. The results are printed and
written to `result.json` of a run folder and, with --json, to a file.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch

from backbones import build_backbone
from backbones.base import Backbone
from backbones.inherit import fill, rebuild
from pretrain.data.labeled import Chosen, choose, open_labeled, open_sets
from pretrain.data.overlap import Overlap, overlap
from pretrain.probing.health import health
from pretrain.probing.linear import LinearProbe, linear_on_vectors, training_view
from pretrain.probing.probe import Vectors, check_k, eval_mode, nearest_neighbors, vectors_of
from pretrain.probing.recipe import EvalRecipe, SubjectConfig, eval_stem
from pretrain.recipe import crop_share
from pretrain.views.crops import ResizeCenterCrop
from shared.devices import dist
from shared.devices.device import precision
from shared.errors import DataError, UsageError, WeightsError
from shared.feeding.limit import limited
from shared.feeding.pixels import Normalize, PixelStats, pixel_stats
from shared.files import cache_dir, write_json
from shared.recipes.recipe import Resolved
from shared.recipes.registry import suggest
from shared.runs.dry import announce_plan
from shared.runs.session import Session, pair
from shared.text import say
from shared.weights.card import Exported, check_pixels, expected_pixels
from shared.weights.store import Store

log = logging.getLogger(__name__)
PROTOCOLS = ("knn", "linear")


class Subject(NamedTuple):
    """A backbone, a description of its weights, their export if any, pixel statistics, image size and crop."""

    net: Backbone
    words: str
    exported: Exported | None
    pixels: PixelStats
    size: tuple[int, int]
    share: float


class Images(NamedTuple):
    """Labeled training and validation images, center crops; `num_classes` of both."""

    known: Chosen
    asked: Chosen
    num_classes: int


def evaluate(resolved: Resolved) -> int:
    """Evaluate a backbone; returns the exit code."""
    recipe: EvalRecipe = resolved.recipe
    wanted = protocols(recipe.protocol.protocol)
    if recipe.runtime.fit_batch:
        raise UsageError("--batch-size auto is for training; give a number")
    session = Session(resolved, stem=eval_stem(recipe), command="pretrain eval")
    try:
        subject = open_subject(recipe)
        images = open_images(recipe, subject)
        check_k(recipe.protocol.k if "knn" in wanted else 0, sum(images.known.sizes))
        if recipe.runtime.dry_run:
            if dist.is_main():
                announce_plan(resolved, describe(subject, images))
            return 0
        session.open()
        overlaps = known_answers(subject, images) if dist.is_main() else {}
        for line in describe(subject, images):
            log.info("%s", line)
        metrics: dict[str, float] = {}
        if "knn" in wanted or recipe.protocol.linear_on_features:
            metrics |= measure_vectors(session, subject, images, wanted)
        if "linear" in wanted and not recipe.protocol.linear_on_features:
            metrics |= train_linear(session, subject, images)
        finish(session, subject, images, metrics, overlaps)
    finally:
        dist.stop()
    return 0


def protocols(given: tuple[str, ...]) -> list[str]:
    """['knn,linear'] or ['knn', 'linear'] -> the protocols."""
    words = [word for part in given for word in part.split(",") if word]
    for word in words:
        if word not in PROTOCOLS:
            raise UsageError(
                f"no protocol '{word}'{suggest(word, list(PROTOCOLS))}; there is {', '.join(PROTOCOLS)}, or both"
            )
    if not words:
        raise UsageError(f"--protocol is empty; give one of {', '.join(PROTOCOLS)}, or both")
    return words


def open_subject(recipe: EvalRecipe) -> Subject:
    """The backbone with the requested weights.

    Raises:
        WeightsError: no such tag, weights that do not match, or another pixel mean and std.
    """
    subject, data = recipe.subject, recipe.data
    net, words, exported = found(subject, Store(recipe.runtime.weights_dir))
    if exported is not None:
        pixels, trained = expected_pixels(exported), exported.card.recipe
        if data.rgb_mode is not None:
            check_pixels(exported, pixel_stats(data.rgb_mode))
    else:
        pixels, trained = net.pixels or pixel_stats("imagenet"), {}
        if data.rgb_mode is not None:
            if net.pixels and pixel_stats(data.rgb_mode) != net.pixels:
                raise WeightsError(
                    f"timm's {subject.model} has another pixel mean and std than {data.rgb_mode}; remove --rgb-mode"
                )
            pixels = pixel_stats(data.rgb_mode)
    size = pair(data.size or tuple(trained.get("size") or net.only or (224,)))
    share = crop_share({**trained, **({"probe_share": data.probe_share} if data.probe_share else {})})
    return Subject(net, words, exported, pixels, size, share)


def found(subject: SubjectConfig, store: Store) -> tuple[Backbone, str, Exported | None]:
    """The backbone with its weights, their description, and their export if a tag is given."""
    if subject.tag is None:
        if subject.model is None:
            raise UsageError("nothing to evaluate; give weights with --tag, or a --model for random weights")
        if subject.backbone_epoch is not None:
            raise UsageError("--backbone-epoch selects an epoch of a tag; give the tag with --tag")
        kind = "timm's published" if subject.pretrained else "random"
        return (
            build_backbone(subject.model, pretrained=subject.pretrained),
            f"{subject.model} with {kind} weights",
            None,
        )
    if subject.pretrained:
        raise UsageError("--pretrained and --tag are two sources of weights; keep one")
    exported = store.find(subject.model, subject.tag, subject.backbone_epoch)
    if exported.card.kind != "backbone":
        raise WeightsError(f"{exported} is a {exported.card.kind}, not a backbone; give a tag exported by `pretrain`")
    net = rebuild(exported.card)
    return net, f"loaded {fill(store, net, exported)}", exported


def open_images(recipe: EvalRecipe, subject: Subject) -> Images:
    data, path = recipe.data, recipe.data.data_path
    if path is None:
        from shared.feeding.demo import demo_data

        path = str(demo_data(cache_dir() / "demo").shards)
    sets = open_labeled(path, data.val_path, ResizeCenterCrop(subject.size, share=subject.share))
    known, asked = choose(sets.known, data.probe_bank), choose(sets.asked, data.probe_queries)
    return Images(known, asked, sets.num_classes)


def measure_vectors(session: Session, subject: Subject, images: Images, wanted: list[str]) -> dict[str, float]:
    """Everything computed from one vector per image: nearest neighbors, collapse measures, quick linear probe."""
    recipe: EvalRecipe = session.recipe
    net, normalize = subject.net.to(session.device), Normalize(subject.pixels).to(session.device)
    dtype = precision(recipe.runtime, session.device)
    with eval_mode(net), torch.autocast(session.device.type, dtype, enabled=dtype is not None):
        known, asked = (
            vectors_of(net, normalize, session.in_order(samples), session.device)
            for samples in (images.known, images.asked)
        )
    metrics: dict[str, float] = {}
    if "knn" in wanted:
        protocol = recipe.protocol
        metrics |= nearest_neighbors(known, asked, images.num_classes, k=protocol.k, temperature=protocol.temperature)
        metrics |= health(known.values)._asdict()
    if "linear" in wanted:
        metrics |= quick_linear(recipe, known, asked, images.num_classes)
    return metrics


def quick_linear(recipe: EvalRecipe, known: Vectors, asked: Vectors, num_classes: int) -> dict[str, float]:
    batch_size = recipe.runtime.batch_size * recipe.runtime.grad_accum_steps * dist.world()
    return linear_on_vectors(
        known,
        asked,
        num_classes,
        optim=recipe.optim,
        schedule=recipe.schedule,
        batch_size=batch_size,
        seed=recipe.runtime.seed,
    )


def train_linear(session: Session, subject: Subject, images: Images) -> dict[str, float]:
    """Train the linear probe on augmented images, with the training loop."""
    task = LinearProbe(subject.net, subject.pixels, images.num_classes)
    known = images.known.seen_as(training_view(subject.size))
    return session.fit(task, session.feed(known), session.in_order(images.asked), None)


def describe(subject: Subject, images: Images) -> list[str]:
    known, asked = sum(images.known.sizes), sum(images.asked.sizes)
    height, width = subject.size
    return [
        subject.words,
        f"{known} training and {asked} validation images of {images.num_classes} classes, {height}x{width} pixels, "
        f"{subject.share:.0%} of the short side",
    ]


def known_answers(subject: Subject, images: Images) -> dict[str, Overlap]:
    """How many validation images are in the bank, and how many the weights were trained on; logs a warning of each."""
    found = {"bank": overlap(images.known, images.asked)}
    if subject.exported is not None and (trained := trained_on(subject.exported)) is not None:
        found["trained_on"] = overlap(trained, images.asked)
    for name, what in (
        ("bank", "among the training images"),
        ("trained_on", f"images that {subject.exported} has seen"),
    ):
        if name in found and found[name].count:
            log.warning("%s are %s; their results say little about new images", found[name], what)
    return found


def trained_on(exported: Exported) -> Any:
    """The images that weights were trained on, if they are still where they were; else None."""
    path, limit = exported.card.data.get("path"), exported.card.recipe.get("limit")
    if not path or exported.card.recipe.get("data_path", path) is None:  # the demo data
        return None
    try:
        return limited(open_sets(path, lambda image, rng: image)[0], limit)
    except (DataError, OSError):
        log.info("the training images of %s cannot be read at %s; whether it has seen these is unknown", exported, path)
        return None


def finish(
    session: Session, subject: Subject, images: Images, metrics: dict[str, float], overlaps: dict[str, Overlap]
) -> None:
    """Print the results, and write them as JSON."""
    if not dist.is_main():
        return
    recipe: EvalRecipe = session.recipe
    result = {
        "metrics": metrics,
        "weights": str(subject.exported.path) if subject.exported else None,
        "images": {"known": images.known.fingerprint, "asked": images.asked.fingerprint},
        "overlap": {name: found._asdict() for name, found in overlaps.items()},
        "size": list(subject.size),
        "share": subject.share,
        "recipe": session.recipe_values(),
        "finished": True,
        "seconds": session.seconds(),
    }
    session.write("result.json", result)
    if recipe.protocol.json is not None:
        write_json(recipe.protocol.json, metrics)
    explained = explanations(recipe, subject)
    for name, value in metrics.items():
        say(f"{name:<12} {value:<8.4g} {explained.get(name, '')}".rstrip())
    log.info("wrote %s", session.run_dir / "result.json" if session.run_dir else "")


def explanations(recipe: EvalRecipe, subject: Subject) -> dict[str, str]:
    protocol = recipe.protocol
    how = "on vectors computed once" if protocol.linear_on_features else "on random crops"
    return {
        "knn": f"accuracy with {protocol.k} neighbors, temperature {protocol.temperature:g}",
        "linear": f"accuracy of a linear layer, {recipe.schedule.epochs} epochs {how}",
        "std": "1: feature directions are spread evenly, 0: they are all the same",
        "covariance": "0: dimensions are uncorrelated",
        "rank": f"effective rank, of {subject.net.width}",
    }
