"""Every step of the pipeline once, as small as it gets: what the chaos sweep disturbs.

A step is run in a folder `trial`, beside `world`, which holds tests/data/mosaic and what each step made, left alone.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

SAMPLES = ("multiome_1", "multiome_2", "rna_1", "rna_2", "atac_1", "atac_2", "cite_1")
DATA = "../world/data"
MADE = "../world/made"
GENOME = f"--chrom-sizes {DATA}/genome/chrom.sizes"
H5 = "filtered_feature_bc_matrix.h5"


@dataclass(frozen=True)
class Step:
    """One call of the command line.

    Attributes
    ----------
    name
        Of the folder under `made`; `STEP` or `STEP@SAMPLE`. What stands before `@` is the step.
    words
        Its arguments; results go below `out/`.
    copied
        What lies in `out/` before: (place below `world/made`, name in `out`).
    """

    name: str
    words: str
    copied: tuple[tuple[str, str], ...] = ()

    @property
    def step(self) -> str:
        """Name of the command."""
        return self.name.partition("@")[0]

    def arguments(self) -> list[str]:
        """What stands behind `multivi-nf`."""
        return [self.step, *self.words.split()]

    def set_up(self, trial: Path) -> None:
        """Fill `trial/out` with what is there before the step."""
        (trial / "out").mkdir(exist_ok=True)
        for source, target in self.copied:
            place = (trial / MADE / source).resolve()
            goal = trial / "out" / target
            goal.parent.mkdir(parents=True, exist_ok=True)
            if place.is_dir():
                shutil.copytree(place, goal)
            else:
                shutil.copy(place, goal)


def fragments_of(sample: str) -> str:
    return f"{DATA}/{sample}/fragments.tsv.gz"


def chain() -> list[Step]:
    """Every step in an order in which each finds what it reads; the sweep disturbs the first of every kind."""
    atac = ("multiome_1", "multiome_2", "atac_1", "atac_2")
    rna = {sample: f"{DATA}/{sample}/{H5}" for sample in ("multiome_1", "multiome_2", "rna_1", "cite_1")}
    rna["rna_2"] = f"{DATA}/rna_2/filtered_feature_bc_matrix"
    chosen = {
        "multiome_1": f"--rna {DATA}/multiome_1/{H5} --tss {DATA}/genome/tss.bed "
        f"--blacklist {DATA}/genome/blacklist.bed",
        "multiome_2": f"--rna {DATA}/multiome_2/{H5} --barcode-map {DATA}/multiome_2/barcode_map.tsv",
        "atac_1": f"--barcodes {DATA}/atac_1/barcodes.tsv",
        "atac_2": "--min-fragments 10 --min-tsse 0",
    }
    steps = [
        Step("simulate", "--outdir out/sim --preset test --cells 70 --genes 50 --peaks 100 --proteins 6 --fragments"),
        Step("check-samplesheet", f"{DATA}/samplesheet.csv --contrasts {DATA}/contrasts.csv --output out/samples.json"),
    ]
    inputs = {
        "multiome_1": f"--rna {rna['multiome_1']} --fragments {fragments_of('multiome_1')}",
        "multiome_2": f"--rna {rna['multiome_2']} --fragments {fragments_of('multiome_2')} "
        f"--barcode-map {DATA}/multiome_2/barcode_map.tsv",
        "rna_1": f"--rna {rna['rna_1']}",
        "rna_2": f"--rna {rna['rna_2']}",
        "atac_1": f"--fragments {fragments_of('atac_1')} --barcodes {DATA}/atac_1/barcodes.tsv",
        "atac_2": f"--fragments {fragments_of('atac_2')}",
        "cite_1": f"--rna {rna['cite_1']} --protein {rna['cite_1']}",
    }
    steps += [
        Step(f"preflight@{s}", f"--sample {s} {words} {GENOME} --output out/{s}.preflight.json")
        for s, words in inputs.items()
    ]
    checked = " ".join(f"{MADE}/preflight@{s}/{s}.preflight.json" for s in SAMPLES)
    samples = f"--samples {MADE}/check-samplesheet/samples.json"
    peaks = f"{MADE}/merge-peaks/peaks.bed"
    steps += [
        Step("check-inputs", f"{checked} {samples} --output out/plan.json --peaks-output out/peaks.bed"),
        *(
            Step(f"qc-rna@{s}", f"{path} --sample {s} --output out/{s}.rna.h5ad --qc out/qc/{s}")
            for s, path in rna.items()
        ),
        Step(
            "qc-protein@cite_1", f"{rna['cite_1']} --sample cite_1 --output out/cite_1.protein.h5ad --qc out/qc/cite_1"
        ),
        *(
            Step(f"qc-fragments@{s}", f"{fragments_of(s)} {GENOME} --sample {s} {chosen[s]} --output out/{s}")
            for s in atac
        ),
        Step(
            "call-peaks",
            f"{fragments_of('multiome_1')} --barcodes {MADE}/qc-fragments@multiome_1/multiome_1/candidates.txt "
            f"{GENOME} --output out/called.bed",
        ),
        Step(
            "merge-peaks",
            " ".join(f"{DATA}/{s}/peaks.bed" for s in atac) + f" {GENOME} --output out/peaks.bed",
        ),
    ]
    for s in atac:
        found = f"{MADE}/qc-fragments@{s}/{s}"
        mapped = f"--barcode-map {DATA}/multiome_2/barcode_map.tsv" if s == "multiome_2" else ""
        steps += [
            Step(
                f"count-peaks@{s}",
                f"{fragments_of(s)} --peaks {peaks} --barcodes {found}/candidates.txt {GENOME} --output out/{s}.h5ad",
            ),
            Step(
                f"qc-atac@{s}",
                f"{MADE}/count-peaks@{s}/{s}.h5ad --sample {s} --fragments-qc {found} {mapped} --min-fragments 10 "
                f"--min-tsse 0 --output out/{s}.atac.h5ad --qc out/qc/{s}",
            ),
        ]
    kept = [f"{MADE}/qc-rna@{s}/{s}.rna.h5ad" for s in rna]
    kept += [f"{MADE}/qc-atac@{s}/{s}.atac.h5ad" for s in atac] + [f"{MADE}/qc-protein@cite_1/cite_1.protein.h5ad"]
    sources = " ".join(f"--fragments {s}={fragments_of(s)}" for s in atac)
    sources += f" --barcode-map multiome_2={DATA}/multiome_2/barcode_map.tsv"
    mosaic, embedded, model = f"{MADE}/mosaic/mosaic.h5mu", f"{MADE}/embed/multivi.h5mu", f"{MADE}/calibrate/model"
    steps += [
        Step("mosaic", f"{samples} {' '.join(f'--inputs {path}' for path in kept)} --output out/mosaic.h5mu"),
        Step("train", f"{mosaic} --output out/model --resume --max-epochs 3 --n-hidden 16 --n-latent 4"),
        Step("calibrate", f"{mosaic} out/model --samples 8", (("train/model", "model"),)),
        Step("embed", f"{mosaic} {model} --output out/multivi.h5mu --chunks out/chunks"),
        Step(
            "impute",
            f"{embedded} {model} --modality rna --cells {MADE}/embed/chunks/cells_0001.txt --samples 40 "
            "--output out/1.zarr",
        ),
        Step("gather-imputed", f"{MADE}/impute/1.zarr --embedding {embedded} --output out/rna.zarr"),
        Step(
            "differential",
            f"{embedded} {model} --modality rna --groupby batch --target site_1 --reference site_2 --samples 8 "
            "--output out/site_1.tsv.gz",
        ),
        Step("export", f"{embedded} {MADE}/gather-imputed/rna.zarr --output out/tables"),
        Step("evaluate", f"--mosaic {embedded} --truth {DATA}/truth --output out/evaluation.json"),
        Step(
            "report",
            "out/results --output out/report.html",
            (
                ("embed/multivi.h5mu", "results/multivi.h5mu"),
                ("calibrate/model", "results/model"),
                ("gather-imputed/rna.zarr", "results/imputed/rna.zarr"),
                ("differential/site_1.tsv.gz", "results/differential/site_1.tsv.gz"),
                ("qc-rna@rna_1/qc/rna_1", "results/qc/rna_1"),
            ),
        ),
        Step(
            "gene-activity", f"{embedded} {sources} {GENOME} --gtf {DATA}/genome/genes.gtf --output out/activity.h5ad"
        ),
        Step("tracks", f"{embedded} {sources} {GENOME} --groups batch --output out/tracks"),
        Step(
            "links",
            f"{embedded} --gtf {DATA}/genome/genes.gtf --imputed {MADE}/gather-imputed/rna.zarr --output out/links",
        ),
        Step(
            "motifs",
            f"{embedded} --fasta {DATA}/genome/genome.fa --motifs {DATA}/genome/motifs.meme --groups batch "
            "--background 10 --output out/motifs",
        ),
        Step(
            "group-peaks",
            f"{embedded} {sources} {GENOME} --groups batch --merged out/merged.bed --output out/by_group",
        ),
        Step("controls", f"{embedded} {model} --groupby batch --output out/controls.tsv"),
    ]
    return steps + benchmark_steps(embedded)


def benchmark_steps(embedded: str) -> list[Step]:
    """The paper's first experiment, on one split."""
    split, run = f"{MADE}/benchmark-split/splits", f"{MADE}/benchmark-run/result"
    options = "--labels cluster --experiments 1 --unpaired-rates 50 --seeds 0"
    task = f"{DATA}/task"  # a link to the one folder in `split`, whose name holds a digest
    return [
        Step("benchmark-split", f"{embedded} {options} --output out/splits"),
        Step("benchmark-run", f"ridge {task} --output out/result"),
        Step("benchmark-collect", f"{embedded} --imputed {MADE}/gather-imputed/rna.zarr --output out/result"),
        Step("benchmark-score", f"{task} {run} --complete {embedded} --dataset d --output out/scores"),
        Step(
            "benchmark-page",
            f"{MADE}/benchmark-score/scores --plan {split}/plan.tsv --dataset d --output out/benchmark",
        ),
    ]


