"""`detect train`: recipe -> data, backbone by tag, detector -> training loop -> weights, report."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from backbones.base import Backbone
from backbones.sync import join_batch_norms
from detection.data.annotations.classes import ClassMap
from detection.data.augment.presets import Augmentation
from detection.data.coco import CocoDetection
from detection.data.several import InTurn, Numbered, SeveralSets
from detection.drawing.draw import draw_detections
from detection.eval.coco import CocoEvaluator
from detection.eval.several import SeveralEvaluators, evaluators
from detection.explaining.charts import explained_json
from detection.explaining.explanation import explained
from detection.explaining.mistakes import LABELED, draw_mistakes
from detection.nets import Detector, takes_several
from detection.recipe import DataConfig, DetectRecipe, ModelConfig, run_stem
from detection.training.build import (
    OpenedBackbone,
    build_detector,
    default_backbone,
    fill_what_follows,
    open_backbone,
)
from detection.training.cards import arch_of, backbone_of, built_from, card, intervals_of
from detection.training.data_notes import notes_on_queries
from detection.training.datasets import (
    Data,
    OpenSet,
    evaluator_for,
    input_size,
    open_data,
    repeats_of,
    seen_by,
    shapes_of,
)
from detection.training.largest import Largest
from detection.training.network_defaults import notes
from detection.training.sets import sets_of
from detection.training.start import fill_from, find_start, rebuild_backbone, unconsumed_warmups
from detection.training.task import DetectTask
from detection.training.vocabularies import AskedSet, Spoken, check_asked, is_told, of_set, spoken_for
from shared.devices import dist
from shared.devices.device import to_device
from shared.errors import UsageError, plural
from shared.feeding.feed import Feed
from shared.feeding.plan import rng_for
from shared.files import write_json, written_aside
from shared.loop.optim import for_batch
from shared.recipes.recipe import Resolved
from shared.runs.dry import announce, announce_plan, describe_groups, describe_parameters, describe_schedule
from shared.runs.fitting import fit_batch
from shared.runs.folders import EXPLAINED
from shared.runs.measuring import measured
from shared.runs.plan import check_plan, doubts, planned_folder
from shared.runs.report import write_report
from shared.runs.session import Session
from shared.weights.card import Exported, check_name
from shared.weights.store import Store

log = logging.getLogger(__name__)

SHOWN = 0.3  # minimum score in pictures, where no better one is known


def train(resolved: Resolved) -> Path | None:
    """Train a detector and export it; the folder of the run, None for a dry run."""
    recipe: DetectRecipe = resolved.recipe
    store = Store(recipe.runtime.weights_dir)
    check_plan(recipe.runtime, recipe.schedule, *([recipe.model.tag] if recipe.model.tag else []))
    session = Session(resolved, stem=run_stem(recipe), command="detect train")
    try:
        made = made_of(session, store)
        fit_batch(session, made.task, lambda: Largest(made.data, session.recipe.data))
        resolved, recipe = session.resolved, session.recipe
        start, data, spoken, opened, task, latest = made
        check_name(arch_of(recipe, opened))
        if recipe.runtime.dry_run:
            dry_run(session, resolved, task, data, opened)
            return None
        run_dir = session.open()
        tag = recipe.model.tag or run_dir.name
        check_name(tag)
        describe(recipe, data, opened)
        if start is None:
            for warmup in unconsumed_warmups(store, arch_of(recipe, opened), tag):
                log.info(
                    "%s is a warm-up that no run has started from; start from it with --init-from %s",
                    warmup,
                    warmup.path,
                )
        if opened.transfer is not None:
            session.write("transfer.json", report_of(opened, recipe.model))
        feed, exported, kept = feed_of(session, data), [], []

        for note in notes(resolved, feed.step_size):
            log.info(note)

        about = {"arch": arch_of(recipe, opened), "tag": tag, "data": str(recipe.data.data_path)}
        seen = seen_by(data.trains, [start, opened.parent], run_dir, **about) if dist.is_main() else None

        def publish(trained: Any, epoch: int, metrics: dict[str, float], last: bool, note: str | None = None) -> None:
            kept[:] = [trained]  # the average, where there is one
            intervals = intervals_of(latest, metrics) if last else {}
            facts = card(session, data, opened, tag, epoch, metrics, last, spoken, intervals)
            exported.append(store.put(trained.detector, replace(facts, note=note), seen=seen))
            log.info("exported %s to %s", exported[-1], exported[-1].path)

        metrics = session.fit(task, feed, val_loader(session, data), publish, recipe.model.keep_epochs)
        if dist.is_main():
            if exported:  # not when a finished run is resumed: its result stands
                session.finish(exported[-1], metrics, store)
                if data.val is not None:  # of the first set
                    least = explain(latest, run_dir, recipe.data.pictures)
                    save_pictures(kept[0], data.val, run_dir / "pictures", recipe.data.pictures, session.device, least)
            log.info("report %s", write_report([run_dir], run_dir / "report.html"))
    except OSError as error:
        raise session.stopped_by(error) from error
    finally:
        dist.stop()
    return run_dir


class Made(NamedTuple):
    """What a recipe trains. start: the detector that it starts from. latest: the evaluator that was made last."""

    start: Exported | None
    data: Data
    spoken: Spoken | None
    opened: OpenedBackbone
    task: DetectTask
    latest: list[Any]


def made_of(session: Session, store: Store) -> Made:
    """Data and task of the session's recipe, which is completed from the data."""
    recipe: DetectRecipe = session.recipe
    start = find_start(recipe.model, store.root)
    told = is_told(recipe.model.network)
    for one in sets_of(recipe.data):
        check_asked(recipe.model.network, one.config.vocabulary)
    head = None if recipe.model.reset_head else start
    data = open_data(recipe, None if told else head)
    spoken = spoken_for(names_of_sets(data, recipe.data), recipe.model, head) if told else None
    recipe = session.replace_recipe(resolved_for(session.resolved, data, spoken)).recipe
    opened, built = network_of(recipe, store, start, data, spoken)
    latest: list[Any] = []

    def evaluator() -> Any:
        latest[:] = [evaluators_of(data, recipe)]
        return latest[0]

    task = DetectTask(built, opened.stats, evaluator if data.vals else None)
    task.facts = {
        **built_from(recipe, opened),
        "num_classes": len(data.train.classes),
        "pixels": [[*values] for values in opened.stats],
    }
    if session.joins_batch_norms():
        task = join_batch_norms(task)
    return Made(start, data, spoken, opened, task, latest)


