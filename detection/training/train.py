"""`detect train`: recipe -> data, backbone by tag, detector -> training loop -> weights, report."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from backbones.base import Backbone
from backbones.sync import join_batch_norms
from detection.data.annotations.classes import ClassMap
from detection.data.augment.presets import Augmentation
from detection.data.coco import CocoDetection
from detection.data.panoptic import PanopticDetection
from detection.drawing.draw import draw_detections
from detection.recipe import DataConfig, DetectRecipe, ModelConfig, run_stem
from detection.training.build import (
    OpenedBackbone,
    build_detector,
    default_backbone,
    fill_what_follows,
    open_backbone,
)
from detection.training.data_notes import notes_on_queries
from detection.training.datasets import Data, evaluator_for, input_size, open_data, repeats_of, shapes_of
from detection.training.network_defaults import notes
from detection.training.start import fill_from, find_start, rebuild_backbone, unconsumed_warmups
from detection.training.stored_proposals import made_by
from detection.training.task import DetectTask
from detection.training.vocabularies import OfSet, Spoken, check_asked, is_told, of_set, spoken_for
from shared.devices import dist
from shared.devices.device import to_device
from shared.errors import UsageError, plural
from shared.feeding.feed import Feed
from shared.feeding.plan import rng_for
from shared.files import written_aside
from shared.loop.optim import for_batch
from shared.recipes.recipe import Resolved
from shared.runs.dry import announce_plan, describe_groups, describe_parameters, describe_schedule
from shared.runs.plan import check_plan, doubts, planned_folder
from shared.runs.report import write_report
from shared.runs.session import Session
from shared.weights.card import Card, check_name, versions
from shared.weights.store import Store

log = logging.getLogger(__name__)


def train(resolved: Resolved) -> int:
    """Train a detector and export it; the exit code."""
    recipe: DetectRecipe = resolved.recipe
    store = Store(recipe.runtime.weights_dir)
    check_plan(recipe.runtime, recipe.schedule, *([recipe.model.tag] if recipe.model.tag else []))
    session = Session(resolved, stem=run_stem(recipe), command="detect train")
    try:
        start = find_start(recipe.model, store.root)
        told = is_told(recipe.model.network)
        check_asked(recipe.model.network, recipe.data.vocabulary)
        data = open_data(recipe, None if recipe.model.reset_head or told else start)
        spoken = spoken_for(sets_of(data, recipe.data), recipe.model, start) if told else None
        resolved = session.replace_recipe(resolved_for(resolved, data.train, spoken))
        recipe = resolved.recipe
        opened = open_backbone(recipe, store) if start is None else rebuild_backbone(start, recipe)
        built = build_detector(recipe, opened.net, len(data.train.classes))
        check_input(opened.net, data.train)
        if start is not None:
            opened = opened._replace(transfer=fill_from(start, built, store, recipe.model))
        else:
            opened = fill_what_follows(built, opened)
        if spoken is not None:
            spoken.tell(built)
            data.train.notes += spoken.notes()
        for images in (data.train, data.val):
            if images is not None:
                images.notes += notes_on_queries(images, built.max_objects)
        val, how, network = data.val, recipe.data, recipe.model.network
        task = DetectTask(built, opened.stats, None if val is None else lambda: evaluator_for(val, how, network))
        task.facts = {
            **built_from(recipe, opened),
            "num_classes": len(data.train.classes),
            "pixels": [[*values] for values in opened.stats],
        }
        check_name(arch_of(recipe, opened))
        if session.joins_batch_norms():
            task = join_batch_norms(task)
        if recipe.runtime.dry_run:
            return dry_run(session, resolved, task, data, opened)
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

        def publish(trained: Any, epoch: int, metrics: dict[str, float], last: bool) -> None:
            kept[:] = [trained]  # the average, where there is one
            exported.append(store.put(trained.detector, card(session, data, opened, tag, epoch, metrics, last, spoken)))
            log.info("exported %s to %s", exported[-1], exported[-1].path)

        metrics = session.fit(task, feed, val_loader(session, data.val), publish, recipe.model.keep_epochs)
        if dist.is_main():
            if exported:  # not when a finished run is resumed: its result stands
                session.finish(exported[-1], metrics, store)
                if data.val is not None:
                    save_pictures(kept[0], data.val, run_dir / "pictures", recipe.data.pictures, session.device)
            log.info("report %s", write_report([run_dir], run_dir / "report.html"))
    except OSError as error:
        raise session.stopped_by(error) from error
    finally:
        dist.stop()
    return 0


def sets_of(data: Data, config: DataConfig) -> list[OfSet]:
    """The data sets, with the vocabulary that is asked for each."""
    folder = "demo" if config.data_path is None else config.data_path.resolve().name
    return [of_set(data.train, folder, config.vocabulary)]


def resolved_for(resolved: Resolved, data: CocoDetection, spoken: Spoken | None = None) -> Resolved:
    """The recipe completed from the data: the number of keypoints per object, the width of vectors of names."""
    recipe: DetectRecipe = resolved.recipe
    args = recipe.model.network_args
    if data.skeleton is not None:
        args = {**args, "num_keypoints": len(data.skeleton)}
    if spoken is not None:
        args = spoken.options(args)
    return replace(resolved, recipe=replace(recipe, model=replace(recipe.model, network_args=args)))


def feed_of(session: Session, data: Data) -> Feed:
    """The training feed."""
    config = session.recipe.data
    return session.feed(data.train, shapes_of(data.train, config), repeats_of(data.train, config))


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


def val_loader(session: Session, val: CocoDetection | None) -> Any:
    return None if val is None else session.in_order(val)


def card(
    session: Session,
    data: Data,
    opened: OpenedBackbone,
    tag: str,
    epoch: int,
    metrics: dict,
    last: bool,
    spoken: Spoken | None = None,
) -> Card:
    """The card of a detector's weights; those that made its proposals are a parent."""
    recipe: DetectRecipe = session.recipe
    maker = made_by(data.train)
    return Card(
        arch=arch_of(recipe, opened),
        tag=tag,
        epoch=epoch,
        kind="detector",
        finished=last,
        method="detection",
        args=built_from(recipe, opened),
        pixels={"mean": list(opened.stats.mean), "std": list(opened.stats.std)},
        classes=classes_of_card(data.train) | ({} if spoken is None else {"vocabularies": spoken.on_card()}),
        parents=[*([opened.parent.reference] if opened.parent else []), *([maker] if maker else [])],
        data={
            "fingerprint": data.train.fingerprint,
            "samples": len(data.train),
            "path": str(recipe.data.data_path),
            **({"proposals": maker} if maker else {}),
        },
        metrics=metrics,
        recipe=session.recipe_values(),
        versions=versions(),
    )


