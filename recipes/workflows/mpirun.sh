#!/usr/bin/env bash
# The six backbones of AWS's backbone training, started with mpirun on one host with eight GPUs as in AWS's instructions.
#
#   bash recipes/workflows/mpirun.sh /data/imagenet/shards hrnet_w32c [more flags of pretrain train]
#
# AWS's flags --train_data_dir, --validation_data_dir, -b 128, --model hrnet_w32c and --schedule cosine are accepted here, and
# the recipe sets the last three and all other settings. Convert TFRecords to shards first:
#
#   pretrain pack --from tfrecord /data/imagenet/tf_records/train /data/imagenet/shards
#
# TF_XLA_FLAGS is left out, since it has no effect here; the other mpirun options are unchanged. PROCESSES=2 uses fewer GPUs.
set -euo pipefail
shards=${1:?"give the folder of shards"} recipe=${2:?"give a recipe, such as hrnet_w32c"}
shift 2
processes=${PROCESSES:-8}

exec mpirun -np "$processes" -H "localhost:$processes" -map-by slot -x NCCL_DEBUG=INFO \
  -mca btl ^vader -mca btl_tcp_if_exclude tun0,docker0,lo --bind-to none --allow-run-as-root \
  pretrain train --recipe "$recipe" --train-data-dir "$shards" "$@"
