#!/usr/bin/env bash
# The container images: `make images`, `make push REGISTRY=...` and tests/deploy call this.
#
#   tools/images.sh build [cpu|macs3|cuda|peers|seurat ...]   localhost/multivi-nf-X:VERSION; without a name all of them
#   tools/images.sh archive [cpu|...]              dist/multivi-nf-X-VERSION.oci.tar, for `apptainer build X.sif oci-archive:...`
#   tools/images.sh sbom [cpu|...]                 dist/multivi-nf-X-VERSION.cdx.json, what is in it (CycloneDX)
#   tools/images.sh unpack FOLDER [cpu|...]        FOLDER/multivi-nf-X-VERSION/, for Charliecloud and --container_registry FOLDER
#   tools/images.sh push REGISTRY [cpu|...]        REGISTRY/multivi-nf-X:VERSION
#   tools/images.sh rebuild [cpu|...]              builds again without any layer kept, and tells each file that differs
#   tools/images.sh base                           localhost/debian:bookworm, by debootstrap, without any registry
#
# From the environment: CONTAINER_ENGINE (podman, else docker), BASE (the base image; else localhost/debian:bookworm),
# UV_CACHE_DIR (downloads shared with the build, podman only; else that of `make setup`), SSL_CERT_FILE (certificates to
# download with, a proxy's among them; else this machine's).
set -e -u -o pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$repository/python/multivi_nf/_version.py")
local_base=localhost/debian:bookworm

fail() {
    printf 'images: %s\n' "$1" "        $2" "        $3" >&2
    exit 2
}

say() {
    printf 'images: %s\n' "$*" >&2
}

find_engine() {
    if [ -n "${CONTAINER_ENGINE:-}" ]; then
        echo "$CONTAINER_ENGINE"
    elif command -v podman > /dev/null; then
        echo podman
    elif command -v docker > /dev/null && docker info > /dev/null 2>&1; then
        echo docker
    else
        fail "neither podman nor a running docker was found" \
            "the images are built by one of them" \
            "install podman (Debian: apt-get install podman buildah runc), or set CONTAINER_ENGINE"
    fi
}

has_image() {
    "$engine" image inspect "$1" > /dev/null 2>&1
}

make_base() {
    if has_image "$local_base"; then
        return
    fi
    if [ "$(id -u)" != 0 ] || ! command -v debootstrap > /dev/null; then
        fail "there is no base image $local_base, and making one needs root and debootstrap" \
            "no image is fetched under a name that you did not give" \
            "pass one: make images BASE=debian:bookworm-slim (as your engine resolves it), or as root: apt-get install debootstrap"
    fi
    say "making $local_base by debootstrap (half a minute)"
    local folder
    folder=$(mktemp -d)
    debootstrap --variant=minbase bookworm "$folder" > "$folder.log" 2>&1 || {
        tail -n 5 "$folder.log" >&2
        fail "debootstrap failed" "its last lines are above" "check that Debian's archive can be reached, then run again"
    }
    # Security updates, as a published base image would have them, from where this machine has them.
    local security
    security=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2> /dev/null | sed 's/#.*//' \
        | grep -oE '[a-z]+://[^ ]*debian-security/?' | head -n 1 || true)
    if [ -n "$security" ]; then
        echo "deb $security bookworm-security main" > "$folder/etc/apt/sources.list.d/security.list"
    fi
    rm -rf "$folder"/var/cache/apt/*.bin "$folder"/var/cache/apt/archives/*.deb "$folder"/var/lib/apt/lists/*_*
    tar -C "$folder" -c . | "$engine" import - "$local_base" > /dev/null
    rm -rf "$folder" "$folder.log"
}

build() {
    local base=${BASE:-$local_base} image options=()
    if [ "$base" = "$local_base" ]; then
        make_base
    fi
    local certificates=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
    if [ -s "$certificates" ]; then
        options+=(--secret "id=certificates,src=$certificates")
    fi
    if [ "$engine" = podman ]; then
        # Docker's format keeps the SHELL of the Dockerfile; chroot isolation needs no privilege of its own.
        options+=(--format docker --isolation chroot --layers)
        local cache=${UV_CACHE_DIR:-${MULTIVI_NF_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/multivi-nf}/uv}
        mkdir -p "$cache"
        options+=(--volume "$cache:/mnt/uv" --build-arg UV_CACHE_DIR=/mnt/uv)
    fi
    for image in "$@"; do
        say "building localhost/multivi-nf-$image:$version on $base"
        local started=$SECONDS
        "$engine" build --file "$repository/containers/Dockerfile" --target "$image" "${options[@]}" \
            --build-arg "BASE=$base" --build-arg "VERSION=$version" --build-arg "REVISION=$(revision)" \
            ${again:+--no-cache} --tag "localhost/multivi-nf-$image:$version$again" "$repository" >&2
        say "localhost/multivi-nf-$image:$version took $((SECONDS - started)) s"
    done
}

# Same locks, same base: what else makes two builds differ? Each is compared file by file, tools/image_difference.py.
rebuild() {
    local image folder code=0
    folder=$(mktemp -d)
    for image in "$@"; do
        need_image "$image"
        again=-again
        build "$image"
        again=
        podman save --quiet --format oci-archive --output "$folder/first.tar" "localhost/multivi-nf-$image:$version"
        podman save --quiet --format oci-archive --output "$folder/again.tar" "localhost/multivi-nf-$image:$version-again"
        podman rmi "localhost/multivi-nf-$image:$version-again" > /dev/null
        say "localhost/multivi-nf-$image:$version and the same built again:"
        python3 -I "$repository/tools/image_difference.py" "$folder/first.tar" "$folder/again.tar" || code=1
        rm -f "$folder"/*.tar
    done
    rmdir "$folder"
    return "$code"
}

revision() {
    git -C "$repository" rev-parse --short=12 HEAD 2> /dev/null || echo unknown
}

need_image() {
    has_image "localhost/multivi-nf-$1:$version" || fail "there is no image localhost/multivi-nf-$1:$version" \
        "it is not built, or was built from another version" "build it: make images"
}

archive() {
    local image target
    mkdir -p "$repository/dist"
    for image in "$@"; do
        need_image "$image"
        target=$repository/dist/multivi-nf-$image-$version.oci.tar
        rm -f "$target.partial"
        if [ "$engine" = podman ]; then
            podman save --quiet --format oci-archive --output "$target.partial" "localhost/multivi-nf-$image:$version"
        else
            docker save --output "$target.partial" "localhost/multivi-nf-$image:$version" # OCI layout since Docker 25
        fi
        mv "$target.partial" "$target"
        say "wrote dist/${target##*/}"
    done
}

