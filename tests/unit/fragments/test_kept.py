"""What a first pass keeps is read as the fragments file itself would be, or refused by name."""

from __future__ import annotations

import dataclasses
import gzip
import random

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from multivi_nf.commands.count_peaks import command as count_command
from multivi_nf.commands.qc_fragments import command as qc_command
from multivi_nf.errors import InputError
from multivi_nf.fragments import kept
from multivi_nf.fragments.count import scan
from multivi_nf.fragments.cuts import write_cut_sites
from multivi_nf.fragments.kept import KeptFragments, is_kept, open_fragments
from multivi_nf.fragments.reader import BLOCK
from multivi_nf.fragments.stream import Asked, FragmentStream
from multivi_nf.inputs.genome import Genome
from multivi_nf.testing.fragments_fuzz import bgzf

SIZES = {"chr2": 900_000_000, "chr1": 500_000, "chrM": 16000}
GENOME = Genome(SIZES, "chrM", None, None, {})
PEAKS = pd.DataFrame(
    [("chr1", 1000, 30000), ("chr1", 100_000, 480_000), ("chr2", 5, 800_000_000)], columns=["chrom", "start", "end"]
)
NAMES = [f"BC{i:03d}-1" for i in range(40)]


def fragments(path, n=3000, is_sorted=True, odd=True, seed=0):
    """Write fragments far apart, long, of much support, on other chromosomes, and one past an end."""
    rng = random.Random(seed)
    lines = []
    for chrom in ("chr1", "chr2", "chrM", "scaffold"):
        size = SIZES.get(chrom, 1000)
        starts = [rng.randrange(size - 10) for _ in range(n)]
        for start in sorted(starts) if is_sorted else starts:
            longest = min(size - start, rng.choice([300, 300, 6000]))
            count = rng.choice([1, 2, 254, 255, 256, 70000]) if odd else 1
            lines.append(f"{chrom}\t{start}\t{start + rng.randint(1, longest)}\t{rng.choice(NAMES)}\t{count}\n")
    lines.insert(7, f"chr1\t499990\t500005\t{NAMES[0]}\t1\n")
    path.write_text("# id=x\n" + "".join(lines))
    return path


def batches(stream):
    found = [
        np.column_stack([np.full(len(batch.count), batch.chrom), batch.position, batch.barcode, batch.count])
        for batch in stream
    ]
    return np.concatenate(found).tolist()


def keep(tmp_path, barcodes=(), **options):
    path = fragments(tmp_path / "f.tsv", **options)
    scan(path, GENOME, barcodes=barcodes, kept=tmp_path / "f.kept")
    return path, tmp_path / "f.kept"


