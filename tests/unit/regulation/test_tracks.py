"""Tracks against counts by brute force, read back by another program's reader."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pyBigWig
import pytest

from multivi_nf.inputs.genome import Genome
from multivi_nf.regulation import tracks
from multivi_nf.regulation.cells import Source, file_name
from multivi_nf.regulation.possible import NotPossible
from multivi_nf.regulation.tracks import write_bigwig, write_tracks

SIZES = {"chr1": 20_003, "chr2": 9_000, "chrM": 500, "chr10": 4_000}
TOY = Genome(SIZES, "chrM", None, None, {})
GROUPS = {"one:AA": "0", "one:CC": "1", "one:GG": "0", "two:AA": "1", "two:TT": None, "two:CC": "T cells / naïve"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two files of fragments, chromosomes in another order each, and their rows."""
    folder, rng, rows = tmp_path_factory.mktemp("fragments"), np.random.default_rng(0), {}
    orders = {"one": ["chr1", "chr10", "chr2", "chrM"], "two": ["chr2", "chrM", "chr1"]}
    for sample, order in orders.items():
        names = [*{name.split(":")[1] for name in GROUPS if name.startswith(sample)}, "NOCELL"]
        rows[sample] = []
        for chrom in order:
            start = np.sort(rng.integers(0, SIZES[chrom] - 300, 700))
            end = np.minimum(start + rng.integers(20, 300, 700), SIZES[chrom])
            rows[sample] += [(chrom, s, e, b) for s, e, b in zip(start, end, rng.choice(sorted(names), 700))]
        rows[sample].append((order[-1], SIZES[order[-1]] - 50, SIZES[order[-1]], sorted(names)[0]))
        with gzip.open(folder / f"{sample}.tsv.gz", "wt") as file:
            file.writelines(f"{c}\t{s}\t{e}\t{b}\t1\n" for c, s, e, b in rows[sample])
    return folder, rows


def brute_force(rows, group):
    """Cut sites of a group at each base."""
    found = {chrom: np.zeros(size) for chrom, size in SIZES.items() if chrom != "chrM"}
    for sample, fragments in rows.items():
        for chrom, start, end, barcode in fragments:
            if GROUPS.get(f"{sample}:{barcode}") == group and chrom in found:
                found[chrom][start] += 1
                found[chrom][end - 1] += 1
    return found


