#!/usr/bin/env bash
# The six backbones of seed 004 as its page starts them on one host with eight GPUs, under mpirun.
#
#   bash recipes/workflows/mpirun.sh /data/imagenet/shards hrnet_w32c [more flags of pretrain train]
#
# The page says --train_data_dir, --validation_data_dir, -b 128, --model hrnet_w32c and --schedule cosine: all of them are
# understood here, and the recipe brings the last three and the rest of the settings. TFRecords become shards first:
#
#   pretrain pack --from tfrecord /data/imagenet/tf_records/train /data/imagenet/shards
#
# TF_XLA_FLAGS has no meaning here and is gone; what else mpirun was told is as it was. PROCESSES=2 takes fewer GPUs.
set -euo pipefail
shards=${1:?"say where the shards are"} recipe=${2:?"say which recipe, such as hrnet_w32c"}
shift 2
processes=${PROCESSES:-8}

exec mpirun -np "$processes" -H "localhost:$processes" -map-by slot -x NCCL_DEBUG=INFO \
  -mca btl ^vader -mca btl_tcp_if_exclude tun0,docker0,lo --bind-to none --allow-run-as-root \
  pretrain train --recipe "$recipe" --train-data-dir "$shards" "$@"
