#!/bin/bash
# Train on several nodes of a Slurm cluster. What follows the script's name is what follows `leanformer train`:
#
#   sbatch examples/slurm_train.sh swiftformer_l1_in1k --data /data/imagenet --out runs/l1 --checkpoint-every-steps 500
#
# The job puts itself back into the queue three minutes before its time is over, and Slurm does if it takes the nodes
# away; either way it goes on from its newest checkpoint. Each node runs one torchrun, which starts a process for each GPU.

#SBATCH --job-name=leanformer
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
#SBATCH --output=%x-%j.log

set -euo pipefail

if [ $# -eq 0 ]; then
    echo "usage: sbatch $0 MODEL --data DATA --out RUN [more options of leanformer train]" >&2
    exit 2
fi

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
processes=${PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

queue_again() {
    trap '' USR1
    echo "$(date -Is) time is almost over: saving, then back into the queue"
    kill -TERM "$step" 2>/dev/null || true
    wait "$step" || true
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
trap queue_again USR1

# --resume starts a run that has no checkpoint yet from its first step, and leaves a finished one as it is.
srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" \
    --nproc-per-node "$processes" \
    --rdzv-backend c10d \
    --rdzv-endpoint "${nodes[0]}:${MASTER_PORT:-29500}" \
    --rdzv-id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
    --max-restarts 3 \
    -m leanformer train "$@" --resume &
step=$!
wait "$step"