MOTIFS = """MEME version 4

ALPHABET= ACGT

MOTIF MA0001.1 ONE
letter-probability matrix: alength= 4 w= 12 nsites= 20 E= 0
{0}{1}{2}{3}{0}{1}{1}{2}{0}{3}{2}{0}
MOTIF MA0002.1 TWO
letter-probability matrix: alength= 4 w= 12 nsites= 20 E= 0
{3}{3}{0}{2}{1}{0}{2}{2}{1}{3}{1}{0}"""
ROWS = ("0.7 0.1 0.1 0.1\n", "0.1 0.7 0.1 0.1\n", "0.1 0.1 0.7 0.1\n", "0.1 0.1 0.1 0.7\n")
"""Words of little weight: a chance hit in one of twenty peaks."""


def add_inputs(data: Path) -> None:
    """What the small mosaic does not hold: a genome, motifs, names that are meant, types by markers, libraries."""
    chance = random.Random(0)
    genome = data / "genome"
    with (genome / "genome.fa").open("w") as file:
        for line in (genome / "chrom.sizes").read_text().splitlines():
            name, size = line.split()
            bases = "".join(chance.choices("ACGT", k=int(size)))
            file.write(f">{name}\n" + "".join(f"{bases[i : i + 80]}\n" for i in range(0, len(bases), 80)))
    (genome / "motifs.meme").write_text(MOTIFS.format(*ROWS))
    (data / "aliases.tsv").write_text("name\tmeant\nGENE_X\tGENE_Y\n")
    genes = (data / "markers.txt").read_text().split()[:6]
    rows = [f"{'AB'[i % 2]}\t{gene}\t+\n" for i, gene in enumerate(genes)]
    (data / "marker_sets.tsv").write_text("type\tgene\tsign\n" + "".join(rows))