@pytest.mark.parametrize(("bin_size", "held"), [(1, 1 << 22), (10, 100), (7, 1)])
def test_tracks_equal_brute_force(made, tmp_path, monkeypatch, bin_size, held):
    monkeypatch.setattr(tracks, "_HELD", held)
    folder, rows = made
    names = pd.Index(list(GROUPS))
    groups = pd.Series(list(GROUPS.values()), index=names, dtype=object)
    sources = [Source(sample, folder / f"{sample}.tsv.gz") for sample in rows]
    table = write_tracks(groups, sources, TOY, tmp_path, bin_size=bin_size)
    assert table["group"].tolist() == ["0", "1", "T cells / naïve"] and table["cells"].tolist() == [2, 2, 1]
    for row in table.itertuples():
        sites = brute_force(rows, row.group)
        total = sum(values.sum() for values in sites.values())
        assert row.insertions == total > 0
        with pyBigWig.open(str(tmp_path / row.file)) as track:
            # of the mitochondrion nothing is counted; chromosomes without a value are not in the file
            assert track.chroms() == {chrom: SIZES[chrom] for chrom in sites if sites[chrom].any()}
            for chrom, values in sites.items():
                if not values.any():
                    continue
                n_bins = -(-len(values) // bin_size)
                padded = np.pad(values, (0, n_bins * bin_size - len(values))).reshape(n_bins, bin_size).sum(1)
                expected = np.repeat(padded, bin_size)[: len(values)] * 1e6 / total
                got = np.nan_to_num(track.values(chrom, 0, len(values), numpy=True))
                np.testing.assert_allclose(got, expected, rtol=1e-6)
            read = track.intervals("chr1")
            # no interval is split in two, and none is empty
            assert all(value > 0 for _, _, value in read)
            assert not any(a[1] == b[0] and a[2] == b[2] for a, b in zip(read, read[1:]))


def test_the_same_bytes_twice(made, tmp_path):
    folder, rows = made
    names = pd.Index(list(GROUPS))
    groups = pd.Series(list(GROUPS.values()), index=names, dtype=object)
    sources = [Source(sample, folder / f"{sample}.tsv.gz") for sample in rows]
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        write_tracks(groups, sources, TOY, tmp_path / run)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 3
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_a_group_without_fragments_has_no_file(made, tmp_path):
    folder, _ = made
    names = pd.Index(["one:AA", "three:AA"])
    groups = pd.Series(["x", "y"], index=names, dtype=object)
    table = write_tracks(groups, [Source("one", folder / "one.tsv.gz")], TOY, tmp_path)
    assert table["file"].tolist() == ["x.bw", ""] and [path.name for path in tmp_path.iterdir()] == ["x.bw"]
    with pytest.raises(NotPossible, match="none of the 2 cells belongs to a sample with fragments"):
        write_tracks(groups, [Source("other", folder / "one.tsv.gz")], TOY, tmp_path)


def test_names_of_files():
    assert file_name("0") == "0" and file_name("CD4 T") != file_name("CD4_T") == "CD4_T"
    odd = ["a/b", "../x", ".", "", "ä", "x" * 200, "-", "CD4 T"]
    made = [file_name(group) for group in odd]
    assert len(set(made)) == len(odd)
    assert all(name and not name.startswith(".") and name.isascii() and "/" not in name for name in made)
    assert max(map(len, made)) < 110


NO_ROOM = """
import resource, signal
from pathlib import Path
from multivi_nf.regulation.tracks import write_bigwig
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
values = (("chr1", 10 * i, 10 * i + 10, float(i % 97)) for i in range(50_000))
try:
    write_bigwig(Path("x.bw"), {"chr1": 1_000_000}, values)
except OSError as error:
    print(type(error.__cause__).__name__, "x.bw" in str(error))
"""


def test_a_bigwig_that_cannot_be_written_is_a_disk_that_fails(tmp_path):
    """The writer's other threads end by a panic, which `except Exception` would not see."""
    environment = os.environ | {"RUST_BACKTRACE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["PanicException", "True"], done.stdout + done.stderr


def test_an_error_of_what_is_written_is_no_end_of_it(tmp_path):
    """The writer prints such an error and closes the file as if it were whole."""

    def values():
        yield from (("chr1", 10 * i, 10 * i + 10, float(i % 7)) for i in range(5000))
        raise MemoryError("x")

    with pytest.raises(MemoryError, match="x"):
        write_bigwig(tmp_path / "x.bw", {"chr1": 1_000_000}, values())


@pytest.mark.parametrize("lost", [(0, 64), (700, 4096), (-600, 600)])
def test_a_bigwig_of_which_a_part_was_not_written_is_found(tmp_path, monkeypatch, lost):
    """Head, intervals and the end, where a disk did not take a buffer: zeros in their place."""
    path, real = tmp_path / "x.bw", tracks._intervals_of
    rows = [("chr1", 10 * i, 10 * i + 10, float(i % 97)) for i in range(50_000)]
    write_bigwig(path, {"chr1": 1_000_000}, iter(rows))
    with pyBigWig.open(str(path)) as file:
        assert len(file.intervals("chr1")) == len(rows)

    def zeroed(written):
        whole = bytearray(written.read_bytes())
        start = lost[0] % len(whole)
        whole[start : start + lost[1]] = bytes(lost[1])
        written.write_bytes(whole)
        return real(written)

    monkeypatch.setattr(tracks, "_intervals_of", zeroed)
    with pytest.raises(OSError, match="Input/output error"):
        write_bigwig(path, {"chr1": 1_000_000}, iter(rows))
