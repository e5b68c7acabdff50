"""`pretrain train`: recipe -> shards, backbone, method -> the loop -> weights under a tag."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

from backbones import build_backbone
from backbones.base import Backbone
from backbones.inherit import fill, kept_args, rebuild
from backbones.sync import join_batch_norms
from pretrain.data.classes import numbered_alike, without_images
from pretrain.data.digests import seen_in
from pretrain.data.labeled import choose, open_labeled, same_classes, seen_as
from pretrain.data.overlap import overlap
from pretrain.data.remote import is_remote
from pretrain.data.shards import ShardSet, find_shards
from pretrain.methods import Facts, Method, method, trained_as
from pretrain.probing.probe import Probe, check_k
from pretrain.recipe import PretrainRecipe, crop_share, export_tag, run_stem
from pretrain.training.largest import largest_batch
from pretrain.views.crops import ResizeCenterCrop
from shared.devices import dist
from shared.errors import DataError, UsageError, plural
from shared.feeding.limit import limited
from shared.feeding.pixels import PixelStats, pixel_stats
from shared.files import cache_dir
from shared.loop.optim import for_batch
from shared.recipes.recipe import Resolved, flat
from shared.recipes.usual import sentence
from shared.runs.dry import announce, announce_plan, describe_groups, describe_parameters, describe_schedule
from shared.runs.fitting import fit_batch
from shared.runs.measuring import measured
from shared.runs.plan import check_plan, doubts
from shared.runs.report import write_report
from shared.runs.session import Session, pair
from shared.weights.card import Card, Exported, check_pixels, expected_pixels, listed, versions
from shared.weights.seen import Record, record_of, together, write_digests
from shared.weights.store import Store

log = logging.getLogger(__name__)


class Data(NamedTuple):
    """Training and validation shards; `val` may be None."""

    train: Any
    val: ShardSet | None
    num_classes: int | None
    classes: list[str] | None


def train(resolved: Resolved) -> Path | None:
    """Train a backbone and export it; the folder of the run, None for a dry run."""
    recipe: PretrainRecipe = resolved.recipe
    tag = export_tag(recipe)
    check_plan(recipe.runtime, recipe.schedule, tag, recipe.model.model)
    session = Session(resolved, stem=run_stem(recipe), command="pretrain train")
    try:
        store = Store(recipe.runtime.weights_dir)
        data, options, stats, parents, task, probe = made_of(session, store)
        resolved, recipe = session.resolved, session.recipe
        if recipe.runtime.dry_run:
            dry_run(session, resolved, task, data)
            return None
        run_dir = session.open()
        describe(recipe, data, tag)
        feed = session.feed(data.train, beside=task.beside())
        for line in method_notes(resolved, feed.step_size):
            log.info("%s", line)
        exported, seen = [], seen_by(recipe, tag, data.train, parents, run_dir) if dist.is_main() else None

        def publish(trained: Any, epoch: int, metrics: dict[str, float], last: bool, note: str | None = None) -> None:
            card = Card(
                arch=recipe.model.model,
                tag=tag,
                epoch=epoch,
                finished=last,
                method=recipe.model.method,
                args=options,
                pixels={"mean": list(stats.mean), "std": list(stats.std)},
                classes={"names": data.classes} if data.classes else {},
                parents=[ancestor.reference for ancestor in parents],
                source=task.source,
                data={
                    "fingerprint": data.train.fingerprint,
                    "samples": sum(data.train.sizes),
                    "path": str(recipe.data.data_path),
                },
                metrics=metrics,
                cost=session.cost(),
                recipe=session.recipe_values(),
                versions=versions(),
                note=note,
            )
            exported.append(store.put(trained.exports()["backbone"], card, seen=seen))
            log.info("exported %s to %s", exported[-1], exported[-1].path)

        measured = {"probe": probe, "probe_every": recipe.probing.probe or 1}
        metrics = session.fit(task, feed, val_loader(session, data), publish, recipe.model.keep_epochs, **measured)
        if dist.is_main():
            if exported:  # not when a finished run is resumed: its result is kept
                session.finish(exported[-1], metrics, store)
            log.info("report %s", write_report([run_dir], run_dir / "report.html"))
    except OSError as error:
        raise session.stopped_by(error) from error
    finally:
        dist.stop()
    return run_dir


class Made(NamedTuple):
    """What a recipe trains. options: of the backbone. parents: the weights that it starts and learns from."""

    data: Data
    options: dict[str, Any]
    stats: PixelStats
    parents: list[Exported]
    task: Method
    probe: Probe | None


def made_of(session: Session, store: Store) -> Made:
    """Data, method and probe of the session's recipe."""
    recipe: PretrainRecipe = session.recipe
    data = open_data(recipe)
    check_classes(recipe.model.method, data)
    options: dict[str, Any] = {} if recipe.model.drop_path is None else {"drop_path": recipe.model.drop_path}
    options |= {"aws_compat": True} if recipe.model.aws_compat else {}
    net, stats, parent = start_from(recipe, store, options)
    net.check_size(pair(recipe.data.size))
    facts = Facts(pair(recipe.data.size), data.num_classes, stats, Path(recipe.runtime.weights_dir))
    task = method.build(recipe.model.method, net, facts, **recipe.model.method_args)
    args = options if parent is None else {**kept_args(parent.card), **options}
    task.facts = plain_facts(recipe, facts, args)
    parents = [*filter(None, [parent]), *task.learns_from]
    if session.joins_batch_norms():
        task = join_batch_norms(task)
    task.check_batch(recipe.runtime.batch_size)
    fit_batch(session, task, lambda: largest_batch(task, data.train, facts.size))
    probe = open_probe(session, data, stats)
    data.train.view = task.view()
    if data.val is not None:
        data.val.view = task.val_view()
    limit = recipe.data.limit
    data = data._replace(train=limited(data.train, limit), val=limited(data.val, limit))
    return Made(data, options, stats, parents, task, probe)


