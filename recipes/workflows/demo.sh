#!/usr/bin/env bash
# The whole pipeline on the built-in demo data: `make demo`. About five minutes on two cores.
#
# Question: does a detector learn faster from a backbone pretrained on the objects it has to find?
# Data: scans of handwritten digits, pasted on photographs. The backbone is pretrained on 6,000 small images of one digit
# each; the detector gets only 120 scenes of small, crowded digits, too few to learn ten shapes well.
# No scan of the validation scenes is used in any training run.
# One pair of runs could differ by chance: three pairs, each with a seed of its own, tell whether it does.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH" CHORDATE_CACHE="$PWD/demo-data"

trap 'kill $(jobs -p) 2> /dev/null || true' EXIT  # a demo that is stopped leaves no training behind

number=1; while [ -e "demo-runs/$number" ]; do number=$((number + 1)); done
out="demo-runs/$number"

echo; echo "== 1/3  pretrain a small backbone on shards and export it under the tag 'digits'"
pretrain fingerprint  # for the certificate that no validation scene was seen in pretraining
pretrain train --model resnet10t --tag digits --name pretrain --output-dir "$out" --weights-dir "$out/weights"

echo; echo "== 2/3  train a detector three times on that backbone and three times from scratch, two runs at a time"
# the parts could be on two machines; each run is an ordinary run folder, with its log
question=(--network fcos --width 64 --depth 1 --backbone resnet10t --arms scratch digits --seeds 3 --lr-grid 1
  --size 160 --epochs 7 --lr 0.001 --eval-every 7 --weights-dir "$out/weights" --output "$out/ablation")
OMP_NUM_THREADS=1 detect ablate "${question[@]}" --part 1/2 & first=$!
OMP_NUM_THREADS=1 detect ablate "${question[@]}" --part 2/2 & second=$!
wait $first; wait $second

echo; echo "== 3/3  what the six runs say"
detect ablate "${question[@]}"  # does what is missing, which is nothing but the page
detect report "$out/ablation/runs/"*-seed0 --output "$out/report.html"
