"""Flags of other programs of this field: Ultralytics, timm, torchvision's references, DETR, detectron2, mmdetection.

    --imgsz 640     the same as --size 640, and read as it      SAME
    --patience 20   nothing here; the sentence says what is      ELSEWHERE

A flag is looked up here only if the command does not have it itself, and read as another only if the command has that
one.
"""

from __future__ import annotations

from collections.abc import Container

SAME: dict[str, tuple[str, ...]] = {  # flag of ours: those that mean the same elsewhere
    "--data-path": ("--data", "--data-dir", "--data-root", "--dataset-dir", "--dataset-path", "--train-data",
                    "--train-dir", "--train-path", "--train-images", "--img-dir", "--image-dir", "--root-dir"),
    "--val-path": ("--val-data", "--val-dir", "--val-images", "--validation-data", "--validation-dir"),
    "--coco-json-path": ("--ann-file", "--annotations", "--annotation-file", "--ann", "--json-path", "--train-json",
                         "--train-ann-file", "--train-annotations"),
    "--coco-val-json-path": ("--val-json", "--val-ann-file", "--val-annotations"),
    "--size": ("--imgsz", "--img", "--img-size", "--image-size", "--input-size", "--resolution", "--crop-size",
               "--train-crop-size"),
    "--max-size": ("--max-img-size", "--max-image-size"),
    "--batch-size": ("--batch", "--bs", "--train-batch-size", "--per-device-train-batch-size", "--batch-size-per-gpu"),
    "--num-workers": ("--workers", "--num-worker", "--nw", "--dataloader-num-workers", "--num-data-workers"),
    "--device": ("--gpu", "--gpu-id", "--cuda-device"),
    "--min-score": ("--conf", "--conf-thres", "--conf-threshold", "--conf-thresh", "--confidence",
                    "--confidence-threshold", "--score-thr", "--score-thresh", "--score-threshold", "--threshold",
                    "--box-score-thresh"),
    "--nms-iou": ("--iou", "--iou-thres", "--iou-threshold", "--iou-thresh", "--nms-thr", "--nms-thresh",
                  "--nms-threshold", "--box-nms-thresh"),
    "--csv": ("--save-csv",),
    "--tiles": ("--slice-size", "--slice-height", "--slice-width"),
    "--tile-overlap": ("--overlap-ratio", "--overlap-height-ratio", "--overlap-width-ratio"),
    "--max-detections": ("--max-det", "--max-dets", "--max-per-img", "--detections-per-img",
                         "--box-detections-per-img"),
    "--weights": ("--model", "--ckpt", "--checkpoint", "--model-path", "--weights-path", "--model-weights"),
    "--init-from": ("--weights", "--ckpt", "--checkpoint", "--load-from", "--finetune", "--pretrain-weights",
                    "--initial-checkpoint", "--load"),
    "--lr": ("--lr0", "--learning-rate", "--base-lr"),
    "--opt": ("--optimizer", "--optim"),
    "--momentum": ("--sgd-momentum",),
    "--lr-scheduler": ("--sched", "--scheduler", "--lr-sched", "--lr-schedule", "--lr-scheduler-type"),
    "--lr-cosine-min": ("--min-lr", "--lr-min", "--eta-min", "--final-lr"),
    "--lr-step-size": ("--decay-epochs", "--step-size"),
    "--lr-steps": ("--decay-milestones", "--milestones", "--lr-milestones"),
    "--lr-step-gamma": ("--decay-rate", "--gamma"),
    "--warmup-epochs": ("--lr-warmup-epochs",),
    "--warmup-steps": ("--warmup-iters", "--lr-warmup-iters", "--num-warmup-steps"),
    "--clip-grad-norm": ("--clip-grad", "--max-grad-norm", "--max-norm", "--grad-clip", "--gradient-clip-val"),
    "--grad-accum-steps": ("--accumulate", "--accum-iter", "--grad-accum", "--accum-steps", "--update-freq",
                           "--gradient-accumulation-steps", "--accumulate-grad-batches"),
    "--epochs": ("--max-epochs", "--num-train-epochs", "--n-epochs", "--nepochs"),
    "--output-dir": ("--project", "--output", "--out-dir", "--work-dir", "--save-dir", "--output-folder",
                     "--save-path"),
    "--output": ("--project", "--output-dir", "--out-dir", "--work-dir", "--save-dir", "--save-path"),
    "--name": ("--experiment", "--exp-name", "--experiment-name", "--run-name"),
    "--log-every": ("--log-interval", "--log-freq", "--logging-steps", "--log-every-n-steps"),
    "--eval-every": ("--val-interval", "--eval-interval", "--eval-freq", "--val-freq", "--check-val-every-n-epoch"),
    "--keep-epochs": ("--save-period", "--save-freq", "--save-interval", "--checkpoint-freq", "--checkpoint-period"),
    "--amp": ("--native-amp", "--fp16", "--mixed-precision"),
    "--amp --amp-dtype bfloat16": ("--bf16",),
    "--model-ema": ("--ema", "--use-ema", "--with-ema"),
    "--model-ema-decay": ("--ema-decay",),
    "--sync-bn": ("--sync-batchnorm", "--sync-bnorm"),
    "--use-deterministic-algorithms": ("--deterministic",),
    "--seed": ("--random-seed",),
    "--recipe": ("--config", "--cfg", "--config-file", "--cfg-file"),
    "--resume": ("--resume-from", "--auto-resume", "--resume-from-checkpoint"),
    "--dry-run": ("--print-config",),
    "--multiscale": ("--multi-scale",),
    "--lr-scheduler cosine": ("--cos-lr",),
    "--opt nesterov": ("--nesterov",),
    "--class-file": ("--class-names", "--names", "--class-map", "--labels-file", "--names-file"),
    "--model": ("--arch", "--backbone", "--backbone-name", "--network"),
    "--network": ("--model", "--arch", "--detector"),
    "--label-smoothing": ("--smoothing",),
    "--random-erase": ("--reprob", "--random-erasing"),
    "--mixup": ("--mixup-alpha",),
    "--cutmix": ("--cutmix-alpha",),
    "--dropout": ("--drop", "--drop-rate", "--dropout-rate"),
    "--drop-path": ("--drop-path-rate", "--stochastic-depth-prob"),
    "--hflip": ("--hflip-prob", "--fliplr"),
    "--val-share": ("--crop-pct",),
    "--probe-share": ("--crop-pct",),
    "--results": ("--predictions", "--pred", "--dt", "--detections"),
    "--encoder-layers": ("--enc-layers",),
    "--decoder-layers": ("--dec-layers",),
    "--feedforward": ("--dim-feedforward",),
    "--width": ("--hidden-dim",),
    "--heads": ("--nheads", "--num-heads"),
    "--decoder-width": ("--decoder-embed-dim", "--decoder-dim"),
    "--norm-pixels": ("--norm-pix-loss",),
}  # fmt: skip
PROCESSES = "processes are started from outside, as in `torchrun --nproc_per_node=2 -m PACKAGE train`; remove it"
WEIGHTS = (
    "weights of other programs are imported once, under a tag: `pretrain import FILE --model NAME --tag TAG`, then "
    "--init-tag TAG"
)
AUGMENTATION = (
    "single augmentations have no flags here; choose a set with --aug-type and its strength with --aug-level for "
    "`detect train`, and see `pretrain list methods` for `pretrain train`"
)
LOGGING = "every run logs to TensorBoard, log.jsonl and results.csv in its folder; remove it"
ELSEWHERE: dict[str, tuple[str, ...]] = {  # what to do instead: flags that mean something else, or nothing, here
    "the final learning rate is a number and not a share of --lr; use --lr-cosine-min": ("--lrf",),
    "warm-up starts at a share of --lr; use --warmup-start": ("--warmup-lr", "--warmup-bias-lr", "--lr-warmup-factor"),
    "warm-up is linear; remove it": ("--lr-warmup-method", "--warmup-momentum"),
    "a run is stopped early by --patience N, the evaluations without a better main metric": (
        "--early-stopping", "--early-stopping-patience", "--stop-epoch"),
    "a run never writes over another; give a new --name": ("--exist-ok", "--overwrite", "--overwrite-output-dir"),
    "classes are counted in the annotations; remove it, or choose them with --class-file": ("--num-classes", "--nc"),
    "the classes are those the weights were trained on; results.json has all of them to choose from": ("--classes",),
    "the images come first, as in `detect predict IMAGES --weights NAME`": (
        "--source", "--input", "--images", "--image", "--img-path", "--image-path", "--image-file", "--input-dir"),
    "the folders come first, as in `pack FROM TO`": ("--data-path", "--output-dir", "--out", "--dest"),
    "the IoU threshold of NMS belongs to the network and is set when it is trained, with --nms-iou of `detect train`": (
        "--nms-iou",),
    "the number of detections belongs to the network and is set when it is trained, with --max-detections of "
    "`detect train`": ("--max-detections",),
    "the score threshold of a network that is trained or evaluated is its --min-score, where it has one": (
        "--min-score",),
    "use --data-path with --dataset coco_panoptic": ("--coco-panoptic-path", "--dataset-type"),
    "masks come with the network; use --network mask_rcnn or detr_panoptic": ("--masks", "--segm", "--with-mask"),
    AUGMENTATION: (
        "--aa", "--auto-augment", "--augment", "--hsv-h", "--hsv-s", "--hsv-v", "--degrees", "--translate", "--shear",
        "--perspective", "--flipud", "--mosaic", "--close-mosaic", "--copy-paste", "--color-jitter", "--ra-magnitude",
        "--augmix-severity", "--remode", "--recount", "--vflip", "--auto-augment-policy", "--transforms"),
    "freeze the stem and the first N stages with --freeze-backbone-stages N": ("--freeze", "--frozen-stages"),
    WEIGHTS: ("--weights", "--ckpt", "--checkpoint", "--load-from", "--finetune", "--initial-checkpoint",
              "--init-checkpoint", "--load", "--pretrained-weights", "--backbone-weights"),
    "start from published backbone weights with --backbone-pretrained, or from a detector with --init-from": (
        "--pretrained", "--from-pretrained", "--pretrained-backbone"),
    PROCESSES: ("--world-size", "--dist-url", "--dist-backend", "--local-rank", "--gpus", "--num-gpus", "--ngpus",
                "--devices", "--nproc-per-node", "--nodes", "--num-nodes", "--num-machines", "--launcher",
                "--multiprocessing-distributed", "--distributed", "--gpu-ids", "--strategy", "--accelerator"),
    "it has no effect here: batches are pinned whenever there is a GPU; remove it": (
        "--pin-mem", "--pin-memory", "--no-pin-mem", "--no-prefetcher", "--pin-memory-device"),
    "images are not cached; pack them into shards, which are read fast, with `pack`": (
        "--cache", "--cache-dataset", "--cache-images", "--cache-mode"),
    "use --compile": ("--torchcompile", "--torch-compile", "--use-compile"),
    "trained weights are evaluated by the command `eval`": (
        "--eval", "--eval-only", "--evaluate", "--test-only", "--test", "--only-eval"),
    "--resume continues at the exact step; remove it": ("--start-epoch",),
    "use --opt adamw, whose epsilon is 1e-8; remove it": ("--opt-eps", "--adam-epsilon"),
    "the splits are folders, or shards by name: train-*.tar and val-*.tar, or --val-path": (
        "--train-split", "--val-split", "--split", "--dataset-download"),
    "the data are images of shards or folders; give --data-path": ("--dataset", "--dataset-name", "--dataset-file"),
    "pixel mean and std have a name; use --rgb-mode": ("--mean", "--std", "--pixel-mean", "--pixel-std"),
    "the widest aspect ratio of a crop is --crop-ratio, the smallest area --crop-scale": ("--ratio",),
    "detections are written with --save FILE": ("--save-json", "--save-txt", "--save-results"),
    "pictures and results.json are written into the folder --output": (
        "--show", "--view-img", "--save-img", "--visualize", "--save-crop", "--show-dir", "--save-conf"),
    "the command is a word, as in `detect train` or `detect predict`": ("--task", "--mode"),
    "use --lr-batch N, the batch size that --lr is meant for": ("--auto-scale-lr", "--scale-lr", "--blr"),
    "the image size is fixed by --size; validation crops by --val-share": (
        "--val-resize-size", "--val-crop-size", "--interpolation", "--train-interpolation", "--rect"),
    "validation uses the --batch-size of training": ("--validation-batch-size", "--val-batch-size",
                                                     "--eval-batch-size", "--per-device-eval-batch-size"),
    LOGGING: ("--wandb", "--log-wandb", "--use-wandb", "--tensorboard", "--log-dir", "--report-to", "--verbose",
              "--wandb-project"),
}  # fmt: skip


def _by_flag(table: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    turned: dict[str, list[str]] = {}
    for ours, theirs in table.items():
        for flag in theirs:
            turned.setdefault(flag, []).append(ours)
    return turned


OURS, INSTEAD = _by_flag(SAME), _by_flag(ELSEWHERE)


def read_as(flag: str, known: Container[str]) -> list[str] | None:
    """The words that a flag of another program stands for, if the command knows them.

    Args:
        flag: with dashes, such as '--imgsz'.
        known: the flags of the command.
    """
    for ours in OURS.get(flag, ()):
        words = ours.split()
        if words[0] in known:
            return words
    return None


def what_instead(flag: str) -> str | None:
    """What to do instead of a flag that has no counterpart in the command, or None."""
    own = [sentence for name in (flag, *OURS.get(flag, ())) for sentence in INSTEAD.get(name, ())]
    return own[0] if own else None
