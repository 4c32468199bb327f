"""Two builds of an image: which files differ is told, by what a container sees and not by times."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from tools import image_difference

Layer = dict[str, bytes | str]
"""Name -> bytes of a file, or the target of a link."""


def tar(files: Layer, time: int) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as out:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mtime = time
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                out.addfile(entry)
            else:
                entry.size = len(content)
                out.addfile(entry, io.BytesIO(content))
    return raw.getvalue()


def image(path: Path, *layers: Layer, time: int = 0) -> str:
    """An OCI archive, as podman writes it."""
    blobs: dict[str, bytes] = {}

    def put(raw: bytes) -> dict[str, str]:
        digest = hashlib.sha256(raw).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = raw
        return {"digest": f"sha256:{digest}"}

    held = [put(gzip.compress(tar(layer, time)) if n % 2 else tar(layer, time)) for n, layer in enumerate(layers)]
    manifest = put(json.dumps({"layers": held}).encode())
    path.write_bytes(tar(blobs | {"index.json": json.dumps({"manifests": [manifest]}).encode()}, 0))
    return str(path)


BASE: Layer = {"./usr/bin/x": b"1", "usr/bin/y": "x", "etc/gone": b"2", "opt/old/a": b"3"}
UPPER: Layer = {"etc/.wh.gone": b"", "opt/old/.wh..wh..opq": b"", "usr/bin/z": b"4"}


def test_the_same_at_another_time(tmp_path: Path) -> None:
    one, two = image(tmp_path / "a", BASE, UPPER), image(tmp_path / "b", BASE, UPPER, time=9)
    assert set(image_difference.content(one)[0]) == {"usr/bin/x", "usr/bin/y", "usr/bin/z"}, (
        "what was taken away is gone"
    )
    assert image_difference.difference(one, two) == (3, 3, {}, [])


@pytest.mark.parametrize(
    ("change", "path"),
    [({"usr/bin/z": b"5"}, "usr/bin/z"), ({"usr/bin/more": b""}, "usr/bin/more"), ({"usr/bin/y": "z"}, "usr/bin/y")],
)
def test_what_differs_is_named(tmp_path: Path, capsys, monkeypatch, change: Layer, path: str) -> None:
    two = image(tmp_path / "b", BASE, UPPER | change)
    assert image_difference.difference(image(tmp_path / "a", BASE, UPPER), two)[2:] == ({}, [path])
    monkeypatch.setattr("sys.argv", ["x", str(tmp_path / "a"), two])
    assert image_difference.main() == 1 and f"differs: {path}" in capsys.readouterr().out


def test_what_is_explained_is_counted_by_itself(tmp_path: Path) -> None:
    one, two = (image(tmp_path / n, {"var/cache/ldconfig/aux-cache": n.encode(), "a": b"1"}) for n in "ab")
    assert image_difference.difference(one, two) == (2, 0, {"ldconfig's notes: times and inodes of libraries": 1}, [])