def classes_of_card(data: CocoDetection) -> dict[str, Any]:
    """Class names and ids, keypoint names, and which classes are things."""
    classes = data.classes.to_dict()
    if data.skeleton is not None:
        classes["skeleton"] = data.skeleton.to_dict()
    return classes | ({"isthing": data.isthing} if isinstance(data, PanopticDetection) else {})


def built_from(recipe: DetectRecipe, opened: OpenedBackbone) -> dict[str, Any]:
    """The arguments that build a network of the same shape."""
    return {
        "network": recipe.model.network,
        "network_args": recipe.model.network_args,
        "backbone": backbone_of(recipe, opened),
        "backbone_args": opened.args,
    }


def backbone_of(recipe: DetectRecipe, opened: OpenedBackbone) -> str:
    if opened.parent is not None and opened.parent.card.kind == "detector":
        return opened.parent.card.args["backbone"]
    return recipe.model.backbone or (opened.parent.card.arch if opened.parent else default_backbone(recipe.model))


def arch_of(recipe: DetectRecipe, opened: OpenedBackbone) -> str:
    """The store name of the detector's weights."""
    return f"{recipe.model.network}-{backbone_of(recipe, opened)}"


def describe(recipe: DetectRecipe, data: Data, opened: OpenedBackbone) -> None:
    classes = data.train.classes
    log.info(
        "%s on %s, %s: %s",
        recipe.model.network,
        plural(len(data.train), "image"),
        plural(len(classes), "class"),
        listed_classes(classes),
    )
    for note in notes_of(data):
        log.info("%s", note)
    if opened.transfer is not None:
        log.info("loaded %s", opened.transfer)
    elif recipe.model.backbone_pretrained:
        log.info("the backbone has timm's published weights")
    else:
        log.info("the backbone starts from random weights; load some with --backbone-tag or --backbone-pretrained")
    if data.val is None:
        log.info("no validation data: AP is not measured during training")


def notes_of(data: Data) -> list[str]:
    """The notes of both data sets."""
    sets = (("training", data.train), ("validation", data.val))
    return [f"{name} data: {note}" for name, images in sets if images is not None for note in images.notes]


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


def save_pictures(task: DetectTask, val: CocoDetection, folder: Path, count: int, device: torch.device) -> None:
    """The first validation images with predicted and true boxes."""
    folder.mkdir(exist_ok=True)
    task.eval()
    for index in range(min(count, len(val))):
        picture, target = val.load(index, rng_for(0, 0, index))
        found = task.detect(*to_device(([picture], [target]), device))[0]
        found = {name: value.cpu() for name, value in found.items()}  # type: ignore[attr-defined]
        image = draw_detections(picture, found, val.classes.names, truth=target, skeleton=val.skeleton)  # type: ignore[arg-type]
        with written_aside(folder / f"{index:03d}.jpg") as partial:
            image.convert("RGB").save(partial, quality=85)


def size_words(config: DataConfig, network: str) -> str:
    """'640 x 640', or what is known of sizes that vary."""
    height, width = input_size(config.size, config.aug_type, network)
    longest = f", longest side {config.max_size}" if config.max_size else ""
    varied = ", short side varies" if config.multiscale or config.short_side_range else ""
    return f"{height} x {width}{longest}{varied}"


def dry_run(session: Session, resolved: Resolved, task: DetectTask, data: Data, opened: OpenedBackbone) -> int:
    recipe = resolved.recipe
    feed = feed_of(session, data)
    lines = notes(resolved, feed.step_size) + describe_parameters(task, task.backbone.stages())
    lines += describe_groups(task, for_batch(recipe.optim, feed.step_size))
    lr = for_batch(recipe.optim, feed.step_size).lr
    lines += describe_schedule(feed.steps_per_epoch, feed.step_size, recipe.schedule, lr)
    lines.append(f"data\n  {len(data.train)} training images, {len(data.val) if data.val else 0} validation images")
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
    if dist.is_main():
        announce_plan(resolved, lines)
    return 0
