"""Mutated fragments files through preflight and stream: no crash, no hang, right or refused.

    MULTIVI_NF_FUZZ_FILES=10000 .venv/bin/pytest tests/unit/fragments/test_fuzz.py      40 s

Each file is a small legal one with a few mutations of its text (bytes flipped, cut, lines swapped, doubled, removed)
or of its compressed bytes (flipped, cut anywhere, cut at a BGZF block). Python's own gzip and the plain oracle
beside it say what it means; the stream must give just those counts, or refuse what they refuse.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from multivi_nf.errors import InputError
from multivi_nf.fragments.checks import preflight
from multivi_nf.fragments.count import scan
from multivi_nf.fragments.reader import BGZF_END
from multivi_nf.inputs.genome import Genome
from multivi_nf.testing import fragments_oracle as oracle

SIZES = {"chr1": 3000, "chr2": 2000, "chrM": 500}
PEAKS = [("chr1", 100, 400), ("chr1", 300, 500), ("chr2", 0, 2000)]
CELLS = ["ACGTACGTACGTACGT-1", "b2", "absent"]
GENOME = Genome(SIZES, "chrM", None, None, {})


def bgzf(text: bytes, block: int) -> bytes:
    """Write BGZF with blocks of a given number of bytes of text (SAM specification, section 4.1)."""
    out = b""
    for first in range(0, len(text), block):
        part = text[first : first + block]
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = packer.compress(part) + packer.flush()
        head = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + (len(body) + 25).to_bytes(2, "little")
        out += head + body + zlib.crc32(part).to_bytes(4, "little") + len(part).to_bytes(4, "little")
    return out + BGZF_END


def legal_text(rng: np.random.Generator) -> bytes:
    """Draw a small legal file."""
    lines = [b"# header=1"] if rng.random() < 0.3 else []
    columns = int(rng.choice([4, 5, 5, 5, 6]))
    prefix = "" if rng.random() < 0.2 else "chr"
    for name, size in SIZES.items():
        starts = np.sort(rng.integers(0, size - 1, rng.integers(0, 9)))
        for start in starts.tolist():
            end = min(start + int(rng.integers(1, 300)), size)
            barcode = rng.choice([CELLS[0], "b2", "x#TTGCA-12", "17"])
            row = [prefix + name[3:], start, end, barcode, int(rng.integers(1, 30)), "+"][:columns]
            lines.append("\t".join(map(str, row)).encode())
    newline = b"\r\n" if rng.random() < 0.1 else b"\n"
    return newline.join(lines) + (newline if rng.random() < 0.9 else b"")


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    """Change one byte: one of its bits, or to a byte that matters in such files."""
    if not data:
        return data
    at = int(rng.integers(len(data)))
    new = data[at] ^ (1 << int(rng.integers(8))) if rng.random() < 0.5 else int(rng.choice(list(b"\t\n\r#0-9cA \0")))
    return data[:at] + bytes([new]) + data[at + 1 :]


def mutate_text(text: bytes, rng: np.random.Generator) -> bytes:
    """Change a text in one way."""
    kind = rng.integers(6)
    lines = text.split(b"\n")
    i, j = (int(x) for x in rng.integers(len(lines), size=2))
    if kind == 0:
        return flip(text, rng)
    if kind == 1:
        return text[: int(rng.integers(len(text) + 1))]
    if kind == 2:
        lines[i], lines[j] = lines[j], lines[i]
    elif kind == 3:
        lines.insert(i, lines[j])
    elif kind == 4:
        del lines[i]
    else:
        fields = lines[i].split(b"\t")
        at = int(rng.integers(len(fields)))
        fields[at] = bytes(rng.choice([b"", b"-5", b"1e3", b"99999999999", b"2147483648", b"0", b"chr1", b"1", b" 7"]))
        lines[i] = b"\t".join(fields)
    return b"\n".join(lines)


def mutate_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Change compressed bytes in one way."""
    kind = rng.integers(4)
    if kind == 0:
        return flip(data, rng)
    if kind == 1:
        return data[: int(rng.integers(len(data) + 1))]
    if kind == 2:  # cut where a member starts
        starts = [at for at in range(1, len(data)) if data.startswith(b"\x1f\x8b\x08", at)] or [len(data)]
        return data[: int(rng.choice(starts))]
    tails = [b"garbage", b"\0\0\0", b"\x1f\x8b", gzip.compress(b"chr2\t1\t2\tb2\t1\n", mtime=0)]
    return data + tails[int(rng.integers(len(tails)))]


