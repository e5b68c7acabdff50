#!/usr/bin/env bash
# All benchmarks against reference implementations: CPU time on one thread, medians of ratios within one run.
# CHORDATE_REAL_DATA names the folder with imagenet-sample/ and coco-tiny/; without it the data benchmarks are skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1
python=.venv/bin/python
echo "== start-up";       $python tests/bench/bench_start.py
echo "== the loop";       $python -W ignore tests/bench/bench_loop.py
echo "== I-JEPA";         $python -W ignore tests/bench/bench_ijepa.py
echo "== MAE";            $python -W ignore tests/bench/bench_mae.py
echo "== VICReg";         $python -W ignore tests/bench/bench_vicreg.py ${CHORDATE_REAL_DATA:+--data "$CHORDATE_REAL_DATA"}
echo "== deformable attention"; $python -W ignore tests/bench/bench_deform.py
echo "== matching";       $python -W ignore tests/bench/bench_matching.py
echo "== DETR";           $python -W ignore tests/bench/bench_detr_step.py
echo "== detectors";      $python -W ignore tests/bench/bench_detector_steps.py
echo "== SMCA";           $python -W ignore tests/bench/bench_smca_step.py
echo "== R-CNNs";         $python -W ignore tests/bench/bench_rcnn_steps.py
echo "== open vocabulary"; $python -W ignore tests/bench/bench_open_vocabulary.py
echo "== exported detectors"; $python -W ignore tests/bench/bench_export.py ${CHORDATE_REAL_DATA:+--data "$CHORDATE_REAL_DATA"}
echo "== COCO AP";        $python -W ignore tests/bench/bench_coco_eval.py
echo "== what explains an AP"; $python -W ignore tests/bench/bench_explained.py
echo "== intervals of AP"; $python -W ignore tests/bench/bench_intervals.py
echo "== how often intervals hold"; $python -W ignore tests/bench/bench_interval_coverage.py
echo "== LVIS AP";        $python -W ignore tests/bench/bench_lvis_eval.py
echo "== mask and keypoint AP"; $python -W ignore tests/bench/bench_mask_keypoint_eval.py
echo "== opening a large COCO file"; $python -W ignore tests/bench/bench_opening.py
echo "== test images among pretraining images"; $python -W ignore tests/bench/bench_lookalikes.py ${CHORDATE_REAL_DATA:+--data "$CHORDATE_REAL_DATA"}
echo "== planning 14 million images"; $python -W ignore tests/bench/bench_pack_plan.py
echo "== detect doctor"; $python -W ignore tests/bench/bench_doctor.py
if [ -n "${CHORDATE_REAL_DATA:-}" ]; then
  echo "== detect doctor --pixels"; $python -W ignore tests/bench/bench_doctor_pixels.py --data "$CHORDATE_REAL_DATA"
  echo "== taking a batch from a worker"; $python -W ignore tests/bench/bench_handover.py --data "$CHORDATE_REAL_DATA"
  echo "== pretraining data"; $python -W ignore tests/bench/bench_pretrain_data.py --data "$CHORDATE_REAL_DATA"
  echo "== mask and keypoint data"; $python -W ignore tests/bench/bench_mask_data.py --data "$CHORDATE_REAL_DATA"
  echo "== detection data";   $python -W ignore tests/bench/bench_detection_data.py --data "$CHORDATE_REAL_DATA"
else
  echo "== data benchmarks left out: CHORDATE_REAL_DATA is not set"
fi
if $python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "== training steps on the GPU"; $python -W ignore tests/bench/bench_gpu_steps.py
fi
