"""What differs between two builds of an image: every file of the one against that of the other.

    python tools/image_difference.py FIRST.tar SECOND.tar

Both are OCI archives (`podman save --format oci-archive`). Files are compared as a container sees them: bytes, kind,
mode, owner and target of a link. Times are counted by themselves, since a layer notes when it was written. What differs
and is not in :data:`EXPLAINED` is listed, and the exit code is 1.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import sys
import tarfile
from collections import Counter

EXPLAINED = {
    r"opt/multivi-nf/kernels/.*": "what numba compiled: its index holds the times of the source files",
    r"var/cache/ldconfig/aux-cache": "ldconfig's notes: times and inodes of libraries",
    r"etc/(shadow|shadow-|passwd-|group-|gshadow-)": "the day an account was made",
    r"var/log/.*|var/cache/(apt|debconf)/.*|var/lib/(apt|dpkg|systemd|pam)/.*": "the installer's own notes, with times",
    r"etc/ld\.so\.cache": "ldconfig's list in the order of the disk",
}
"""Paths (regular expressions) that differ from build to build -> why."""


def layers(archive):
    """Give the layers of an OCI archive, lowest first, as open tar files."""

    def read(digest):
        return outer.extractfile("blobs/" + digest.replace(":", "/")).read()

    outer = tarfile.open(archive)
    manifest = json.loads(read(json.loads(outer.extractfile("index.json").read())["manifests"][0]["digest"]))
    for layer in manifest["layers"]:
        raw = read(layer["digest"])
        yield tarfile.open(fileobj=io.BytesIO(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw))


def content(archive):
    """Give what a container sees: path -> (kind, mode, owner, link or digest), and path -> time.

    A layer's `.wh.NAME` takes NAME of the layers below away, `.wh..wh..opq` all that is in its folder.
    """
    found, times = {}, {}
    for layer in layers(archive):
        for entry in layer:
            path = entry.name.removeprefix("./").rstrip("/")
            folder, _, name = path.rpartition("/")
            if name.startswith(".wh."):
                gone = folder if name == ".wh..wh..opq" else f"{folder}/{name[4:]}".lstrip("/")
                for known in [one for one in found if one.startswith(f"{gone}/") or (one == gone and gone != folder)]:
                    del found[known], times[known]
                continue
            if entry.islnk():
                seen = found.get(entry.linkname.removeprefix("./"), ("", 0, (0, 0), ""))
            else:
                held = hashlib.sha256(layer.extractfile(entry).read()).hexdigest() if entry.isfile() else entry.linkname
                seen = (entry.type, entry.mode, (entry.uid, entry.gid), held)
            found[path], times[path] = seen, entry.mtime
    return found, times


def difference(first, second):
    """Compare two archives.

    Returns
    -------
    Number of paths, of those with another time alone, reason -> number of explained differences, and the others' paths.
    """
    (one, when), (two, then) = content(first), content(second)
    explained, others = Counter(), []
    for path in sorted(one.keys() | two.keys()):
        if one.get(path) == two.get(path):
            continue
        why = next((why for pattern, why in EXPLAINED.items() if re.fullmatch(pattern, path)), None)
        if why:
            explained[why] += 1
        else:
            others.append(path)
    later = sum(one[path] == two.get(path) and when[path] != then[path] for path in one)
    return len(one.keys() | two.keys()), later, dict(explained), others


def main():
    """Compare two archives and tell; 1 where something differs that nobody explained."""
    total, later, explained, others = difference(*sys.argv[1:3])
    equal = total - sum(explained.values()) - len(others)
    print(f"{total} files: {equal} equal ({later} of them written at another time)")
    for why, number in explained.items():
        print(f"{number} differ: {why}")
    for path in others:
        print(f"differs: {path}")
    return 1 if others else 0


if __name__ == "__main__":
    sys.exit(main())