def plain_facts(recipe: PretrainRecipe, facts: Facts, backbone_args: dict[str, Any]) -> dict[str, Any]:
    """What `pretrain replay` rebuilds the task from."""
    return {
        "method": recipe.model.method,
        "method_args": recipe.model.method_args,
        "backbone": recipe.model.model,
        "backbone_args": backbone_args,
        "size": [*facts.size],
        "num_classes": facts.num_classes,
        "pixels": [[*values] for values in facts.pixels],
        "weights_dir": str(facts.weights_dir),
    }


def seen_by(recipe: PretrainRecipe, tag: str, train: Any, parents: list[Exported], run_dir: Path) -> Record | None:
    """Digests of the training images, in a file of the run, and those of the weights it learns from; None for none."""
    path = recipe.data.data_path
    digests = seen_in(train, tell=path is not None)  # the demo data has some after `pretrain fingerprint`
    about = {"kind": "backbone", "arch": recipe.model.model, "tag": tag, "data": path or "the built-in demo data"}
    own = None if digests is None else write_digests(run_dir, digests, **about)
    return together([own, *map(record_of, parents)])


def check_classes(name: str, data: Data) -> None:
    """Raise DataError if a method that learns from labels gets data of a single class."""
    if method_is_labeled(name) and data.num_classes == 1:
        raise DataError(
            f"the training data has one class, of which --method {name} learns nothing; give data with at least two, "
            f"or a method without labels, such as vicreg"
        )


class Start(NamedTuple):
    """A backbone to train, its pixel statistics, and the export of its initial weights, if any."""

    net: Backbone
    stats: PixelStats
    parent: Exported | None