def network_of(
    recipe: DetectRecipe, store: Store, start: Exported | None, data: Data, spoken: Spoken | None
) -> tuple[OpenedBackbone, Detector]:
    """The backbone as it was opened, and the detector on it, filled from what it starts from."""
    opened = open_backbone(recipe, store) if start is None else rebuild_backbone(start, recipe)
    built = build_detector(recipe, opened.net, len(data.train.classes))
    for images in data.trains:
        check_input(opened.net, images)
    if start is not None:
        opened = opened._replace(transfer=fill_from(start, built, store, recipe.model))
    else:
        opened = fill_what_follows(built, opened)
    if spoken is not None:
        spoken.tell(built)
        data.train.notes += spoken.notes()
    for images in (*data.trains, *data.vals.values()):
        images.notes += notes_on_queries(images, built.max_objects)
    return opened, built


def names_of_sets(data: Data, config: DataConfig) -> list[AskedSet]:
    """The data sets, with the vocabulary that is asked for each."""
    if not data.sets:
        folder = "demo" if config.data_path is None else config.data_path.resolve().name
        return [of_set(data.train, folder, config.vocabulary)]
    return [of_set(one.train, one.name, one.config.vocabulary) for one in data.sets]


def resolved_for(resolved: Resolved, data: Data, spoken: Spoken | None = None) -> Resolved:
    """The recipe completed from the data: the number of keypoints per object, of classes of each data set, and the
    width of vectors of names."""
    recipe: DetectRecipe = resolved.recipe
    args = recipe.model.network_args
    if data.train.skeleton is not None:
        args = {**args, "num_keypoints": len(data.train.skeleton)}
    if data.sets and takes_several(recipe.model.network):
        args = {**args, "set_sizes": [len(images.classes) for images in data.trains]}
    if spoken is not None:
        args = spoken.options(args)
    return replace(resolved, recipe=replace(recipe, model=replace(recipe.model, network_args=args)))


