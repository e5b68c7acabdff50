"""From paths to data sets: where training and validation images and annotations are, opened.

a folder, or images and annotations separately -> places -> which kind -> CocoDetection or PanopticDetection
nothing                                        -> the built-in demo data
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detection.data.annotations.classes import ClassMap
from detection.data.annotations.joins import read_join
from detection.data.annotations.lvis import check_training
from detection.data.annotations.skeleton import Skeleton
from detection.data.augment.presets import MADE_FOR, build_augment
from detection.data.coco import CocoDetection, aspect_ratios, coco_layout
from detection.data.panoptic import PanopticDetection, panoptic_layout
from detection.data.photographs import chosen
from detection.data.repeat_factors import note_on_repeats, repeat_factors
from detection.data.several import OneOf, SeveralSets
from detection.data.shards import holds_shards
from detection.eval.evaluators import Evaluator, evaluator_of
from detection.nets import default_size, finds, is_agnostic, resize_rule, segments, takes_several
from detection.recipe import DataConfig, DetectRecipe
from detection.training.data_notes import notes_on_photographs, notes_on_shared, notes_on_small
from detection.training.sets import sets_of
from detection.training.start import take_classes
from detection.training.stored_proposals import check_given, check_one_maker
from shared.errors import DataError, UsageError
from shared.feeding.repeat import Repeats
from shared.files import cache_dir
from shared.recipes.files import recipe_folder
from shared.runs.session import pair
from shared.weights.card import Exported
from shared.weights.seen import Record, digests_of, record_of, together, write_digests

EVALUATED = "validation needs every image: correct or remove them, in the annotations too"


class OpenSet(NamedTuple):
    """One of several data sets.

    name: for metrics, logs and cards.
    share: how often its images come in an epoch.
    config: the data section as if it were the only set.
    """

    name: str
    share: float
    config: DataConfig
    train: CocoDetection
    val: CocoDetection | None


class Data(NamedTuple):
    """Training and validation images; `val` may be None.

    samples: what the feed reads: `train`, or all sets, of which `train` and `val` are the first one's.
    sets: of several.
    """

    train: CocoDetection
    val: CocoDetection | None
    samples: CocoDetection | SeveralSets
    sets: tuple[OpenSet, ...] = ()

    @property
    def trains(self) -> list[CocoDetection]:
        """The training images of every set."""
        return [one.train for one in self.sets] or [self.train]

    @property
    def vals(self) -> dict[str, CocoDetection]:
        """The validation images of every set that has some, by its name; '' for the only set."""
        named = [(one.name, one.val) for one in self.sets] or [("", self.val)]
        return {name: val for name, val in named if val is not None}


class Place(NamedTuple):
    """A folder of images and its annotation file; None for shards, which contain theirs."""

    images: Path
    annotations: Path | None


def open_data(recipe: DetectRecipe, start: Exported | None = None) -> Data:
    """The recipe's training and validation data, of all its sets; the demo data when it gives none.

    Args:
        start: a trained detector whose classes label the images.

    Raises:
        UsageError: several sets for a network with one list of classes, without a list that joins theirs.
    """
    several = sets_of(recipe.data)
    if len(several) == 1:
        own = replace(recipe, data=several[0].config)
        train, val = open_set(own, start, given_classes(own))
        return Data(train, val, train)
    classes, notes = given_classes(recipe), []
    if recipe.data.class_map is not None:
        classes, notes = read_join(recipe.data.class_map)
    joined = classes is not None or (start is not None and "sets" not in start.card.classes)
    check_several(recipe, joined)
    opened = []
    for name, share, config in several:
        of_set = None if classes is None else classes.only(name)
        train, val = open_set(replace(recipe, data=config), start, of_set, name)
        for images in (train, val):
            if images is not None:
                images.partial = joined
        opened.append(OpenSet(name, share, config, train, val))
    check_alike([one.train for one in opened])
    check_one_maker(*(images for one in opened for images in (one.train, one.val)))
    for one, other in permutations(opened, 2):
        if other.val is not None:
            other.val.notes += notes_on_shared(one.train, other.val, f"training data of {one.name}")
    opened[0].train.notes += notes
    parts = [OneOf(one.name, one.train, factors_of(one.train, one.config) * one.share) for one in opened]
    return Data(opened[0].train, opened[0].val, SeveralSets(parts, joined=joined), tuple(opened))


def given_classes(recipe: DetectRecipe) -> ClassMap | None:
    """The classes that flags name, or one for a network without classes; None for those of the annotations."""
    data, one_class = recipe.data, recipe.data.binary_mode or is_agnostic(recipe.model.network)
    named = shipped(data.class_file)
    wanted = [flag for flag, given in (("--binary-mode", data.binary_mode), ("--class-file", named)) if given]
    if data.class_map is not None and wanted:
        raise UsageError(f"--class-map and {wanted[0]} both say what the classes are; remove one")
    if data.class_map is not None:
        return read_join(data.class_map)[0]
    return ClassMap.binary() if one_class else ClassMap.from_file(named) if named else None


def open_set(
    recipe: DetectRecipe, start: Exported | None, wanted: ClassMap | None, name: str = ""
) -> tuple[CocoDetection, CocoDetection | None]:
    """Training and validation images of one data set.

    Args:
        start: a trained detector whose classes label the images.
        wanted: the classes; None for those of its annotations.
        name: of one of several sets.
    """
    data, learns = recipe.data, finds(recipe.model.network)
    check_given(data, recipe.model.network)
    training, validation = places(data, learns)
    turn = chosen(upright=data.upright, as_stored=data.as_stored)
    size = input_size(data.size, data.aug_type, recipe.model.network)

    def opened(place: Place, classes: ClassMap | None, skeleton: Skeleton | None, *, training: bool) -> CocoDetection:
        augment = build_augment(
            data.aug_type,
            level=data.aug_level,
            size=size,
            max_size=data.max_size,
            multiscale=data.multiscale,
            smallest_side=data.smallest_side,
            short_sides=sides(data.short_side_range),
            antialias=data.antialias,
            resize_rule=data.resize_rule or resize_rule(recipe.model.network),
            train=training,
        )
        return images_of(kind_of(data, learns))(
            place.images,
            place.annotations,
            classes,
            augment,
            ignore_file=shipped(data.ignore_file) if training else None,
            drop_empty=data.drop_empty and training,
            allow_missing=data.allow_missing_images,
            limit=data.limit,
            finds=learns,
            skeleton=skeleton,
            min_keypoints=None if training else 0,
            copy_paste=data.use_copypaste and training,
            lvis=lvis_of(data),
            turn=turn,
        )

    skeleton = Skeleton.from_yaml(data.keypoints_file) if data.keypoints_file else None
    train_set = opened(training, wanted, skeleton, training=True)
    if train_set.folders is not None:
        check_training(train_set.folders, train_set.table.path)
    if start is not None:
        take_classes(train_set, start, name)
    if data.oks_sigmas and train_set.skeleton is not None:
        train_set.skeleton = train_set.skeleton.with_sigmas(data.oks_sigmas)
    train_set.check_usable(
        "correct or remove them, or allow more with --max-bad-samples", share=recipe.runtime.max_bad_samples
    )
    val_set = opened(validation, train_set.classes, train_set.skeleton, training=False) if validation else None
    if val_set is not None:
        val_set.check_usable(EVALUATED)
        if val_set.skeleton is not None:
            val_set.notes += val_set.skeleton.notes
    if data.repeat_threshold:
        train_set.notes.append(note_on_repeats(repeat_factors(train_set, data.repeat_threshold), data.repeat_threshold))
    train_set.notes += notes_on_photographs(train_set, val_set)
    for images in (train_set, val_set):
        if images is not None:
            images.take_proposals(data.proposals)
            images.notes += notes_on_small(images)
    check_one_maker(train_set, val_set)
    return train_set, val_set


def factors_of(data: CocoDetection, config: DataConfig) -> np.ndarray:
    """(N,) float64: how often training images come in an epoch, by the rarity of their classes."""
    return repeat_factors(data, config.repeat_threshold) if config.repeat_threshold else np.ones(len(data))


def repeats_of(data: Data, config: DataConfig) -> Repeats | None:
    """How often the samples come in an epoch; None for once."""
    if isinstance(data.samples, SeveralSets):
        return data.samples.repeats
    return Repeats(factors_of(data.train, config)) if config.repeat_threshold else None


def check_several(recipe: DetectRecipe, joined: bool) -> None:
    """Raise UsageError if the network cannot learn several data sets as the recipe has them."""
    network = recipe.model.network
    if not joined and not takes_several(network):
        raise UsageError(
            f"{network} has one list of classes, and --datasets gives several; join their names with `detect "
            f"join-classes A.json B.json --output map.yaml` and give --class-map map.yaml, or a --class-file for all"
        )
    if kind_of(recipe.data, finds(network)) == "coco_panoptic" or segments(network):
        raise UsageError(f"{network} learns panoptic segmentation, from one data set; remove --datasets")


def check_alike(sets: Sequence[CocoDetection]) -> None:
    """Raise DataError if the keypoints of several sets are not the same."""
    first, *others = (data.skeleton for data in sets)
    for data, other in zip(sets[1:], others, strict=True):
        if first is not None and (other is None or other.names != first.names):
            raise DataError(
                f"the keypoints of {data.table.path} are not those of {sets[0].table.path}; train on sets with the same"
            )


def sides(given: tuple[int, ...] | None) -> tuple[int, int] | None:
    """--short-side-range as a pair."""
    return None if given is None else (given[0], given[1])


def seen_by(
    trains: Sequence[CocoDetection], parents: Sequence[Exported | None], folder: Path, **about: str
) -> Record | None:
    """Digests of the images that a run trains on, in a file of its folder, and those of the weights it starts from.

    Args:
        about: arch and tag of the weights, and where the data is, for the card.
    """
    digests = digests_of(np.concatenate([images.photographs.marks for images in trains]))
    own = write_digests(folder, digests, kind="detector", **about) if len(digests) else None
    return together([own, *(record_of(parent) for parent in parents)])


def evaluator_for(dataset: CocoDetection, config: DataConfig, network: str | None = None) -> Evaluator:
    """A new evaluator of a data set, as the recipe and the network want it; None for the network of a result file."""
    agnostic = config.class_agnostic or (network is not None and is_agnostic(network))
    return evaluator_of(dataset, config.eval_backend, class_agnostic=agnostic, ap_fixed=config.ap_fixed)


def shapes_of(data: Data, config: DataConfig) -> np.ndarray | None:
    """(N,) aspect-ratio group of each image of all sets, over ratios 1:2 to 2:1; None for no grouping."""
    factor = config.aspect_ratio_group_factor
    if factor < 0:
        return None
    if any(images.shards for images in data.trains):
        raise UsageError(
            "--aspect-ratio-group-factor needs random access, which shards do not give; remove it, or give the folder"
        )
    edges = 2 ** np.linspace(-1, 1, 2 * factor + 1) if factor else [1.0]
    return np.searchsorted(edges, np.concatenate([aspect_ratios(images) for images in data.trains]), side="right")


def lvis_of(config: DataConfig) -> bool | None:
    """Whether to follow LVIS's rules: as --dataset says, None if it does not."""
    return None if config.dataset == "auto" else config.dataset == "lvis"