def start_from(recipe: PretrainRecipe, store: Store, options: dict[str, Any]) -> Start:
    """The backbone with random weights, timm's published ones, or those of a tag.

    Raises:
        UsageError: two sources of weights are given.
        WeightsError: no such tag, weights that do not match, or another pixel mean and std.
    """
    model, parent = recipe.model, None
    if model.init_tag is None:
        net = build_backbone(model.model, pretrained=model.pretrained, **options)
        expected = net.pixels
    elif model.pretrained:
        raise UsageError("--init-tag and --pretrained are two sources of weights; keep one")
    else:
        parent = store.find(model.model, model.init_tag)
        net, expected = rebuild(parent.card, **options), expected_pixels(parent)
        log.info("loaded %s", fill(store, net, parent))
    if recipe.data.rgb_mode is None:
        return Start(net, expected or pixel_stats("imagenet"), parent)
    stats = pixel_stats(recipe.data.rgb_mode)
    if parent is not None:
        check_pixels(parent, stats)
    return Start(net, stats, parent)


def open_data(recipe: PretrainRecipe) -> Data:
    """Training and validation shards; the demo data if none are given."""
    data = recipe.data
    path, labeled = data.data_path, method_is_labeled(recipe.model.method)
    if path is None:
        from shared.feeding.demo import demo_data

        path = str(demo_data(cache_dir() / "demo").shards)
    shards = find_shards(path, "train") or find_shards(path, None)
    if any(is_remote(shard) for shard in shards):
        train: Any = streamed(recipe, shards, labeled)
    else:
        train = ShardSet(shards, no_view, num_classes=data.num_classes, labeled=labeled, verify=data.verify_shards)
    if data.val_path:
        val_shards = find_shards(data.val_path, "val") or find_shards(data.val_path, None)
    else:
        val_shards = val_beside(path)
    if unused := [] if is_remote(shards[0]) else [s for s in find_shards(path, None) if s not in shards + val_shards]:
        log.info("not used: %s of %s, such as %s", plural(len(unused), "shard"), path, Path(unused[0]).name)
    val = None
    if val_shards:
        val = ShardSet(val_shards, no_view, labeled=labeled, verify=data.verify_shards)
        if labeled:
            val = numbered_alike(train, val)
            val.limit_classes(train.num_classes)
    if val is not None and isinstance(train, ShardSet):
        warn_of_overlap(limited(train, data.limit), limited(val, data.limit), "training images as well")
    return Data(train, val, train.num_classes, train.classes)


def warn_of_overlap(known: Any, asked: Any, what: str) -> None:
    """Say how many validation images are among others, by content; once, however many processes there are."""
    if dist.is_main() and (found := overlap(known, asked)).count:
        log.warning("%s are %s; metrics on them say little about new images", found, what)


def streamed(recipe: PretrainRecipe, shards: list[str], labeled: bool) -> Any:
    """Streamed remote shards, whose samples cannot be counted in advance."""
    from pretrain.data.stream import RemoteShards, remote_classes

    data = recipe.data
    if data.samples is None:
        raise UsageError("remote shards cannot be counted; give the images per epoch with --samples")
    lists = remote_classes(shards) if labeled else {}
    if labeled and data.num_classes is None and None in lists.values():
        raise UsageError(
            "the classes of remote shards are not known in advance; put a classes.txt next to them, or give their "
            "number with --num-classes"
        )
    return RemoteShards(
        shards,
        no_view,
        seed=recipe.runtime.seed,
        epoch_samples=data.samples,
        num_classes=data.num_classes,
        lists=lists,
        labeled=labeled,
        max_bad=recipe.runtime.max_bad_samples,
    )


def val_beside(path: str) -> list[str]:
    """The validation shards in the training folder, if it has any."""
    try:
        return [shard for shard in find_shards(path, "val") if not is_remote(shard)]
    except DataError:
        return []


def method_is_labeled(name: str) -> bool:
    return bool(getattr(method.builder(name), "labeled", False))


def no_view(image: Any, rng: Any) -> Any:
    """Placeholder until the method is built, which needs the classes first."""
    return image


def val_loader(session: Session, data: Data) -> Any:
    return None if data.val is None else session.in_order(data.val)


