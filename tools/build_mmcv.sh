#!/usr/bin/env bash
# Builds mmcv with its ops for the given Python unless the cache has it; prints the wheel's path.
#   build_mmcv.sh [PYTHON]      cache: MMJEPA_CACHE, default ~/.cache/mmjepa
# Progress goes to stderr. The version is the one in requirements/mm3d.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

py=${1:-python3}
spec=$(grep -E '^mmcv==' requirements/mm3d.txt)
cache=${MMJEPA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mmjepa}

say() { echo "[mmcv] $*" >&2; }
die() { say "$*"; exit 1; }

# ninja writes lines such as `[12/93] c++ ...`; every third is shown
progress() {
    local line
    while IFS= read -r line; do
        if [[ $line =~ ^\ *\[([0-9]+)/([0-9]+)\] ]]; then
            if ((BASH_REMATCH[1] % 3 == 0 || BASH_REMATCH[1] == BASH_REMATCH[2])); then
                say "${BASH_REMATCH[1]} of ${BASH_REMATCH[2]} files compiled"
            fi
        fi
    done
}

# ops for CUDA need a device in sight (or FORCE_CUDA=1) and nvcc; otherwise the CPU ops are built
read -r key cuda <<< "$("$py" - << 'EOF'
import os, sys
import torch
from torch.utils.cpp_extension import CUDA_HOME
wanted = torch.cuda.is_available() or os.environ.get('FORCE_CUDA') == '1'
cuda = f'cu{torch.version.cuda}' if wanted and CUDA_HOME and torch.version.cuda else 'cpu'
print(f'torch{torch.__version__}-py{sys.version_info[0]}{sys.version_info[1]}-{cuda}', cuda)
EOF
)"
dir=$cache/wheels/$key
wheel=$(compgen -G "$dir/${spec/==/-}-*.whl" | head -n 1 || true)
if [[ -n $wheel ]]; then
    say "taking $spec from $dir"
    echo "$wheel"
    exit
fi

command -v g++ > /dev/null && command -v gcc > /dev/null ||
    die "no C++ compiler; on Debian: apt-get install gcc g++"
include=$("$py" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[[ -f $include/Python.h ]] ||
    die "$include/Python.h is missing; on Debian: apt-get install python3-dev"
if [[ $cuda == cpu ]]; then
    export FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=''
fi

mkdir -p "$dir"
tmp=$(mktemp -d "$dir/build.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
log=$dir/build.log
say "compiling $spec for $key: 5 to 8 minutes on 2 cores, once (log: $log)"
export MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)} PYTHONUNBUFFERED=1
start=$SECONDS
if ! "$py" -m pip wheel -v --no-build-isolation --no-deps --no-cache-dir -w "$tmp" "$spec" 2>&1 |
    tee "$log" | progress; then
    tail -n 30 "$log" >&2
    die "the build failed; the whole output is in $log"
fi
wheel=$(compgen -G "$tmp/mmcv-*.whl" | head -n 1)
mv "$wheel" "$dir/"
say "built in $((SECONDS - start)) s"
echo "$dir/$(basename "$wheel")"