def test_the_bytes_do_not_depend_on_the_threads(tmp_path):
    text = fragments(tmp_path / "f.tsv", n=70_000, odd=False).read_bytes()
    assert text.index(b"\nchr2") < BLOCK - 100_000 < BLOCK < text.index(b"\nchrM"), "text is cut where fragments are"
    (tmp_path / "f.tsv.gz").write_bytes(bgzf(text, 60_000))
    found = []
    for threads in (1, 3):
        scan(tmp_path / "f.tsv.gz", GENOME, kept=tmp_path / str(threads), threads=threads)
        found.append((tmp_path / str(threads)).read_bytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize("listed", [[], NAMES[5:20]])
@pytest.mark.parametrize("asked", [NAMES[7:15], [*NAMES[19:4:-1]]])
def test_read_as_the_file_is(tmp_path, is_sorted, listed, asked):
    path, store = keep(tmp_path, listed, is_sorted=is_sorted)
    assert is_kept(store) and not is_kept(path)
    one = FragmentStream(path, Asked(SIZES, asked, only_these=True))
    other = open_fragments(store, Asked(SIZES, asked, only_these=True))
    assert isinstance(other, KeptFragments)
    assert batches(other) == batches(one)
    assert other.barcodes() == one.barcodes() == asked
    assert other.facts == dataclasses.replace(one.facts) and other.chroms_met() == one.chroms_met()
    assert other.left_out_of == one.left_out_of


def test_everything_is_kept_where_no_cells_are_listed(tmp_path):
    path, store = keep(tmp_path)
    one, other = FragmentStream(path, Asked(SIZES, NAMES[3:5])), KeptFragments(store, Asked(SIZES, NAMES[3:5]))
    expected, found = batches(one), batches(other)
    assert [[*row[:3], one.barcodes()[row[3]], row[4]] for row in expected] == [
        [*row[:3], other.barcodes()[row[3]], row[4]] for row in found
    ]
    assert other.n_barcodes() == len(NAMES) and other.barcodes()[:2] == NAMES[3:5]


@pytest.mark.parametrize("strategy", ["fragment", "insertion", "pic"])
def test_counts_and_cut_sites_are_the_same(tmp_path, strategy):
    path, store = keep(tmp_path, NAMES)
    options = {"barcodes": NAMES[4:30], "only_these": True, "peaks": PEAKS, "quality": False, "strategy": strategy}
    one, other = scan(path, GENOME, **options), scan(store, GENOME, **options)
    assert (one.matrix != other.matrix).nnz == 0 and one.matrix.nnz > 50
    pd.testing.assert_frame_equal(one.table, other.table)
    groups = {name: "a" if i % 2 else "b" for i, name in enumerate(NAMES[:20])}
    for where, source in (("one", path), ("other", store)):
        (tmp_path / where).mkdir()
        cuts = write_cut_sites([(source, groups)], GENOME, tmp_path / where)
        assert cuts.chroms == ["chr1", "chr2"]
    for name in ("cuts_0.bed.gz", "cuts_1.bed.gz"):
        one, other = (gzip.decompress((tmp_path / where / name).read_bytes()) for where in ("one", "other"))
        assert one == other and one.count(b"\n") > 500


def test_the_same_pass_leaves_the_same_bytes_of_eight_a_fragment(tmp_path):
    _, store = keep(tmp_path, odd=False, n=20000)
    first = store.read_bytes()
    keep(tmp_path, odd=False, n=20000)
    assert store.read_bytes() == first
    assert len(first) / 60001 < 8 * 1.6  # a third lies on a long chromosome, too far apart for a word


def test_more_barcodes_than_a_word_can_name(tmp_path, monkeypatch):
    """Numbers that do not fit are written in full (the limit is lowered here, and the kernel compiled anew)."""
    monkeypatch.setattr(kept, "_BARCODE", 3)
    encode = type(kept._encode)(kept._encode.py_func, targetoptions={"nopython": True})
    monkeypatch.setattr(kept, "_encode", encode)
    path, store = keep(tmp_path, NAMES, odd=False)
    assert batches(KeptFragments(store, Asked(SIZES, NAMES))) == batches(
        FragmentStream(path, Asked(SIZES, NAMES, only_these=True))
    )


def test_cells_that_were_not_kept_are_refused(tmp_path):
    _, store = keep(tmp_path, NAMES[:10])
    with pytest.raises(InputError, match=r"of 10 listed cells, and 2 of the 3 barcodes asked for, first 'BC010-1'"):
        KeptFragments(store, Asked(SIZES, NAMES[9:12]))
    with pytest.raises(InputError, match="more than once"):
        KeptFragments(store, Asked(SIZES, [NAMES[0], NAMES[0]]))


@pytest.mark.parametrize(
    ("sizes", "told"),
    [(SIZES | {"chr1": 400_000}, "chr1 of 500000 bp, here it is of 400000 bp"), ({"chr1": 500_000}, "it is not there")],
)
def test_another_assembly_is_refused(tmp_path, sizes, told):
    _, store = keep(tmp_path)
    with pytest.raises(InputError, match=told):
        KeptFragments(store, Asked(sizes))


def test_names_of_chromosomes_may_differ_in_style(tmp_path):
    path, store = keep(tmp_path)
    plain = {"M": 16000, "1": 500_000, "2": 900_000_000}
    found, expected = (
        batches(kind(where, Asked(plain, NAMES))) for kind, where in ((KeptFragments, store), (FragmentStream, path))
    )
    assert found == expected


@pytest.mark.parametrize("at", ["block", "end", "cut", "cut at the end", "other end"])
def test_damage_is_refused(tmp_path, at):
    _, store = keep(tmp_path)
    raw = bytearray(store.read_bytes())
    if at == "block":
        raw[5000] ^= 1
    elif at == "end":
        raw[-200] ^= 1
    elif at == "other end":
        raw[-1] ^= 1
    else:
        del raw[-1 if at == "cut at the end" else len(raw) // 2 :]
    store.write_bytes(raw)
    with pytest.raises(InputError, match=r"kept by qc-fragments, is (damaged|cut)"):
        batches(KeptFragments(store, Asked(SIZES)))


def test_the_steps_pass_it_on(tmp_path):
    path = fragments(tmp_path / "f.tsv")
    (tmp_path / "sizes").write_text("".join(f"{name}\t{size}\n" for name, size in SIZES.items()))
    (tmp_path / "peaks.bed").write_text("".join(f"{c}\t{s}\t{e}\n" for c, s, e in PEAKS.itertuples(index=False)))
    (tmp_path / "cells").write_text("\n".join(NAMES) + "\n")

    def step(command, source, *arguments):
        sizes = ["--chrom-sizes", str(tmp_path / "sizes"), "--barcodes", str(tmp_path / "cells")]
        done = CliRunner().invoke(command, [str(source), *sizes, *map(str, arguments)], catch_exceptions=False)
        assert done.exit_code == 0, done.output

    step(qc_command, path, "--output", tmp_path / "qc", "--kept", tmp_path / "f.kept")
    for name, source in (("one", path), ("other", tmp_path / "f.kept")):
        step(count_command, source, "--peaks", tmp_path / "peaks.bed", "--output", tmp_path / f"{name}.h5ad")
    assert (tmp_path / "one.h5ad").read_bytes() == (tmp_path / "other.h5ad").read_bytes()
    (tmp_path / "f.kept").write_text("something of the user's")
    sizes = ["--chrom-sizes", str(tmp_path / "sizes"), "--output", str(tmp_path / "qc"), "--kept"]
    with pytest.raises(InputError, match="a file of another kind"):
        CliRunner().invoke(qc_command, [str(path), *sizes, str(tmp_path / "f.kept")], catch_exceptions=False)
