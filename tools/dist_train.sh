#!/usr/bin/env bash
# Train with several processes:  tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
#
# Several machines: the same command on each, with NNODES, NODE_RANK (0, 1, ...), MASTER_ADDR
# (address of machine 0) and PORT (default 29500) in the environment. Without CUDA, GPUS is the
# number of CPU processes. batch_size in the config counts per process.
set -euo pipefail

if (($# < 2)); then
    sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
config=$1 gpus=$2
shift 2

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$gpus" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$(dirname "${BASH_SOURCE[0]}")/train.py" "$config" --launcher pytorch "$@"