def feed_of(session: Session, data: Data) -> Feed:
    """The training feed."""
    config = session.recipe.data
    return session.feed(data.samples, shapes_of(data, config), repeats_of(data, config))


def evaluators_of(data: Data, recipe: DetectRecipe) -> Any:
    """New evaluators of the validation data of every set."""
    numbers = {one.name: number for number, one in enumerate(data.sets)}
    made = {name: evaluator_for(val, recipe.data, recipe.model.network) for name, val in data.vals.items()}
    return evaluators((numbers.get(name, 0), name, evaluator) for name, evaluator in made.items())


def check_input(net: Backbone, data: CocoDetection) -> None:
    """Raise UsageError if the backbone accepts one image size only, and the images will have another."""
    if net.only is not None and isinstance(data.augment, Augmentation):
        output = data.augment.output
        if output.long is not None:
            height, width = net.only
            raise UsageError(
                f"this backbone accepts only images of {height}x{width}, and with --max-size and --multiscale sizes "
                f"vary; give --size {height} {width} without them, or use a backbone without a fixed size"
            )
        net.check_size(output.size)


def val_loader(session: Session, data: Data) -> Any:
    """Validation batches, of one set after the other; None without any."""
    numbers = {one.name: number for number, one in enumerate(data.sets)}
    loaders = [session.in_order(Numbered(val, numbers[name]) if name else val) for name, val in data.vals.items()]
    return (loaders[0] if len(loaders) == 1 else InTurn(loaders)) if loaders else None


def describe(recipe: DetectRecipe, data: Data, opened: OpenedBackbone) -> None:
    classes = data.train.classes
    log.info(
        "%s on %s, %s: %s",
        recipe.model.network,
        plural(len(data.samples), "image"),
        plural(len(classes), "class"),
        listed_classes(classes),
    )
    for line in lines_on_sets(data):
        log.info("%s", line)
    for note in notes_of(data):
        log.info("%s", note)
    if opened.transfer is not None:
        log.info("loaded %s", opened.transfer)
    elif recipe.model.backbone_pretrained:
        log.info("the backbone has timm's published weights")
    else:
        log.info("the backbone starts from random weights; load some with --backbone-tag or --backbone-pretrained")
    if not data.vals:
        log.info("no validation data: AP is not measured during training")


def lines_on_sets(data: Data) -> list[str]:
    """A line about each of several sets: its images, classes and share of an epoch."""
    if not isinstance(data.samples, SeveralSets):
        return []
    sums = [float(part.factors.sum()) for part in data.samples.sets]
    return [
        f"data set {one.name}: {plural(len(one.train), 'image')}, {one.train.known.sum()} of "
        f"{plural(len(one.train.classes), 'class')}, share {one.share:g}, {part / sum(sums):.1%} of an epoch; "
        f"{plural(len(one.val), 'validation image') if one.val is not None else 'no validation'}"
        for one, part in zip(data.sets, sums, strict=True)
    ]


def notes_of(data: Data) -> list[str]:
    """The notes of all data sets."""
    named = {one.name: one for one in data.sets} or {"": data}
    sets = [(f"{name} {kind}".strip(), images) for name, one in named.items() for kind, images in kinds(one)]
    return [f"{name} data: {note}" for name, images in sets if images is not None for note in images.notes]


def kinds(one: Data | OpenSet) -> tuple[tuple[str, CocoDetection | None], ...]:
    return ("training", one.train), ("validation", one.val)


def listed_classes(classes: ClassMap, most: int = 6) -> str:
    more = f" and {len(classes) - most} more" if len(classes) > most else ""
    return ", ".join(classes.names[:most]) + more