def images_of(kind: str) -> Any:
    """The data set class for this kind."""
    return PanopticDetection if kind == "coco_panoptic" else CocoDetection


def shipped(path: Path | None) -> Path | None:
    """An ignore list by path, or by name one shipped with the recipes: `objects365_ignore.txt`."""
    known = recipe_folder() / "classes" / path if path is not None and path.parent == Path() else None
    return known if known is not None and known.is_file() and path is not None and not path.is_file() else path


def input_size(size: tuple[int, ...] | None, aug_type: str, network: str) -> tuple[int, int]:
    """(height, width) as given, else the augmentation's, else the network's default."""
    return pair(size) if size else MADE_FOR.get(aug_type) or default_size(network)


def places(config: DataConfig, learns: Sequence[str] = ()) -> tuple[Place, Place | None]:
    """Paths of the training and validation data.

    Args:
        learns: what the network learns besides boxes.

    Raises:
        UsageError: images without annotations, or annotations without what the network learns.
        DataError: the folder does not have the layout of COCO.
    """
    if config.dataset in ("coco", "lvis") and "keypoints" in learns:
        raise UsageError(
            f"--dataset {config.dataset} has no keypoints, which this network needs; use --dataset coco_kp or custom"
        )
    if config.data_path is None:
        if config.coco_json_path is not None:
            raise UsageError("--coco-json-path needs the folder of its images; add --data-path")
        from shared.feeding.demo import demo_data

        demo = demo_data(cache_dir() / "demo")
        named = [demo.train_json, demo.val_json]
        if config.dataset == "coco_panoptic":
            named = [path.with_name(f"panoptic_{path.name}") for path in named]
        return Place(demo.train_images, named[0]), Place(demo.val_images, named[1])
    kind = kind_of(config, learns)
    training = place_of(config.data_path, config.coco_json_path, "train", kind)
    if config.val_path is not None or config.coco_val_json_path is not None:
        return training, named_validation(config)
    whole = training.images == config.data_path and (kind != "lvis" or training.annotations is None)
    if config.coco_json_path is not None or whole:
        return training, None
    if training.annotations is None and not holds_shards(config.data_path / "val"):
        return training, None
    if kind == "custom" and not any((config.data_path / name).is_dir() for name in ("test", "val")):
        return training, None
    return training, place_of(config.data_path, None, "val", kind)


