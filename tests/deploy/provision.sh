#!/usr/bin/env bash
# What `make test-deploy` needs on a bare Debian or Ubuntu: podman with its builder, debootstrap for a base image, SLURM, and
# Charliecloud where the archive has it. Root; a second call does nothing. Nothing of the machine's own configuration is
# changed: podman is configured by CONTAINERS_CONF, SLURM by SLURM_CONF, both in folders of the tests.
set -e -u -o pipefail

wanted=(podman buildah runc debootstrap slurm-wlm munge procps charliecloud-runtime charliecloud-builders
    r-bioc-rhdf5 r-cran-seurat) # the last two: assets/read_multivi.R
missing=()
for package in "${wanted[@]}"; do
    if [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2> /dev/null)" != installed ]; then
        missing+=("$package")
    fi
done
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    printf 'provision: not installed: %s\n' "${missing[*]}" \
        "           the deployment tests build images and run podman and SLURM" \
        "           run them as root on Debian or Ubuntu, or install these packages first" >&2
    exit 2
fi
started=$SECONDS
echo "provision: installing ${missing[*]} ..." >&2
export DEBIAN_FRONTEND=noninteractive
# The daemons that packages would start are not wanted: the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get -q update > /dev/null
apt-get -qy install --no-install-recommends "${missing[@]}" > /dev/null
echo "provision: done in $((SECONDS - started)) s" >&2
