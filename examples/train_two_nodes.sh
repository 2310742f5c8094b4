#!/bin/bash
# Train on two machines that know each other by name, without a scheduler. Run it on both, with the same data and the
# same run directory (on a shared file system), the first argument being which of them this is:
#
#   first:   examples/train_two_nodes.sh 0 first.example 8 flatten_swin_tiny_in1k --data /data/imagenet --out /shared/runs/a
#   second:  examples/train_two_nodes.sh 1 first.example 8 flatten_swin_tiny_in1k --data /data/imagenet --out /shared/runs/a
#
# If a process dies, torchrun starts all of them again, up to three times, from the newest checkpoint. After a stop the
# same two commands go on.

set -euo pipefail

if [ $# -lt 4 ]; then
    echo "usage: $0 {0|1} FIRST_MACHINE PROCESSES_PER_MACHINE MODEL [options of leanformer train]" >&2
    exit 2
fi

node=$1 first=$2 processes=$3
shift 3
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

exec torchrun \
    --nnodes 2 \
    --node-rank "$node" \
    --nproc-per-node "$processes" \
    --master-addr "$first" \
    --master-port "${MASTER_PORT:-29500}" \
    --max-restarts 3 \
    -m leanformer train "$@" --resume
