"""Bad inputs: each stops before training with what, why and remedy, and leaves nothing under --outdir.

Nextflow is started once for many bad inputs, which also shows that all of them are told in one go.
"""

from __future__ import annotations

import gzip
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.pipeline.nextflow_runs import BIN, MOSAIC, Run

from multivi_nf.testing.files import GENES, PEAKS, barcodes, counts, features, write_10x, write_h5ad

HEADER = "sample,rna,fragments,atac,protein,peaks,barcodes,barcode_map,batch"
HEAVY = {"RNA_QC", "ATAC_QC", "PROTEIN_QC", "FRAGMENTS_QC", "CALL_PEAKS", "COUNT_PEAKS", "MOSAIC", "TRAIN"}
MESSAGE = re.compile(r"^ERROR: .+\n  Why it matters: .+\n  What to do: .+", flags=re.MULTILINE)


def assert_refused(run: Run, *words: tuple[str, ...]) -> None:
    """The run stopped at the gate; for each tuple one three-part message holds all of its words."""
    assert run.code != 0
    assert not HEAVY & set(run.submitted()), run.said
    assert run.results() == []
    assert "Traceback" not in run.said
    assert "No h5ad/" not in run.said  # of a step that was not reached
    repeated = run.said[run.said.rindex("Work dir:") :] if "Work dir:" in run.said else run.said
    messages = MESSAGE.findall(repeated)
    for wanted in words:
        assert any(all(word in message for word in wanted) for message in messages), f"{wanted} is not in\n{run.said}"