def kind_of(config: DataConfig, learns: Sequence[str]) -> str:
    """The kind of annotations: as given, else recognized from the folder and what the network learns."""
    if config.dataset != "auto":
        return config.dataset
    if config.data_path is not None and (config.data_path / "train" / "annotations").is_dir():
        return "custom"
    return "coco_kp" if "keypoints" in learns else "coco"


def place_of(images: Path, annotations: Path | None, split: str, kind: str = "coco") -> Place:
    """Resolve one path: images of a COCO file, a folder of shards, or a data set folder with a split of either."""
    if annotations is not None:
        return Place(images, annotations)
    shards = next((folder for folder in (images, images / split) if holds_shards(folder)), None)
    if shards is not None:
        return Place(shards, None)
    return Place(*(panoptic_layout(images, split) if kind == "coco_panoptic" else coco_layout(images, split, kind)))


def named_validation(config: DataConfig) -> Place:
    """--val-path with --coco-val-json-path. Raises UsageError unless both are given, or the path has shards.

    LVIS's annotations need no --val-path: all images are in the COCO folder --data-path.
    """
    if config.dataset == "lvis" and config.val_path is None and config.data_path is not None:
        return Place(config.data_path, config.coco_val_json_path)
    if config.val_path is None or (config.coco_val_json_path is None and not holds_shards(config.val_path)):
        raise UsageError("--val-path and --coco-val-json-path go together; give both, neither, or a folder of shards")
    return Place(config.val_path, config.coco_val_json_path)