unpack() {
    local folder=$1 image target container
    shift
    for image in "$@"; do
        need_image "$image"
        target=$folder/multivi-nf-$image-$version
        if [ -e "$target" ]; then
            fail "$target is already there" "an image is not unpacked over another" "remove it first: rm -r '$target'"
        fi
        mkdir -p "$target.partial"
        container=$("$engine" create "localhost/multivi-nf-$image:$version" true)
        "$engine" export "$container" | tar -x -C "$target.partial" --exclude='dev/*' --no-same-owner
        "$engine" rm "$container" > /dev/null
        # An export has no environment; ch-run reads it here, as ch-convert would write it.
        mkdir -p "$target.partial/ch"
        "$engine" image inspect --format '{{range .Config.Env}}{{println .}}{{end}}' "localhost/multivi-nf-$image:$version" \
            | sed '/^$/d' > "$target.partial/ch/environment"
        mv "$target.partial" "$target"
        say "wrote $target"
    done
}

push() {
    local registry=$1 image
    shift
    for image in "$@"; do
        need_image "$image"
        "$engine" tag "localhost/multivi-nf-$image:$version" "$registry/multivi-nf-$image:$version"
        "$engine" push "$registry/multivi-nf-$image:$version"
    done
}

check_names() {
    local image
    for image in "$@"; do
        case "$image" in
            cpu | macs3 | cuda | peers | seurat) ;;
            *) fail "there is no image '$image'" "the images are cpu, macs3, cuda, peers and seurat" "name one of these, or none for all" ;;
        esac
    done
}

sbom() {
    local image target
    mkdir -p "$repository/dist"
    for image in "$@"; do
        need_image "$image"
        case "$image" in peers | seurat)
            say "multivi-nf-$image holds no part of the pipeline that could list it: see locks/peers.lock, or dpkg -l in it"
            continue
            ;;
        esac
        target=$repository/dist/multivi-nf-$image-$version.cdx.json
        "$engine" run --rm --network none "localhost/multivi-nf-$image:$version" multivi-nf --sbom > "$target.part"
        mv "$target.part" "$target"
        say "wrote $target ($(grep -c '"purl"' "$target") components)"
    done
}

command=${1:-build}
[ $# -eq 0 ] || shift
engine=$(find_engine)
registry= again=
if [ "$command" = push ]; then
    registry=${1:-}
    [ -n "$registry" ] || fail "no registry was given" "images are pushed to yours and no other" "make push REGISTRY=host/project"
    shift
elif [ "$command" = unpack ]; then
    folder=${1:-}
    [ -n "$folder" ] || fail "no folder was given" "each image becomes a folder in it" "tools/images.sh unpack FOLDER"
    shift
fi
[ $# -gt 0 ] || set -- cpu macs3 cuda peers seurat
check_names "$@"

case "$command" in
    base) make_base ;;
    build) build "$@" ;;
    archive) archive "$@" ;;
    push) push "$registry" "$@" ;;
    unpack) unpack "$folder" "$@" ;;
    sbom) sbom "$@" ;;
    rebuild) rebuild "$@" ;;
    *) fail "unknown command '$command'" "commands are build, rebuild, archive, unpack, sbom, push and base" "see the head of tools/images.sh" ;;
esac
