"""`detect eval`: a trained detector, and its metrics on a data set.

Exported -> Trained -> evaluated         -> an evaluator, with COCO AP or panoptic quality of a data set
COCO result file    -> evaluated_results -> the same; `evaluate`, `evaluate_results`: its metrics
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from backbones import backbone
from detection.data.annotations.classes import ClassMap, UnknownCategory
from detection.data.annotations.json_values import unpacked
from detection.data.annotations.skeleton import Skeleton
from detection.data.augment.presets import Augmentation, build_augment
from detection.data.coco import CocoDetection, read_table
from detection.data.panoptic import PanopticDetection
from detection.data.photographs import chosen
from detection.eval.coco import ground_truth_as_results
from detection.eval.evaluators import Evaluator
from detection.eval.panoptic import PanopticEvaluator
from detection.eval.results import write_for_scoring
from detection.inference.for_lvis import of_another_set
from detection.inference.metrics import with_classes
from detection.inference.open_world import OpenWorld, ask, with_counts
from detection.inference.overlap import Certificate, certificate, listed_in, seen_in_training
from detection.inference.told import ask_for_classes
from detection.nets import detector, finds, is_agnostic, resize_rule
from detection.recipe import DataConfig
from detection.training.datasets import (
    EVALUATED,
    Place,
    evaluator_for,
    images_of,
    input_size,
    kind_of,
    lvis_of,
    named_validation,
    place_of,
    places,
    sides,
)
from detection.training.stored_proposals import check_given, check_maker, made_by
from detection.training.task import DetectTask
from detection.training.vocabularies import check_asked, own_vocabularies
from shared.devices.ahead import ahead
from shared.devices.device import has_native_bfloat16, precision
from shared.errors import DataError, UsageError, WeightsError
from shared.feeding.feed import in_order
from shared.files import write_json
from shared.loop.pace import rate
from shared.recipes.recipe import RuntimeConfig, all_knobs, coerce
from shared.weights.card import Exported, expected_pixels
from shared.weights.store import Store

log = logging.getLogger(__name__)
FIELDS = {"masks": "segmentation", "keypoints": "keypoints"}  # of COCO results


class Trained:
    """A trained detector with its class map, skeleton and input size, from its card.

    certificate: whether images were seen in pretraining, of the last data set that it was evaluated on.
    vocabularies: those it was trained with, one for each data set; none for networks with classes of their own.

    Args:
        exported: an export of kind "detector".
        device: device of the network.
        options: of the network, instead of those on the card.
        task: runs the network instead of one that is built here, such as a file in another runtime.

    Raises:
        WeightsError: the export is a backbone, or its weights do not match.
    """

    def __init__(
        self,
        exported: Exported,
        device: torch.device,
        options: Mapping[str, Any] | None = None,
        task: DetectTask | None = None,
    ) -> None:
        card = exported.card
        if card.kind != "detector":
            raise WeightsError(
                f"{exported} is a backbone; train a detector on it with `detect train --backbone-tag {card.tag}`"
            )
        self.exported, self.device = exported, device
        self.classes, self.finds = ClassMap.from_dict(card.classes), finds(card.args["network"])
        self.isthing: list[bool] | None = card.classes.get("isthing")
        self.skeleton = Skeleton.from_dict(card.classes["skeleton"]) if "skeleton" in card.classes else None
        self.recipe, self.vocabularies, self.dtype = card.recipe, [], None
        self.certificate: Certificate | None = None
        if task is not None:
            self.task = task
            return
        told = {**card.args["network_args"], **(options or {})}
        with torch.random.fork_rng(devices=()):  # initial values are overwritten, and the caller's state stays
            net = backbone.build(card.args["backbone"], **card.args.get("backbone_args", {}))
            built = detector.build(card.args["network"], net, len(self.classes), **told)
        Store(exported.path.parent).load(built, exported)
        self.vocabularies = own_vocabularies(card, built.state_dict())
        self.task = DetectTask(built, expected_pixels(exported)).to(device).eval()
        self.dtype = self.precision()
        if self.dtype is not None:
            self.task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def precision(self) -> torch.dtype | None:
        """The dtype of autocast: that of training, whose last evaluation gave the same number; None for float32."""
        if not self.recipe.get("amp") or (self.device.type == "cpu" and not has_native_bfloat16()):
            return None
        told = RuntimeConfig(amp=True, amp_dtype=self.recipe.get("amp_dtype", RuntimeConfig.amp_dtype))
        return precision(told, self.device)

    @property
    def told(self) -> bool:
        """Whether it is told its classes by name, and can be asked for others."""
        return bool(self.vocabularies) and not self.classes.everything

    def resize(self, size: tuple[int, ...] | None = None, max_size: int | None = None) -> Augmentation:
        """The resize of the evaluation during training; `size` and `max_size` (pixels) replace those of the card."""
        knobs = all_knobs_of_data()
        wanted = ("size", "max_size", "multiscale", "short_side_range", "antialias", "aug_type", "resize_rule")
        older = {name: knobs[name][1].default for name in wanted} | {"resize_rule": "legacy"}  # cards may lack some
        values = older | self.recipe
        own = {name: coerce(values[name], *knobs[name], name) for name in wanted}
        return build_augment(
            own["aug_type"],
            size=input_size(size or own["size"], own["aug_type"], self.exported.card.args["network"]),
            max_size=max_size or own["max_size"],
            multiscale=own["multiscale"] and size is None,
            short_sides=sides(own["short_side_range"]) if size is None else None,
            antialias=own["antialias"],
            resize_rule=own["resize_rule"] or resize_rule(self.exported.card.args["network"]),
            train=False,
        )


def all_knobs_of_data() -> dict[str, tuple[Any, Any]]:
    from detection.recipe import DetectRecipe

    return {name: (hint, f) for name, (section, f, hint) in all_knobs(DetectRecipe).items() if section == "data"}


def evaluate(config: DataConfig, trained: Trained, **how: Any) -> dict[str, float]:
    """The metrics of `evaluated`, from 0 to 1, the headline first, and those by class."""
    return with_classes(evaluated(config, trained, **how))


def evaluated(
    config: DataConfig,
    trained: Trained,
    *,
    batch_size: int,
    workers: int,
    size: tuple[int, ...] | None,
    save: Path | None,
    text_weights: Path | None = None,
    how: OpenWorld = OpenWorld(),  # noqa: B008 - a tuple
    against: Path | None = None,
) -> Evaluator:
    """A detector on a data set, as in the evaluation during training.

    Args:
        size: height and width in pixels; None for that of training.
        save: file for the detections as COCO results.
        text_weights: file of CLIP's weights, for names of --vocabulary that are not known.
        how: scores of a network on stored proposals.
        against: a file of training annotations: a warning if many of the images are listed there.
    """
    if trained.isthing is not None and config.dataset == "auto":
        config = replace(config, dataset="coco_panoptic")
    check_asked(trained.exported.card.args["network"], config.vocabulary)
    place = validation_place(config, trained.finds)
    try:
        dataset = images_of(kind_of(config, trained.finds))(
            place.images,
            place.annotations,
            None if trained.told or is_agnostic(trained.exported.card.args["network"]) else trained.classes,
            trained.resize(size, config.max_size),
            finds=trained.finds,
            skeleton=skeleton_of(config) or trained.skeleton,
            lvis=lvis_of(config),
            turn=chosen(upright=config.upright, as_stored=config.as_stored),
        )
    except UnknownCategory as error:
        raise of_another_set(trained.exported, place.annotations or place.images, config.dataset, error) from None
    if trained.told or config.vocabulary:
        ask_for_classes(trained, dataset, config.vocabulary, text_weights)
    ask(trained, how._replace(new_names=config.vocabulary is not None))
    dataset.partial = bool(trained.classes.joined)
    dataset.check_usable(EVALUATED)
    take_proposals(dataset, config, trained, any_proposals=how.any_proposals)
    take_sigmas(dataset, config)
    tell(dataset)
    for sentence in seen_in_training(dataset, trained.exported) + (listed_in(dataset, against) if against else []):
        log.warning("%s", sentence)
    trained.certificate = checked = certificate(dataset, trained.exported)
    for sentence in checked.lines():
        (log.info if checked.clean else log.warning)("%s", sentence)
    trained.task.evaluator = lambda: evaluator_for(dataset, config, trained.exported.card.args["network"])
    batches = in_order(dataset, batch_size, workers=workers, pin=trained.device.type == "cuda")
    began = time.perf_counter()
    with torch.autocast(trained.device.type, trained.dtype, enabled=trained.dtype is not None):
        evaluator = with_counts(lambda: trained.task.evaluated(ahead(batches, trained.device)), trained, how)
    kind = "float32" if trained.dtype is None else str(trained.dtype).removeprefix("torch.")
    log.info("evaluated %s on %s in %s", rate(len(dataset), time.perf_counter() - began), trained.device, kind)
    if save is not None:
        save_results(evaluator, save)
    return evaluator


def take_proposals(dataset: CocoDetection, config: DataConfig, trained: Trained, *, any_proposals: bool) -> None:
    """Give the data the stored proposals of --proposals. Raises WeightsError if other weights made them."""
    card = trained.exported.card
    check_given(config, card.args["network"])
    dataset.take_proposals(config.proposals)
    maker = made_by(dataset)
    if maker is not None and not any_proposals:
        again = "make them with `detect propose --weights {tag}@{digest:.6}`".format(
            **card.data.get("proposals", maker)
        )
        check_maker(card, maker, f"{again}, or add --any-proposals")


def save_results(evaluator: Evaluator, path: Path) -> None:
    """Write the results, so that pycocotools gives the same numbers from the files, and say which file is for what."""
    if isinstance(evaluator, PanopticEvaluator):
        write_json(path, evaluator.results())
        log.info("wrote %s", path)
        return
    written = write_for_scoring(path, evaluator.results())
    log.info("wrote %s", written[0])
    if len(written) > 1:
        kind = next(kind for kind in evaluator.kinds if kind != "boxes")
        log.info(
            "pycocotools gives the %s AP from %s, and the box AP from %s: a bbox beside %s would change their areas",
            kind.removesuffix("s"),
            written[0],
            written[1],
            kind,
        )


def evaluate_results(config: DataConfig, results: str, against: Path | None = None) -> dict[str, float]:
    """The metrics of `evaluated_results`, from 0 to 1."""
    return evaluated_results(config, results, against).summary()


def evaluated_results(config: DataConfig, results: str, against: Path | None = None) -> Evaluator:
    """A result file, or the ground truth (results="truth"), whose AP should be 1.

    Masks and keypoints are evaluated if both the results and the annotations have them.

    Raises:
        DataError: the file is not a list of COCO results.
    """
    if config.dataset == "coco_panoptic":
        return evaluate_segments(config, results)
    found = None if results == "truth" else read_results(results)
    wanted = (
        FIELDS if found is None else {kind: field for kind, field in FIELDS.items() if any(e.get(field) for e in found)}
    )
    learns = (
        ("keypoints",) if found is not None and "keypoints" in wanted and config.dataset not in ("coco", "lvis") else ()
    )
    place = validation_place(config, learns)
    held = what_is_held(place) if wanted else ()
    for kind in wanted:
        if found is not None and kind not in held:
            log.warning("%s has no %s, so those of %s are not evaluated", place.annotations, kind, results)
    turn = chosen(upright=config.upright, as_stored=config.as_stored)
    both = tuple(kind for kind in wanted if kind in held)
    if found and any("bbox" in entry and FIELDS[kind] in entry for kind in both for entry in found):
        log.info(
            "%s has a bbox beside %s: for small, medium and large ones pycocotools takes the areas of the boxes; "
            "these numbers take their own",
            results,
            " and ".join(both),
        )
    dataset = CocoDetection(
        place.images,
        place.annotations,
        finds=both,
        skeleton=skeleton_of(config),
        lvis=lvis_of(config),
        need_images=False,
        turn=turn,
    )
    take_sigmas(dataset, config)
    tell(dataset)
    for sentence in listed_in(dataset, against) if against else []:
        log.warning("%s", sentence)
    evaluator = evaluator_for(dataset, config)
    assert not isinstance(evaluator, PanopticEvaluator)
    evaluator.merge([ground_truth_as_results(dataset) if found is None else found])
    return evaluator


def evaluate_segments(config: DataConfig, results: str) -> PanopticEvaluator:
    """The panoptic segments of a COCO panoptic JSON with its folder of PNGs, or the ground truth ("truth"), whose
    quality is 1.

    Raises:
        UsageError: the annotations are in shards.
    """
    place = validation_place(config, ("masks",))
    if place.annotations is None:
        raise UsageError("panoptic annotations cannot be in shards; give the image folder and the JSON file")
    evaluator = PanopticEvaluator(PanopticDetection(place.images, place.annotations, finds=("masks",)))
    evaluator.merge([place.annotations if results == "truth" else Path(results)])
    return evaluator


def read_results(path: str) -> list[Any]:
    """The entries of a COCO result file. Raises DataError if it is not one."""
    try:
        found = json.loads(unpacked(Path(path).read_bytes()))
        if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
            raise ValueError("not a list of results")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read as COCO results ({error}); give a file that `detect predict` wrote"
        ) from None
    return found


def what_is_held(place: Place) -> tuple[str, ...]:
    """What annotations have besides boxes: "masks" if every object has one, "keypoints" if any has."""
    table = read_table(place.images, place.annotations, None)
    masks = table.masks is not None and bool(((table.masks.rings > 0) | (table.masks.in_code > 0)).all())
    return (*(("masks",) if masks else ()), *(("keypoints",) if table.keypoints is not None else ()))


def skeleton_of(config: DataConfig) -> Skeleton | None:
    """The skeleton of --keypoints-file, or None."""
    return None if config.keypoints_file is None else Skeleton.from_yaml(config.keypoints_file)


def take_sigmas(dataset: CocoDetection, config: DataConfig) -> None:
    """Set the OKS sigmas of --oks-sigmas, and say where others than COCO's are used for 17 keypoints.

    Raises:
        UsageError: the data set has no keypoints.
    """
    if config.oks_sigmas:
        if dataset.skeleton is None:
            raise UsageError("--oks-sigmas needs keypoints, and none are evaluated; remove it")
        dataset.skeleton = dataset.skeleton.with_sigmas(config.oks_sigmas)
    for note in dataset.skeleton.notes if dataset.skeleton is not None else []:
        log.warning("%s: %s", dataset.table.path, note)


def tell(dataset: CocoDetection) -> None:
    """Log the notes about the annotations."""
    for note in dataset.notes:
        log.info("validation data: %s", note)


def validation_place(config: DataConfig, learns: Sequence[str] = ()) -> Place:
    """The validation images, or the training images if there are no others.

    Args:
        learns: "masks", "keypoints": needed besides boxes.
    """
    lvis = config.dataset == "lvis" and config.data_path is not None
    if config.val_path is not None or (lvis and config.coco_val_json_path is not None):
        return named_validation(config)
    if lvis and config.data_path is not None and config.coco_json_path is None:
        return place_of(config.data_path, None, "val", "lvis")
    training, validation = places(config, learns)
    return validation or training
