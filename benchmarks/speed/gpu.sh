#!/usr/bin/env bash
# GPU figures, within 8 minutes on one GPU after set-up: benchmarks/results/gpu.tsv.
#
#   bash benchmarks/speed/gpu.sh [--device cuda|cpu] [--python PYTHON] [--wheels DIR] [--output FILE] [--peer PYTHON]
#
# PYTHON (default python3) needs torch >= 2.8, of whatever build is there. What else is missing is taken from DIR, a folder
# of wheels (`bash benchmarks/speed/gpu.sh --collect DIR` fills one, 60 MB at most, where there is a registry); no registry
# is asked. With podman and the image localhost/multivi-nf-cuda the pipeline's test profile runs in it as well
# (-profile test,podman,gpu). --device cpu tries the script, small, where there is no GPU.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
device=cuda python=python3 wheels='' output="$here/../results/gpu.tsv" peer='' collect=''
while [ $# -gt 0 ]; do
    case $1 in
        --device) device=$2 ;; --python) python=$2 ;; --wheels) wheels=$2 ;; --output) output=$2 ;; --peer) peer=$2 ;;
        --collect) collect=$2 ;;
        *) echo "gpu.sh: unknown option $1 (see its head)" >&2; exit 2 ;;
    esac
    shift 2
done
# what the measured steps import beside torch, numpy, scipy and pandas
needed=(anndata mudata h5py zarr numba llvmlite isal scikit-learn safetensors threadpoolctl natsort click rich)

if [ -n "$collect" ]; then
    "$python" -m pip download --no-deps --only-binary :all: --dest "$collect" "${needed[@]}"
    du -sm "$collect" | awk '{ print $1 " MB of wheels (60 at most)"; exit $1 > 60 }'
    exit
fi
"$python" - <<'CHECK' || exit 2
import sys
try:
    import torch
except ImportError:
    sys.exit("gpu.sh: this Python has no torch: name one that has by --python")
if tuple(int(n) for n in torch.__version__.split("+")[0].split(".")[:2]) < (2, 8):
    sys.exit(f"gpu.sh: torch {torch.__version__} is too old, 2.8 is needed: name another Python by --python")
CHECK
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -n "$wheels" ]; then
    "$python" -m pip install --quiet --no-index --no-deps --target "$work/packages" "$wheels"/*.whl
    export PYTHONPATH="$work/packages${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$root:$root/python${PYTHONPATH:+:$PYTHONPATH}"
"$python" -m benchmarks.speed.gpu --device "$device" --output "$output" ${peer:+--peer "$peer"}
if [ "$device" = cuda ] && command -v podman > /dev/null && podman image exists localhost/multivi-nf-cuda; then
    began=$SECONDS
    (cd "$work" && "$root/.venv/bin/nextflow" run "$root" -profile test,podman,gpu --outdir "$work/results")
    printf 'pipeline in localhost/multivi-nf-cuda\t-profile test,podman,gpu\t%s\ts\tcuda\t\n' $((SECONDS - began)) >> "$output"
else
    printf 'pipeline in localhost/multivi-nf-cuda\t-profile test,podman,gpu\t\ts\t%s\tnot run: no GPU, podman or image\n' "$device" >> "$output"
fi
