"""A hundred hostile files against every reader: no crash, no hang, no byte from outside, under 2 GB of memory.

    python -m tests.chaos.hostile --folder DIR [--files 100] [--readers mtx,zarr] [--table FILE]

Files are made from the small mosaic and what each step makes of it (tests/chaos/steps.py): cut, with flipped bytes,
bombs of lines and of zeros, links out of HDF5 and zarr, sizes that lie, files of another kind, pipes. A step that reads
such a file is run on each. A canary lies beside that no input names: faults.c counts every call on it, and its words
must be in nothing that the step writes or says. docs/hostile.tsv is the table.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from tests.chaos import sweep
from tests.chaos.steps import DATA, MADE, Step, chain
from tests.chaos.sweep import Disk, Fault

MEMORY = 2 << 30
SECONDS = 60.0
WORD = "CANARY-5d1e"
Maker = Callable[[Path, random.Random], None]


@dataclass(frozen=True)
class Reader:
    """A step that reads a file of a kind.

    Attributes
    ----------
    name
        For the table.
    step
        Which call of :func:`chain` reads it.
    place
        The file in that call's words; its hostile copy takes its place.
    inside
        Which part of the folder `place` is made hostile; empty: the file itself.
    source
        What is copied, where that is not `place`.
    added
        The option that names it, where the call of :func:`chain` has none.
    """

    name: str
    step: str
    place: str
    inside: str = ""
    source: str = ""
    added: str = ""


CELLS, LIBRARY = f"{DATA}/cells.tsv", f"{DATA}/library.tsv"
TENX = f"{DATA}/rna_1/filtered_feature_bc_matrix.h5"
MTX = f"{DATA}/rna_2/filtered_feature_bc_matrix"
FRAGMENTS = f"{DATA}/multiome_1/fragments.tsv.gz"
MODEL, EMBEDDED = f"{MADE}/calibrate/model", f"{MADE}/embed/multivi.h5mu"
READERS = [
    Reader("samplesheet", "check-samplesheet", f"{DATA}/samplesheet.csv"),
    Reader("contrasts", "check-samplesheet", f"{DATA}/contrasts.csv"),
    Reader("10x h5", "qc-rna@rna_1", TENX),
    Reader("10x h5 (gate)", "preflight@rna_1", TENX),
    Reader("h5ad of counts", "qc-rna@rna_1", TENX, source=f"{MADE}/qc-rna@rna_1/rna_1.rna.h5ad"),
    Reader("h5mu of counts (gate)", "preflight@rna_1", f"--rna {TENX}", source=f"--h5mu {MADE}/mosaic/mosaic.h5mu"),
    Reader("mtx matrix", "qc-rna@rna_2", MTX, "matrix.mtx.gz"),
    Reader("mtx features", "qc-rna@rna_2", MTX, "features.tsv.gz"),
    Reader("mtx barcodes", "qc-rna@rna_2", MTX, "barcodes.tsv.gz"),
    Reader("protein h5", "qc-protein@cite_1", f"{DATA}/cite_1/filtered_feature_bc_matrix.h5"),
    Reader("fragments", "qc-fragments@multiome_1", FRAGMENTS),
    Reader("fragments (gate)", "preflight@multiome_1", FRAGMENTS),
    Reader("fragments (counting)", "count-peaks@multiome_1", FRAGMENTS),
    Reader("chromosome sizes", "qc-fragments@multiome_1", f"{DATA}/genome/chrom.sizes"),
    Reader("barcode list", "qc-fragments@atac_1", f"{DATA}/atac_1/barcodes.tsv"),
    Reader("barcode map", "preflight@multiome_2", f"{DATA}/multiome_2/barcode_map.tsv"),
    Reader("BED of peaks", "merge-peaks", f"{DATA}/atac_1/peaks.bed"),
    Reader("consensus BED", "count-peaks@atac_1", f"{MADE}/merge-peaks/peaks.bed"),
    Reader("preflight.json", "check-inputs", f"{MADE}/preflight@rna_1/rna_1.preflight.json"),
    Reader("samples.json", "mosaic", f"{MADE}/check-samplesheet/samples.json"),
    Reader("counted h5ad", "qc-atac@atac_1", f"{MADE}/count-peaks@atac_1/atac_1.h5ad"),
    Reader("table of fragments", "qc-atac@atac_1", f"{MADE}/qc-fragments@atac_1/atac_1", "fragments.tsv.gz"),
    Reader("fragments.json", "qc-atac@atac_1", f"{MADE}/qc-fragments@atac_1/atac_1", "fragments.json"),
    Reader("h5ad of QC", "mosaic", f"{MADE}/qc-rna@rna_1/rna_1.rna.h5ad"),
    Reader("mosaic.h5mu", "train", f"{MADE}/mosaic/mosaic.h5mu"),
    Reader("model config.json", "embed", MODEL, "config.json"),
    Reader("model weights", "embed", MODEL, "weights.safetensors"),
    Reader("model features.tsv", "impute", MODEL, "features.tsv"),
    Reader("model split.tsv", "impute", MODEL, "split.tsv"),
    Reader("model history.tsv", "impute", MODEL, "history.tsv"),
    Reader("calibration.json", "impute", MODEL, "calibration.json"),
    Reader("support", "impute", MODEL, "support.safetensors"),
    Reader("cell list", "impute", f"{MADE}/embed/chunks/cells_0001.txt"),
    Reader("multivi.h5mu", "differential", EMBEDDED),
    Reader("multivi.h5mu (export)", "export", EMBEDDED),
    Reader("zarr metadata", "gather-imputed", f"{MADE}/impute/1.zarr", "zarr.json|.zattrs|.zarray|.zgroup|.zmetadata"),
    Reader("zarr chunks", "export", f"{MADE}/gather-imputed/rna.zarr", "*"),
    Reader("truth table", "evaluate", f"{DATA}/truth", "cells.tsv.gz"),
    Reader("truth h5", "evaluate", f"{DATA}/truth", "means.h5"),
    Reader("report: contrast", "report", "out/results", "site_1.tsv.gz"),
    Reader("report: QC", "report", "out/results", "rna.tsv.gz|rna.json"),
    Reader("report: h5mu", "report", "out/results", "multivi.h5mu"),
    Reader("start sites", "qc-fragments@multiome_1", f"{DATA}/genome/tss.bed"),
    Reader("blacklist", "qc-fragments@multiome_1", f"{DATA}/genome/blacklist.bed"),
    Reader("GTF", "gene-activity", f"{DATA}/genome/genes.gtf"),
    Reader("FASTA", "motifs", f"{DATA}/genome/genome.fa"),
    Reader("motifs", "motifs", f"{DATA}/genome/motifs.meme"),
    Reader("table of cells", "qc-rna@rna_1", CELLS, added="--cells"),
    Reader("feature aliases", "mosaic", f"{DATA}/aliases.tsv", added="--feature-aliases"),
    Reader("marker sets", "embed", f"{DATA}/marker_sets.tsv", added="--marker-sets"),
    Reader("libraries", "impute", LIBRARY, added="--predictive --library"),
    Reader("features to impute", "impute", f"{DATA}/markers.txt", added="--features"),
]


# -- what strangers may write -------------------------------------------------------------------------------------


def packed(path: Path, raw: bytes) -> None:
    """Write text as the file was: gzip where it ends so."""
    path.write_bytes(gzip.compress(raw, 1) if path.suffix == ".gz" else raw)


def poured(path: Path, head: bytes, block: bytes, times: int) -> None:
    """A bomb; not packed it stays small enough for a disk of a few hundred megabytes.

    A block is packed once: what deflate makes of it after a full flush is the same every time.
    """
    if path.suffix != ".gz":
        path.write_bytes(head + block * min(times, 30))
        return
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    first = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    check = zlib.crc32(head)
    for _ in range(times):
        check = zlib.crc32(block, check)
    with path.open("wb") as file:
        file.write(b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + first)
        for _ in range(times):
            file.write(again)
        size = len(head) + len(block) * times
        file.write(packer.flush() + struct.pack("<II", check, size & 0xFFFFFFFF))


def text_of(path: Path) -> bytes:
    raw = path.read_bytes()
    return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw


def lines_with(change: Callable[[list[bytes]], list[bytes]]) -> Maker:
    return lambda path, chance: packed(path, b"\n".join(change(text_of(path).split(b"\n"))))


def field_is(value: bytes) -> Maker:
    """One field of one line is something else."""

    def make(path: Path, chance: random.Random) -> None:
        lines = text_of(path).split(b"\n")
        at = chance.randrange(len(lines))
        mark = b"\t" if b"\t" in lines[at] else b"," if b"," in lines[at] else b" "
        fields = lines[at].split(mark)
        fields[chance.randrange(len(fields))] = value
        lines[at] = mark.join(fields)
        packed(path, b"\n".join(lines))

    return make


def cut(path: Path, chance: random.Random) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: chance.randrange(len(raw))] if raw else b"")


def flipped(path: Path, chance: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 2, 8, 64)) if raw else 0):
        raw[chance.randrange(min(len(raw), chance.choice((64, 4096, 1 << 20))))] = chance.randrange(256)
    path.write_bytes(bytes(raw))


def replaced(how: Callable[[Path], object]) -> Maker:
    def make(path: Path, chance: random.Random) -> None:
        path.unlink()
        how(path)

    return make


GENERAL: dict[str, Maker] = {
    "empty": lambda path, chance: path.write_bytes(b""),
    "one byte": lambda path, chance: path.write_bytes(b"\0"),
    "noise": lambda path, chance: path.write_bytes(chance.randbytes(5000)),
    "gzip of noise": lambda path, chance: path.write_bytes(gzip.compress(chance.randbytes(5000))),
    "gzip of nothing": lambda path, chance: path.write_bytes(gzip.compress(b"")),
    "a picture": lambda path, chance: path.write_bytes(b"\x89PNG\r\n\x1a\n" + chance.randbytes(500)),
    "a zip": lambda path, chance: path.write_bytes(b"PK\x03\x04" + chance.randbytes(500)),
    "a pickle": lambda path, chance: path.write_bytes(b"cos\nsystem\n(S'touch PWNED'\ntR."),
    "a head of HDF5": lambda path, chance: path.write_bytes(b"\x89HDF\r\n\x1a\n" + chance.randbytes(500)),
    "a folder": replaced(lambda path: path.mkdir()),
    "a pipe": replaced(os.mkfifo),
    "a device": replaced(lambda path: path.symlink_to("/dev/zero")),
    "a loop of links": replaced(lambda path: path.symlink_to(path)),
    "zeros": lambda path, chance: path.write_bytes(bytes(100_000)),
    "many zeros": lambda path, chance: os.truncate(path, 1 << 40) if path.is_file() else None,
}
TEXT: dict[str, Maker] = {
    "a line without end": lambda path, chance: poured(path, text_of(path)[:100], b"A" * (1 << 22), 200),
    "empty lines": lambda path, chance: poured(path, text_of(path)[:200], b"\n" * (1 << 22), 100),
    "the same lines": lambda path, chance: poured(path, text_of(path), text_of(path)[-300:] * 10_000, 100),
    "zeros packed": lambda path, chance: poured(path, b"", bytes(1 << 22), 300),
    "UTF-16": lambda path, chance: packed(path, text_of(path).decode(errors="replace").encode("utf-16")),
    "lone surrogate": lines_with(lambda lines: [b"\xed\xa0\x80" + lines[0], *lines[1:]]),
    "NUL": lines_with(lambda lines: [lines[0], b"\0\0\0", *lines[1:]]),
    "CR only": lambda path, chance: packed(path, text_of(path).replace(b"\n", b"\r")),
    "no header": lines_with(lambda lines: lines[1:]),
    "header twice": lines_with(lambda lines: [lines[0], *lines]),
    "backwards": lines_with(lambda lines: lines[::-1]),
    "twenty thousand columns": lines_with(lambda lines: [b"\t,".join([b"x"] * 20_000), *lines]),
    "quotes": lines_with(lambda lines: [lines[0], b'"' + b"".join(lines[1:2]), *lines[2:]]),
    "deep JSON": lambda path, chance: packed(path, b"[" * 200_000),
    "JSON of text": lambda path, chance: packed(path, json.dumps(["x", {"a": None}, 1e308]).encode()),
    "JSON number": lambda path, chance: packed(path, b"1" * 5000),
    "JSON NaN": lambda path, chance: packed(path, b'{"schema": NaN, "samples": Infinity, "model": {}}'),
}
for _value in (
    b"-1",
    b"9" * 30,
    b"1e400",
    b"nan",
    b"0x10",
    b"",
    b"../../canary/secret",
    b"=cmd|' /C calc'!A0",
    b"\xff" * 9,
    b"$(touch PWNED)",
    b"A" * 3000,
    b"1.5",
    b"2147483648",
):
    TEXT[f"a field {_value[:24]!r}"] = field_is(_value)


def other_value(path: Path, chance: random.Random) -> None:
    """One value of a JSON file is of another kind."""
    content = json.loads(text_of(path))
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = chance.choice(keys)
        if not (isinstance(place[key], (dict, list)) and place[key]) or chance.random() < 0.2:
            break
        place = place[key]
    place[key] = chance.choice((None, [], {}, "x", -1, 1e308, True, ["a", 1], {"a": 1}, [[]]))
    packed(path, json.dumps(content).encode())


def in_head(change: Callable[[dict, random.Random], object]) -> Maker:
    """Change the head of a safetensors file: name → dtype, shape, data_offsets."""

    def make(path: Path, chance: random.Random) -> None:
        raw = path.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        head = json.loads(raw[8 : 8 + size])
        change(head, chance)
        new = json.dumps(head).encode()
        path.write_bytes(len(new).to_bytes(8, "little") + new + raw[8 + size :])

    return make


def one_of(head: dict, chance: random.Random) -> dict:
    return head[chance.choice(sorted(name for name in head if name != "__metadata__"))]


TENSORS: dict[str, Maker] = {
    "a head without end": lambda path, chance: path.write_bytes(b"\xff" * 7 + b"\x7f" + path.read_bytes()[8:]),
    "a head of 10⁸ bytes": lambda path, chance: path.write_bytes((10**8).to_bytes(8, "little") + b" " * 10**8),
    "another dtype": in_head(lambda head, chance: one_of(head, chance).update(dtype="I64")),
    "a dtype of strangers": in_head(lambda head, chance: one_of(head, chance).update(dtype="OBJECT")),
    "2⁶² values": in_head(lambda head, chance: one_of(head, chance).update(shape=[1 << 62])),
    "negative shape": in_head(lambda head, chance: one_of(head, chance).update(shape=[-1, -4])),
    "offsets past the end": in_head(lambda head, chance: one_of(head, chance).update(data_offsets=[0, 1 << 50])),
    "offsets backwards": in_head(lambda head, chance: one_of(head, chance).update(data_offsets=[64, 0])),
    "one tensor twice": in_head(lambda head, chance: head.update(x=dict(one_of(head, chance)))),
    "a tensor less": in_head(lambda head, chance: head.pop(chance.choice(sorted(set(head) - {"__metadata__"})))),
    "other metadata": in_head(lambda head, chance: head.update(__metadata__={"a": "b" * 10**6})),
    "metadata of another kind": in_head(lambda head, chance: head.update(__metadata__={"a": 1})),
}


def in_hdf5(change: Callable[[h5py.File, str, random.Random], object]) -> Maker:
    """Change one data set of a file."""

    def make(path: Path, chance: random.Random) -> None:
        with h5py.File(path, "r+") as file:
            names: list[str] = []
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            change(file, chance.choice(sorted(names)), chance)

    return make


def put(file: h5py.File, name: str, **what: object) -> None:
    del file[name]
    file.create_dataset(name, **what)


def away(file: h5py.File, name: str, value: object) -> None:
    del file[name]
    file[name] = value


def virtual(file: h5py.File, name: str) -> None:
    shape, kind = file[name].shape or (1,), file[name].dtype
    layout = h5py.VirtualLayout(shape=shape, dtype=kind)
    layout[...] = h5py.VirtualSource("../../canary/secret.h5", "names", shape=shape)
    del file[name]
    file.create_virtual_dataset(name, layout)


CANARY = "../../canary/secret"
HDF5: dict[str, Maker] = {
    "external link": in_hdf5(lambda f, n, c: away(f, n, h5py.ExternalLink(CANARY + ".h5", "/names"))),
    "external storage": in_hdf5(lambda f, n, c: put(f, n, shape=(30,), dtype="S20", external=[(CANARY, 0, 600)])),
    "virtual data set": in_hdf5(lambda f, n, c: virtual(f, n)),
    "a link to nowhere": in_hdf5(lambda f, n, c: away(f, n, h5py.SoftLink("/nowhere"))),
    "a link to itself": in_hdf5(lambda f, n, c: away(f, n, h5py.SoftLink("/" + n))),
    "a circle of groups": in_hdf5(lambda f, n, c: away(f, n, f["/"])),
    "a link through a file": in_hdf5(
        lambda f, n, c: (
            f.__setitem__("away", h5py.ExternalLink(CANARY + ".h5", "/")),
            away(f, n, h5py.SoftLink("/away/names")),
        )
    ),
    "missing": in_hdf5(lambda f, n, c: f.__delitem__(n)),
    "a group": in_hdf5(lambda f, n, c: (f.__delitem__(n), f.create_group(n))),
    "10¹² values": in_hdf5(lambda f, n, c: put(f, n, shape=(10**12,), dtype="i4", chunks=(1000,))),
    "10⁹ values": in_hdf5(lambda f, n, c: put(f, n, shape=(10**9,), dtype="i4", chunks=(10**6,), compression="gzip")),
    "no value": in_hdf5(lambda f, n, c: put(f, n, shape=(0,), dtype="i8")),
    "no space": in_hdf5(lambda f, n, c: away(f, n, h5py.Empty("f8"))),
    "a scalar": in_hdf5(lambda f, n, c: put(f, n, data=7)),
    "negative": in_hdf5(lambda f, n, c: put(f, n, data=-np.ones(f[n].shape, "i8"))),
    "NaN": in_hdf5(lambda f, n, c: put(f, n, data=np.full(f[n].shape, np.nan))),
    "2⁶²": in_hdf5(lambda f, n, c: put(f, n, data=np.full(f[n].shape, 1 << 62))),
    "text": in_hdf5(lambda f, n, c: put(f, n, data=np.full(f[n].shape, b"<script>", "S8"))),
    "bytes that are no text": in_hdf5(lambda f, n, c: put(f, n, data=np.full(f[n].shape, b"\xff\xfe\xfd", "S3"))),
    "references": in_hdf5(
        lambda f, n, c: put(f, n, data=np.full(f[n].shape, f["/"].ref, h5py.ref_dtype), dtype=h5py.ref_dtype)
    ),
    "complex": in_hdf5(lambda f, n, c: put(f, n, data=np.full(f[n].shape, 1j))),
    "a table": in_hdf5(lambda f, n, c: put(f, n, data=np.zeros(f[n].shape, [("a", "i4"), ("b", "S3")]))),
    "six dimensions": in_hdf5(lambda f, n, c: put(f, n, data=np.zeros((1, 2, 1, 2, 1, 2)))),
    "another encoding": in_hdf5(
        lambda f, n, c: f[n].attrs.update({"encoding-type": "pickle", "encoding-version": "9"})
    ),
    "shape of the matrix": in_hdf5(
        lambda f, n, c: [g.attrs.update({"shape": [1 << 40, 1 << 40]}) for g in groups(f) if "shape" in g.attrs]
    ),
}


def groups(file: h5py.File) -> list[h5py.Group]:
    found: list[h5py.Group] = [file]
    file.visititems(lambda name, item: found.append(item) if isinstance(item, h5py.Group) else None)
    return found


def in_store(path: Path, before: str, after: str, chunk: bytes) -> None:
    """Other words in a description of a store, or other bytes in one of its chunks."""
    if path.name.startswith((".z", "zarr.json")):
        path.write_text(path.read_text().replace(before, after))
    else:
        path.write_bytes(chunk)


STORE: dict[str, Maker] = {
    "a link to the canary": replaced(lambda path: path.symlink_to(path.parent / os.path.relpath("/", path.parent))),
    "a link": replaced(lambda path: path.symlink_to((canary_of(path)) / "secret")),
    "chunks of strangers": lambda path, chance: path.write_text(
        json.dumps({"refs": {"X/0": [str(canary_of(path) / "secret"), 0, 99]}})
    ),
    "10¹² values": lambda path, chance: in_store(path, '"shape": [', '"shape": [1000000000000, ', b"\xff" * 64),
    "a codec of strangers": lambda path, chance: in_store(path, '"id": "', '"id": "x', b"\x02\x01\x21\x08" * 9),
    "object type": lambda path, chance: in_store(path, '"<f4"', '"|O"', b""),
}


def canary_of(path: Path) -> Path:
    """The folder of the canary, from anywhere on the disk."""
    return next(parent for parent in path.parents if parent.name == "disk").parent / "canary"


def makers(path: Path) -> dict[str, Maker]:
    """What can be done to a file of this kind."""
    if path.suffix in (".h5", ".h5ad", ".h5mu"):
        return GENERAL | HDF5
    if ".zarr" in str(path):
        return GENERAL | STORE
    if path.suffix == ".safetensors":
        return GENERAL | TENSORS
    return GENERAL | TEXT


# -- the trials ---------------------------------------------------------------------------------------------------


def hostile(reader: Reader, trial: Path, number: int, step: Step) -> tuple[Step, str]:
    """Lay out the hostile copy; gives the step that reads it, and what was done."""
    chance = random.Random(f"{reader.name} {number}")
    if reader.place == "out/results":
        copy = trial / "out/results"
        words = step.words
    else:
        flag, _, source = (reader.source or reader.place).rpartition(" ")
        source_path = (trial / source).resolve()
        copy = trial / "in" / source_path.name
        copy.parent.mkdir()
        (shutil.copytree if source_path.is_dir() else shutil.copy)(source_path, copy)
        named = f"{flag} in/{source_path.name}".strip()
        words = f"{step.words} {reader.added} {named}" if reader.added else step.words.replace(reader.place, named)
    victim = copy
    if reader.inside:
        wanted = reader.inside.split("|")
        inside = sorted(path for path in copy.rglob("*") if path.is_file())
        victim = chance.choice([path for path in inside if "*" in wanted or path.name in wanted])
    kinds = makers(victim)
    listed = [*kinds, "cut", "flipped"]
    drawn = ("cut", "flipped", "other value") if victim.suffix == ".json" else ("cut", "flipped", "flipped")
    name = listed[number] if number < len(listed) else chance.choice(drawn)
    ({"cut": cut, "flipped": flipped, "other value": other_value} | kinds)[name](victim, chance)
    return Step(step.name, words, step.copied), name


def wrong_with(ended: sweep.Ended, trial: Path) -> str:
    """What is wrong with the end of a trial; empty if nothing is."""
    if ended.calls:
        return "reads what no input names"
    for path in trial.rglob("*"):
        if path.is_file() and not path.is_symlink() and "in" not in path.relative_to(trial).parts[:1]:
            if "results" not in path.parts and path.stat().st_size < 1 << 26 and WORD.encode() in path.read_bytes():
                return f"{path.name} holds words of the canary"
    if (trial / "PWNED").exists() or WORD in ended.said:
        return "runs, or tells, what is not its own"
    if ended.code == 137 and "What to do: " in ended.said:
        return ""  # out of memory, told
    return sweep.message_fault(ended)


HEAD = "reader\tstep\tfiles\trefused\tpassed\tout_of_memory\twrong\tmost_seconds"


def try_reader(reader: Reader, step: Step, disk: Disk, numbers: range) -> tuple[str, list[str]]:
    """Run a reader on its hostile files; gives the row of the table and what went wrong."""
    codes, notes, most = Counter(), [], 0.0
    for number in numbers:
        disk.clean(step)
        made, what = hostile(reader, disk.trial, number, step)
        ended = disk.run(made, Fault("count"))
        most = max(most, ended.seconds)
        wrong = wrong_with(ended, disk.trial)
        codes["wrong" if wrong else {0: "passed", 2: "refused", 137: "memory"}.get(ended.code, "?")] += 1
        if wrong:
            notes.append(f"{number} {what}: {wrong}")
    counts = [codes[name] for name in ("refused", "passed", "memory", "wrong")]
    row = [reader.name, reader.step.partition("@")[0], len(numbers), *counts, f"{most:.0f}"]
    return "\t".join(map(str, row)), notes


def other_inputs(disk: Disk) -> None:
    """Tables that name cells."""
    data = disk.world / "data"
    with h5py.File(data / "rna_1/filtered_feature_bc_matrix.h5") as file:
        barcodes = [name.decode() for name in file["matrix/barcodes"][:]]
    rows = "".join(f"{name}\t{'xy'[i % 2]}\t{i / 7:.3f}\n" for i, name in enumerate(barcodes))
    (data / "cells.tsv").write_text("barcode\tkind\tscore\n" + rows)
    cells = (disk.world / "made/embed/chunks/cells_0001.txt").read_text().split()
    (data / "library.tsv").write_text("cell\tlibrary\n" + "".join(f"{name}\t1000\n" for name in cells))


def main() -> int:
    """All readers; 1 if any trial went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first of them")
    parser.add_argument("--keep", action="store_true", help="take what the steps made in this folder before")
    parser.add_argument("--readers", default="", help="parts of their names, by commas; default: all")
    parser.add_argument("--table", type=Path, help="rows of these readers are written anew, others stay")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    folder = given.folder.resolve()
    shim = sweep.prepared(folder, "tests.chaos.hostile")
    sweep.HANGS = SECONDS
    (folder / "canary").mkdir(exist_ok=True)
    (folder / "canary/secret").write_text("".join(f"{WORD}-{i:04d}----\n" for i in range(100)))
    with h5py.File(folder / "canary/secret.h5", "w") as file:
        file["names"] = np.array([f"{WORD}-{i}" for i in range(30)], "S20")
    wanted = [name for name in given.readers.split(",") if name]
    readers = [reader for reader in READERS if not wanted or any(word in reader.name for word in wanted)]
    order = [(reader.name, reader.step.partition("@")[0]) for reader in READERS]
    rows, bad = [], 0
    with Disk(folder, shim, given.keep) as disk:
        last = max((place for place, step in enumerate(chain()) if step.name in {r.step for r in readers}), default=0)
        embedded = [step.name for step in chain()].index("embed")
        known = {step.name: step for step in chain()[: max(last, embedded) + 1]}
        for step in known.values():
            if not (given.keep and (disk.world / "made" / step.name).is_dir()):
                sweep.Sweep(disk, step, 1, 0)
        other_inputs(disk)
        disk.watched = folder / "canary"
        disk.memory = MEMORY
        for reader in readers:
            row, notes = try_reader(reader, known[reader.step], disk, range(given.first, given.first + given.files))
            rows.append(row)
            bad += len(notes)
            spent = resource.getrusage(resource.RUSAGE_CHILDREN)
            print(row, f"{spent.ru_utime + spent.ru_stime:.0f} CPU s so far", *notes[:8], sep="\n  ", flush=True)
            if given.table:
                sweep.update(given.table, HEAD, rows, 2, order)
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{len(rows)} readers, {bad} wrong; largest process {largest:.0f} MB", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
