"""The parser against `str.split`: lines of all shapes, of which most go the fast way and some do not."""

from __future__ import annotations

import random

import numpy as np
import pytest

from multivi_nf.errors import InputError
from multivi_nf.fragments.stream import Asked, FragmentStream

SIZES = {"chr1": 2**31 - 1, "a_long_name_of_a_scaffold": 2**31 - 1, "7": 2**31 - 1}


def fragment_lines(rng, n_columns, n=1500):
    """Draw lines with numbers of 1 to 10 digits (some with leading zeros) and barcodes of 1 to 40 characters."""
    names = ["".join(rng.choices("ACGT-#.:_x", k=rng.randint(1, 40))) for _ in range(60)]
    lines = []
    for chrom in SIZES:
        for _ in range(n):
            start = rng.randrange(10 ** rng.randint(1, 9))
            end = start + rng.randint(1, 10 ** rng.randint(0, 8))
            fields = [chrom, f"{start:0{rng.choice([1, 1, 1, 1, 10])}d}", f"{end}", rng.choice(names)]
            fields += [str(rng.randint(1, 10 ** rng.choice([0, 0, 0, 1, 8]))), rng.choice("+-")][: n_columns - 4]
            lines.append("\t".join(fields))
    return lines


def read(path, **options):
    stream = FragmentStream(path, Asked(SIZES, **options))
    found = [np.column_stack([np.full(len(b.count), b.chrom), b.position, b.barcode, b.count]) for b in stream]
    return stream, np.concatenate(found).tolist()


@pytest.mark.parametrize("n_columns", [4, 5, 6])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("other", [0, 0.02])
def test_any_lines_equal_split(tmp_path, n_columns, ending, other):
    """Also where comments and blank lines stand between the fragments, and whether or not all barcodes are known."""
    rng = random.Random(f"{n_columns}{ending}{other}")
    lines = fragment_lines(rng, n_columns)
    text = "".join(
        ("# a\tb" + ending) * (rng.random() < other) + ending * (rng.random() < other) + line + ending for line in lines
    )
    (tmp_path / "x.tsv").write_bytes(text.encode())
    fields = [line.split("\t") for line in lines]
    chroms = list(SIZES)
    stream, found = read(tmp_path / "x.tsv")
    names = stream.barcodes()
    assert names == list(dict.fromkeys(f[3] for f in fields))
    count = [int(f[4]) if n_columns > 4 else 1 for f in fields]
    expected = [[chroms.index(f[0]), int(f[1]), int(f[2]), names.index(f[3]), c] for f, c in zip(fields, count)]
    assert found == expected
    known = names[3:20]
    _, found = read(tmp_path / "x.tsv", barcodes=known, only_these=True)
    assert found == [[*row[:3], row[3] - 3, row[4]] for row in expected if 3 <= row[3] < 20]


WRONG = {
    "start": "chr1\t1x\t90\tA-1\t1",
    "many digits": "chr1\t1\t99999999999\tA-1\t1",
    "a sign": "chr1\t+1\t9\tA\t1",
    "count": "chr1\t1\t9\tA-1\t0",
    "a colon for a digit": "chr1\t1\t9:\tA-1\t1",
    "a slash": "chr1\t/1\t9\tA-1\t1",
    "no barcode": "chr1\t1\t9\t\t1",
    "a return": "chr1\t1\t9\tA\r-1\t1",
    "short": "chr1\t1\t9\tA-1",
    "long": "chr1\t1\t9\tA-1\t1\t+",
    "a space": "chr1\t1\t9\tA 1\t1",
    "letters for a count": "chr1\t1\t9\tA-1\tx",
}


@pytest.mark.parametrize("at", [1, 511, 700, 1499])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_line_among_regular_ones_is_named(tmp_path, name, at):
    lines = fragment_lines(random.Random(at), 5)
    lines[at] = WRONG[name]
    (tmp_path / "x.tsv").write_bytes("".join(line + "\n" for line in lines).encode())
    with pytest.raises(InputError, match=rf"line {at + 1}\b"):
        read(tmp_path / "x.tsv")