def sheet(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "samples.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def good(tmp_path) -> Path:
    """A matrix that nothing is wrong with."""
    return write_10x(tmp_path / "good.h5", counts(40, 54), barcodes(40), features())


def test_a_sheet_with_many_faults(nextflow, tmp_path, good):
    path = sheet(
        tmp_path,
        "a,good.h5,,,,,,,b1,x",
        "a,good.h5,,,,,,,b1,x",
        "../escape,good.h5,,,,,,,b1,x",
        "<script>alert(1)</script>,good.h5,,,,,,,b1,x",
        "$(touch harm),good.h5,,,,,,,b1,x",
        "lost,nowhere/at_all.h5,,,,,,,b1,x",
        "nothing,,,,,,,,b1,x",
        header=HEADER + ",has_rna",
    )
    run = nextflow(tmp_path, "--input", path)
    assert_refused(
        run,
        ("line 3", "sample", "a"),
        ("line 4", "../escape"),
        ("line 5", "<script>"),
        ("line 6", "$(touch harm)"),
        ("line 7", "nowhere/at_all.h5"),
        ("line 8", "rna"),
        ("has_rna",),
    )
    assert not list(tmp_path.rglob("harm"))


def test_a_sheet_without_samples(nextflow, tmp_path, good):
    assert_refused(nextflow(tmp_path, "--input", sheet(tmp_path, "good.h5", header="rna")), ("'sample'", "missing"))


def test_contrasts_that_cannot_be_made(nextflow, tmp_path, good):
    for n in range(3):
        shutil.copy(good, tmp_path / f"s{n}.h5")
    rows = [f"s{n},s{n}.h5,,,,,,,b1,{'control' if n else 'treated'}" for n in range(3)]
    path = sheet(tmp_path, *rows, header=HEADER + ",arm")
    contrasts = tmp_path / "contrasts.csv"
    contrasts.write_text(
        "contrast,modality,groupby,target,reference,cells\n"
        "one,rna,armm,treated,control,observed\n"
        "two,rna,arm,nobody,control,observed\n"
        "three,dna,arm,treated,control,observed\n"
        "../four,rna,arm,treated,control,observed\n"
    )
    run = nextflow(tmp_path, "--input", path, "--contrasts", contrasts)
    assert_refused(run, ("line 4", "dna"), ("line 5", "../four"))
    contrasts.write_text(
        "".join(line for line in contrasts.read_text().splitlines(True) if line[:3] in ("con", "one", "two"))
    )
    assert_refused(
        nextflow(tmp_path, "--input", path, "--contrasts", contrasts), ("armm", "arm"), ("nobody", "control")
    )


def bad_files(folder: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Write one bad file a sample; sample → (column, words of its message)."""
    cells = barcodes(40)
    rna = counts(40, len(GENES)).toarray().astype(np.float64)
    fragments = gzip.decompress((MOSAIC / "atac_1" / "fragments.tsv.gz").read_bytes())
    bgzf = (MOSAIC / "atac_1" / "fragments.tsv.gz").read_bytes()

    def matrix(name: str, values: np.ndarray, names: list[str] = GENES, rows: list[str] = cells) -> None:
        write_h5ad(folder / f"{name}.h5ad", values, rows, names)

    matrix("halves", rna + 0.5)
    matrix("negative", np.where(rna > 3, -rna, rna))
    matrix("nan", np.where(rna > 3, np.nan, rna))
    matrix("twice", rna, rows=[*cells[:39], cells[0]])
    (folder / "empty.h5").touch()
    (folder / "text.h5").write_text("this is no HDF5\n")
    write_10x(folder / "no_protein.h5", counts(40, 50), cells, features("rna+atac"))
    (folder / "cut.tsv.gz").write_bytes(gzip.compress(fragments)[:-5000])
    (folder / "no_end.tsv.gz").write_bytes(bgzf[:-28])
    (folder / "three.tsv.gz").write_bytes(gzip.compress(b"chr1\t1\t9\nchr1\t2\t9\n"))
    (folder / "backwards.tsv.gz").write_bytes(gzip.compress(b"chr1\t90\t9\tAAACCC-1\t1\n" * 50))
    (folder / "beyond.tsv.gz").write_bytes(gzip.compress(b"chr1\t999999990\t999999999\tAAACCC-1\t1\n" * 50))
    (folder / "words.tsv.gz").write_bytes(gzip.compress(b"these are words\n" * 50))
    return {
        "halves": ("rna", ("halves.h5ad", "whole numbers")),
        "negative": ("rna", ("negative.h5ad", "negative")),
        "nan": ("rna", ("nan.h5ad", "nan")),
        "twice": ("rna", ("twice.h5ad", cells[0])),
        "empty": ("rna", ("empty.h5", "empty")),
        "text": ("rna", ("text.h5",)),
        "no_protein": ("protein", ("no_protein.h5",)),
        "cut": ("fragments", ("cut.tsv.gz", "middle")),
        "no_end": ("fragments", ("no_end.tsv.gz", "BGZF")),
        "three": ("fragments", ("three.tsv.gz", "column")),
        "backwards": ("fragments", ("backwards.tsv.gz",)),
        "beyond": ("fragments", ("beyond.tsv.gz", "chr1")),
        "words": ("fragments", ("words.tsv.gz",)),
    }


def test_thirteen_bad_files_are_told_in_one_go(nextflow, tmp_path):
    cases = bad_files(tmp_path)
    columns = HEADER.split(",")
    rows = []
    for sample, (column, _) in cases.items():
        name = next(path.name for path in tmp_path.glob(f"{sample}.*"))
        rows.append(",".join({"sample": sample, column: name, "batch": "b"}.get(key, "") for key in columns))
    run = nextflow(tmp_path, "--input", sheet(tmp_path, *rows), "--chrom_sizes", MOSAIC / "genome" / "chrom.sizes")
    assert_refused(
        run, *((sample, column) for sample, (column, _) in cases.items()), *(words for _, words in cases.values())
    )


def test_samples_that_share_no_genes(nextflow, tmp_path, good):
    mouse = [name.replace("ENSG", "ENSMUSG") for name in GENES]
    write_h5ad(tmp_path / "mouse.h5ad", counts(40, len(mouse)), barcodes(40), mouse)
    run = nextflow(tmp_path, "--input", sheet(tmp_path, "human,good.h5,,,,,,,b", "mouse,mouse.h5ad,,,,,,,b"))
    assert_refused(run, ("mouse", "human"))


def test_peaks_of_two_studies_and_fragments_without_a_genome(nextflow, tmp_path, good):
    write_h5ad(
        tmp_path / "other.h5ad", counts(40, len(PEAKS)), barcodes(40), [name.replace("chr1", "chr2") for name in PEAKS]
    )
    shutil.copy(MOSAIC / "atac_1" / "fragments.tsv.gz", tmp_path)
    rows = ["one,,,good.h5,,,,,b", "two,,,other.h5ad,,,,,b", "three,,fragments.tsv.gz,,,,,,b"]
    assert_refused(nextflow(tmp_path, "--input", sheet(tmp_path, *rows)), ("one", "two", "peak"), ("--genome",))


def test_macs3_is_asked_for_at_the_door(nextflow, tmp_path):
    # This environment's programs without macs3
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("python3", "python", "multivi-nf"):
        (programs / name).write_text(f'#!/bin/bash\nexec {BIN / name} "$@"\n')
        (programs / name).chmod(0o755)
    launcher = programs / "nextflow"
    launcher.write_text((BIN / "nextflow").read_text())
    launcher.chmod(0o755)
    places = [place for place in ("/usr/local/bin", "/usr/bin", "/bin") if not Path(place, "macs3").exists()]
    run = nextflow(tmp_path, "-profile", "test", program=launcher, PATH=":".join(places))
    assert_refused(run, ("no macs3", "make macs3"))


def test_a_gpu_that_is_not_there(nextflow, tmp_path, finished):
    """Asked for by --device cuda: refused by name. What comes before it does not depend on who finishes first."""
    config = tmp_path / "late.config"
    config.write_text("process.beforeScript = 'sleep $(( RANDOM % 4 ))'\n")
    source = [] if "CALL_PEAKS" in finished.submitted() else ["--peak_source", "samples"]
    wanted = ["-profile", "test", *source, "--device", "cuda", "-c", config]
    run = nextflow(tmp_path, *wanted, CUDA_VISIBLE_DEVICES="")
    assert run.code != 0
    assert re.search(
        r"ERROR: .*cuda.*\n  Why it matters: .+\n  What to do: .+", run.said[run.said.rindex("Work dir:") :]
    )
    made = next(run.folder.glob("work/*/*/mosaic.h5mu"))
    assert made.read_bytes() == (finished.outdir / "mosaic" / "mosaic.h5mu").read_bytes()


def test_what_regulation_needs_is_looked_at_before_all_else(nextflow, tmp_path, good):
    path = sheet(tmp_path, "a,good.h5,,,,,,,b1")
    (tmp_path / "genome.fa").write_text(">scaffold_1\nACGTACGT\n>scaffold_2\nACGT\n")
    (tmp_path / "motifs.meme").write_text("MEME version 4\n\nALPHABET= ACGT\n")
    given = ("--genome", "hg38", "--fasta", tmp_path / "genome.fa", "--motifs", tmp_path / "motifs.meme")
    assert_refused(
        nextflow(tmp_path, "--input", path, "--regulation", *given),
        ("genome.fa", "none of the genome's chromosomes (chr1", "scaffold_1"),
        ("motifs.meme", "holds no motif", "MEME"),
    )