def draw(rng: np.random.Generator) -> bytes:
    """Draw one file, mutated or (one in eight) not."""
    text = legal_text(rng)
    mutated = rng.random()
    if mutated < 0.55:
        for _ in range(rng.integers(1, 4)):
            text = mutate_text(text, rng)
    kind = rng.integers(3)
    block = int(rng.integers(20, 400))
    data = text if kind == 0 else gzip.compress(text, 1, mtime=0) if kind == 1 else bgzf(text, block)
    if mutated > 0.675 or (mutated < 0.1 and kind):
        for _ in range(rng.integers(1, 3)):
            data = mutate_bytes(data, rng)
    return data


def meaning(data: bytes) -> list[oracle.Row]:
    """Say what a file means by Python's gzip and the oracle; raise `oracle.Refused` where it means nothing."""
    if not data:
        raise oracle.Refused("empty")
    if data[:2] == b"\x1f\x8b":
        if data[:4] == b"\x1f\x8b\x08\x04" and data[12:14] == b"BC" and not data.endswith(BGZF_END) and len(data) >= 18:
            raise oracle.Refused("no end marker")
        try:
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read()
        except (EOFError, OSError, zlib.error) as error:
            raise oracle.Refused(str(error)) from error
    return oracle.read(data, SIZES)


def check(data: bytes, path: Path) -> str:
    """Hold preflight and stream to the meaning of one file; say how it went, raise AssertionError if wrong."""
    path.write_bytes(data)
    peaks = pd.DataFrame(PEAKS, columns=["chrom", "start", "end"])
    problems, _, _ = preflight(path, GENOME)
    refusal = None
    try:
        found = scan(path, GENOME, barcodes=CELLS, peaks=peaks, on_progress=lambda n: None)
    except InputError as error:
        found, refusal = None, error
    try:
        rows = meaning(data)
        if not {row[0] for row in rows} & {peak[0] for peak in PEAKS}:
            raise oracle.Refused("no chromosome in common with the peaks")
    except oracle.Refused as reason:
        assert found is None and refusal is not None, f"taken, though {reason}"
        assert refusal.what and refusal.why and refusal.remedy
        assert problems or "in common" in str(reason), f"preflight saw nothing wrong, though {reason}"
        return "refused"
    assert found is not None and found.matrix is not None, f"refused: {refusal}"
    assert not problems, problems
    assert found.matrix.toarray().tolist() == oracle.count(rows, PEAKS, CELLS, "fragment")
    want = Counter(row[3] for row in rows if row[0] != "chrM")
    assert found.table["n_fragments"].to_dict() == {name: want[name] for name in found.table.index}
    assert set(want) <= set(found.table.index)
    return "equal"


def run(files: int, seed: int, folder: Path) -> Counter[str]:
    """Check many files; the numbers refused and equal. A failure names the file, which is kept."""
    outcome: Counter[str] = Counter()
    for i in range(files):
        path = folder / "fuzzed.tsv.gz"
        data = draw(np.random.default_rng([seed, i]))
        try:
            outcome[check(data, path)] += 1
        except Exception as error:
            msg = f"file {i} of seed {seed}: {type(error).__name__}: {error}; bytes: {data!r}"
            raise AssertionError(msg) from error
    return outcome