def report_of(opened: OpenedBackbone, model: ModelConfig) -> dict[str, Any]:
    """The transfer report for transfer.json."""
    assert opened.transfer is not None
    transfer = asdict(opened.transfer)
    if opened.parent is None:
        pixels = f"mean {list(opened.stats.mean)}, std {list(opened.stats.std)}"
        return {
            **transfer,
            "tag": model.weights_backbone,
            "arch": default_backbone(model),
            "path": "",
            "pixel_note": pixels,
        }
    card = opened.parent.card
    pixels = f"mean {card.pixels['mean']}, std {card.pixels['std']}, as the weights expect"
    return {**transfer, "tag": card.tag, "arch": card.arch, "path": str(opened.parent.path), "pixel_note": pixels}


def explain(evaluators: list[Any], run_dir: Path, count: int) -> float:
    """Write what explains the last AP of the first data set, and pictures of the photographs with most mistakes.

    Returns:
        The score from which detections are shown: that of the best F1; SHOWN where there is no explanation, which is of
        COCO's boxes only.
    """
    for evaluator in evaluators:  # none where a run went on behind its last evaluation
        of_first = next(iter(evaluator.parts.values()))[1] if isinstance(evaluator, SeveralEvaluators) else evaluator
        if type(of_first) is CocoEvaluator:
            told = explained(of_first)
            pictures = draw_mistakes(of_first, told, run_dir / "mistakes", count)
            write_json(run_dir / EXPLAINED, explained_json(told, pictures))
            return told.score
    return SHOWN


def save_pictures(
    task: DetectTask, val: CocoDetection, folder: Path, count: int, device: torch.device, min_score: float
) -> None:
    """The first validation images with predicted and true boxes."""
    folder.mkdir(exist_ok=True)
    task.eval()
    for index in range(min(count, len(val))):
        picture, target = val.load(index, rng_for(0, 0, index))
        found = task.detect(*to_device(([picture], [target]), device))[0]
        found = {name: value.cpu() for name, value in found.items()}  # type: ignore[attr-defined]
        image = draw_detections(
            picture,
            found,  # type: ignore[arg-type]
            val.classes.names,
            truth=target,
            min_score=min_score,
            skeleton=val.skeleton,
            labeled=LABELED,
        )
        with written_aside(folder / f"{index:03d}-{val.path(index).stem}.jpg") as partial:
            image.convert("RGB").save(partial, format="JPEG", quality=85)


def size_words(config: DataConfig, network: str) -> str:
    """'640 x 640', or what is known of sizes that vary."""
    height, width = input_size(config.size, config.aug_type, network)
    longest = f", longest side {config.max_size}" if config.max_size else ""
    varied = ", short side varies" if config.multiscale or config.short_side_range else ""
    return f"{height} x {width}{longest}{varied}"


def dry_run(session: Session, resolved: Resolved, task: DetectTask, data: Data, opened: OpenedBackbone) -> None:
    recipe = resolved.recipe
    feed = feed_of(session, data)
    lines = notes(resolved, feed.step_size) + describe_parameters(task, task.backbone.stages())
    lines += describe_groups(task, for_batch(recipe.optim, feed.step_size))
    lr = for_batch(recipe.optim, feed.step_size).lr
    lines += describe_schedule(feed.steps_per_epoch, feed.step_size, recipe.schedule, lr)
    held = sum(len(val) for val in data.vals.values())
    lines.append(f"data\n  {len(data.samples)} training images, {held} validation images")
    lines += [f"  {line}" for line in lines_on_sets(data)]
    lines += [f"  {note}" for note in notes_of(data)]
    published = "published by timm" if recipe.model.backbone_pretrained else "random"
    lines.append(f"weights\n  {opened.transfer or published}")
    folder = planned_folder(recipe.runtime, session.stem)
    classes = f"{len(data.train.classes)}: {listed_classes(data.train.classes)}"
    tag = recipe.model.tag or folder.name
    check_name(tag)
    size = size_words(recipe.data, recipe.model.network)
    lines += session.described(feed, size=size, classes=classes, backbone=backbone_of(recipe, opened), tag=tag)
    lines += [f"warning: {sentence}" for sentence in doubts(task.train(), feed, recipe.schedule)]
    announce_plan(resolved, lines)
    announce(measured(session, task, feed, lambda: Largest(data, recipe.data)))
