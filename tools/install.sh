#!/usr/bin/env bash
# One installation step of the Makefile: install.sh torch SPEC | base | dev | docs | all
# Reads PYTHON, VENV, PIP_ARGS. pip's full output goes to $VENV/pip.log, its milestones to the
# terminal.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3} VENV=${VENV:-.venv}
py=$VENV/bin/python
log=$VENV/pip.log
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { echo "[install] $*"; }
die() { echo "[install] $*" >&2; exit 1; }

make_venv() {
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "Python 3.11 or newer is needed; name one: make PYTHON=python3.11"
    say "creating $VENV with $("$PYTHON" --version)"
    "$PYTHON" -m venv --clear "$VENV" ||
        die "python -m venv failed; on Debian: apt-get install python3-venv"
}

# of pip's output, one line for each download of a megabyte or more, and for the last step
milestones() {
    local line
    while IFS= read -r line; do
        if [[ $line =~ Downloading\ ([^-\ ]+-[^-\ ]+).*\(([0-9.]+\ [MG]B)\) ]]; then
            echo "  ${BASH_REMATCH[1]/-/ } (${BASH_REMATCH[2]})"
        elif [[ $line == *'Installing collected packages'* ]]; then
            echo "  installing $(($(tr -cd , <<< "$line" | wc -c) + 1)) packages"
        fi
    done
}

pip_install() {
    # shellcheck disable=SC2086  # PIP_ARGS is a list of options
    if ! "$py" -m pip install --progress-bar off ${PIP_ARGS:-} "$@" 2>&1 | tee -a "$log" | milestones; then
        tail -n 25 "$log" >&2
        die "pip install $* failed; the whole output is in $log"
    fi
}

# opencv-python wants libGL and libglib; its headless twin does not and has the same functions here.
repair_cv2() {
    "$py" -c 'import cv2' 2>> "$log" && return
    local version
    version=$("$py" -c 'from importlib.metadata import version as v; print(v("opencv-python"))')
    say "a system library of opencv-python is missing: opencv-python-headless takes its place"
    "$py" -m pip uninstall -q -y opencv-python opencv-python-headless >> "$log" 2>&1
    pip_install --no-deps "opencv-python-headless==$version"
    "$py" -c 'import cv2' || die "cv2 does not import; on Debian: apt-get install libgl1 libglib2.0-0"
}

# open3d links against libX11 and libGL for its windows, which the ray caster never opens. Where they
# are absent, stand-ins in open3d's own library path let it import; a call into them aborts.
repair_open3d() {
    local folder library
    folder=$("$py" -c 'import importlib.util as u; s = u.find_spec("open3d"); print(s.submodule_search_locations[0] if s else "")')
    if [[ -z $folder ]] || "$py" -W ignore -c 'import open3d' 2>> "$log"; then return; fi
    for library in libX11.so.6 libGL.so.1; do
        if "$py" -c "import ctypes; ctypes.CDLL('$library')" 2> /dev/null; then continue; fi
        printf 'void %s(void) { __builtin_trap(); }\n' XFlush XSendEvent \
            glXGetClientString glXGetProcAddressARB glXQueryVersion |
            gcc -w -shared -fPIC -Wl,-soname,"$library" -o "$folder/$library" -x c - 2>> "$log" || true
    done
    if "$py" -W ignore -c 'import open3d' 2>> "$log"; then
        say "libX11 or libGL is missing: open3d's ray caster works, its windows do not"
    else
        rm -f "$folder"/lib{X11,GL}.so.*
        say "open3d does not import, the simulator will be slower; on Debian:" \
            "apt-get install libx11-6 libgl1 libudev1 libgomp1"
    fi
}

requirements() { printf -- '-r requirements/%s.txt ' "$@"; }

case "${1:-}" in
torch)
    [[ -x $py ]] && "$py" -c '' 2> /dev/null || make_venv
    say "torch: $2"
    pip_install "$2" 'setuptools<81' wheel
    ;;
base)
    say "runtime and LiDAR requirements (downloads of about 700 MB the first time)"
    # shellcheck disable=SC2046
    pip_install $(requirements runtime lidar)
    # a plain path: the finder hook loses to a folder of the same name in the working directory
    pip_install --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
    repair_cv2
    repair_open3d
    ;;
dev)
    say "lint and build tools"
    # shellcheck disable=SC2046
    pip_install $(requirements dev)
    ;;
docs)
    # shellcheck disable=SC2046
    pip_install $(requirements docs)
    ;;
all)
    say "mmcv: its ops are compiled once for each torch, Python and CUDA"
    pip_install ninja
    wheel=$(bash tools/build_mmcv.sh "$py") || exit 1
    pip_install --no-deps --force-reinstall "$wheel"  # same version, perhaps another torch
    say "mmdet3d, mmdet, mmseg, the projects' and the tests' requirements"
    # shellcheck disable=SC2046
    pip_install $(requirements runtime lidar mm3d image video tests dev) \
        $(printf -- '-r %s ' projects/*/requirements.txt)
    repair_cv2
    repair_open3d
    ;;
*) die "usage: install.sh torch SPEC | base | dev | docs | all" ;;
esac
