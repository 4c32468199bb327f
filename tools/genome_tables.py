"""Write the tables of genes and of blacklisted regions that the package carries, from an annotation folder.

    python tools/genome_tables.py FOLDER

FOLDER holds `<assembly>.genes.bed.gz` (BED6, Ensembl id in column 7 where there is one) and
`<assembly>.blacklist.bed.gz`. The tables go to `python/multivi_nf/genomes/`, whose README names their sources.
"""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[1] / "python" / "multivi_nf" / "genomes"
ASSEMBLIES = ("hg38", "hg19", "mm10")
# names of clones and of small RNAs by the dozen: no gene that somebody looks for, and a third of the size
UNNAMED = re.compile(
    r"\.\d+$|^RP\d+-|^CT[ABCD]-|^A[CLP]\d{6}|^XX|^Y_RNA|^U\d+$|^RNU|^RNA5|^RNY|^7SK|^Metazoa|^LL\w+-|^RN7S|^snoU|^SNOR"
)


def lines(path: Path) -> list[list[str]]:
    """Split the lines of a gzipped BED."""
    with gzip.open(path, "rt") as handle:
        return [line.rstrip("\n").split("\t") for line in handle]


def write(path: Path, header: str, rows: list[list[str]]) -> None:
    """Write gzipped rows below a header, the same bytes every time."""
    text = "\n".join([header, *("\t".join(row) for row in rows)]) + "\n"
    path.write_bytes(gzip.compress(text.encode("ascii"), 9, mtime=0))


def main() -> None:
    """Read the folder that is named, write the tables."""
    source = Path(sys.argv[1])
    genes = {name: lines(source / f"{name}.genes.bed.gz") for name in ASSEMBLIES}
    refseq = {row[3] for row in genes["hg19"]}
    ids: dict[str, set[str]] = {}
    for row in genes["hg38"]:
        ids.setdefault(row[3], set()).add(row[6])
    for name in ASSEMBLIES:
        rows = []
        for row in genes[name]:
            chrom, start, end, symbol, _, strand = row[:6]
            if name == "hg38" and UNNAMED.search(symbol) and symbol not in refseq:
                continue
            known = ids.get(symbol, set()) if name == "hg19" else set()
            gene = row[6] if len(row) > 6 else next(iter(known)) if len(known) == 1 else ""
            starts = "1" if name != "hg38" or symbol in refseq else "0"
            rows.append([chrom, start, end, strand, gene, symbol, starts])
        write(HERE / f"{name}.genes.tsv.gz", "chrom\tstart\tend\tstrand\tid\tsymbol\trefseq", rows)
        black = [row[:3] for row in lines(source / f"{name}.blacklist.bed.gz")]
        write(HERE / f"{name}.blacklist.tsv.gz", "chrom\tstart\tend", black)
        print(f"{name}: {len(rows)} genes, {len(black)} blacklisted regions")


if __name__ == "__main__":
    main()
