#!/usr/bin/env bash
# The auto-labeler: trains a class-agnostic object detector and uses it to annotate unlabeled photographs.
#
#   bash recipes/workflows/auto_labeler.sh COCO MINE NEW [more flags for every training run]
#   bash recipes/workflows/auto_labeler.sh COCO MINE NEW --scale tiny          a test run of a few minutes on a laptop
#
#   COCO   a COCO folder (train2017/ val2017/ annotations/) for the first training run
#   MINE   a COCO folder of your own (train/ val/ annotations/instances_{train,val}.json), a few hundred images
#   NEW    a folder of photographs without labels
#
# Training has three steps: the detector on COCO's classes; a new head for a single class, everything else frozen; everything
# but the backbone. VARIANT=fcos trains FCOS on EfficientNetV2-M instead, with a warm-up step first. Boxes with a score of at
# least MIN_SCORE (0.5) become annotations: check the rendered images next to them, correct the errors, and train on them with
#   detect train --data-path NEW --coco-json-path runs/auto-labeler/labeled/annotations.json
set -euo pipefail
coco=${1:?give a COCO folder} mine=${2:?give your own COCO folder} new=${3:?give a folder of new images}
shift 3
runs=${RUNS:-runs/auto-labeler}

train() { # step, data, flags
  echo; echo "== $1"
  detect train --recipe "$1" --data-path "$2" --name "$1" --output-dir "$runs" "${@:3}"
}

if [ "${VARIANT:-deformable_detr}" = fcos ]; then
  train auto_labeler_fcos_1_warmup "$coco" "$@"
  train auto_labeler_fcos_2_train "$coco" "$@" --init-from "$runs/auto_labeler_fcos_1_warmup"
  train auto_labeler_fcos_3_reset "$mine" "$@" --init-from "$runs/auto_labeler_fcos_2_train" --reset-head
  last=auto_labeler_fcos_4_finetune
  train $last "$mine" "$@" --init-from "$runs/auto_labeler_fcos_3_reset"
else
  train auto_labeler_1_train "$coco" "$@"
  train auto_labeler_2_reset "$mine" "$@" --init-from "$runs/auto_labeler_1_train" --reset-head
  last=auto_labeler_3_finetune
  train $last "$mine" "$@" --init-from "$runs/auto_labeler_2_reset"
fi

echo; echo "== labels for $new"
detect predict "$new" --weights "$runs/$last" --save coco --min-score "${MIN_SCORE:-0.5}" --output "$runs/labeled"