def open_probe(session: Session, data: Data, stats: PixelStats) -> Probe | None:
    """The --probe: a fixed subset of the run's images, or of --probe-path.

    Raises:
        DataError: no labels, or no validation images.
        UsageError: fewer images than neighbors.
    """
    recipe: PretrainRecipe = session.recipe
    probing, limit = recipe.probing, recipe.data.limit
    if not probing.probe:
        return None
    view = ResizeCenterCrop(pair(recipe.data.size), share=crop_share(flat(recipe)))
    if probing.probe_path is not None:
        sets, limit = open_labeled(probing.probe_path, probing.probe_val_path, view), None
        warn_of_overlap(sets.known, sets.asked, "in the bank of the probe as well")
        if isinstance(data.train, ShardSet):
            warn_of_overlap(limited(data.train, recipe.data.limit), sets.asked, "training images as well")
    elif data.val is None or not hasattr(data.train, "labels"):
        raise DataError("--probe needs local training and validation images; give some with --probe-path")
    else:
        sets = same_classes(seen_as(data.train, view), seen_as(data.val, view))
    bank = choose(sets.known, probing.probe_bank, limit=limit, forgiving=True)
    check_k(probing.probe_k, sum(bank.sizes), "--probe-k")
    queries = choose(sets.asked, probing.probe_queries, limit=limit)
    known, asked = session.in_order(bank), session.in_order(queries)
    return Probe(known, asked, sets.num_classes, stats, session.device, probing.probe_k)


def describe(recipe: PretrainRecipe, data: Data, tag: str) -> None:
    classes = f", {data.num_classes} classes" if data.num_classes else ""
    log.info(
        "%s with %s on %d images%s; tag %s",
        recipe.model.model,
        recipe.model.method,
        sum(data.train.sizes),
        classes,
        tag,
    )
    for line in class_lines(data):
        log.info("%s", line)
    if data.val is None:
        log.info("no validation shards: no metrics during training")
    elif not recipe.probing.probe and not method_is_labeled(recipe.model.method):
        log.info("no metrics during training; add --probe to measure the representation")


def class_lines(data: Data) -> list[str]:
    """The classes that have no image, as lines to print."""
    return [
        f"no {kind} image is of {plural(len(names), 'class')}: {listed(names)}"
        for kind, samples in (("training", data.train), ("validation", data.val))
        if samples is not None and (names := without_images(samples, data.num_classes or 0, data.classes))
    ]


def method_notes(resolved: Resolved, step_size: int) -> list[str]:
    """One line about the reference that is followed, if there is one.

    Args:
        step_size: images per optimizer step.
    """
    recipe: PretrainRecipe = resolved.recipe
    name = recipe.model.method
    by, values = trained_as(name)
    if not values:
        return []
    rate = for_batch(recipe.optim, step_size).lr
    about = {"layer": f"method {name}", "step_size": step_size, "rate": rate, "more": ""}
    return sentence(resolved, name, by, values["epochs"], **about)


def dry_run(session: Session, resolved: Resolved, task: Method, data: Data) -> None:
    feed, recipe = session.feed(data.train, beside=task.beside()), resolved.recipe
    lines = method_notes(resolved, feed.step_size) + describe_parameters(task, task.backbone.stages())
    lines += describe_groups(task, for_batch(recipe.optim, feed.step_size))
    lines += describe_schedule(
        feed.steps_per_epoch, feed.step_size, recipe.schedule, for_batch(recipe.optim, feed.step_size).lr
    )
    lines.append(
        f"data\n  {sum(data.train.sizes)} training images, {sum(data.val.sizes) if data.val else 0} validation images"
    )
    lines += [f"  {line}" for line in class_lines(data)]
    height, width = pair(recipe.data.size)
    classes = f"{data.num_classes}: {listed(data.classes, 6)}" if data.classes else data.num_classes or "not used"
    lines += session.described(feed, size=f"{height} x {width}", classes=classes, tag=export_tag(recipe))
    lines += [f"warning: {sentence}" for sentence in doubts(task.train(), feed, recipe.schedule)]
    announce_plan(resolved, lines)
    announce(measured(session, task, feed, lambda: largest_batch(task, data.train, (height, width))))
