"""Write JASPAR's CORE motifs of vertebrates in MEME's format; run by `make motifs` and in the images' build.

python tools/jaspar.py OUTPUT       with pyjaspar (locks/motifs.lock)
"""

from __future__ import annotations

import sys
from pathlib import Path

RELEASE = "JASPAR2026"
PSEUDOCOUNT = 0.8
"""As multivi_nf.regulation.motif_files adds to counts."""


def meme(motifs):
    """Give the text: one motif an id and name, probabilities of A, C, G, T at each position."""
    parts = ["MEME version 4\n\nALPHABET= ACGT\n\nstrands: + -\n\n"]
    for motif in sorted(motifs, key=lambda one: one.matrix_id):
        columns = list(zip(*(motif.counts[base] for base in "ACGT")))
        parts.append(f"MOTIF {motif.matrix_id} {motif.name}\n")
        parts.append(f"letter-probability matrix: alength= 4 w= {len(columns)} nsites= {round(sum(columns[0]))}\n")
        for column in columns:
            total = sum(column) + PSEUDOCOUNT
            parts.append(" ".join(f"{(count + PSEUDOCOUNT / 4) / total:.6f}" for count in column) + "\n")
        parts.append("\n")
    return "".join(parts)


def main():
    """Write the file named on the command line, whole."""
    from pyjaspar import jaspardb

    motifs = jaspardb(release=RELEASE).fetch_motifs(collection="CORE", tax_group=["vertebrates"])
    if len(motifs) < 500:
        sys.exit(f"ERROR: {RELEASE} gave {len(motifs)} motifs of vertebrates, where there are about a thousand")
    output = Path(sys.argv[1])
    partial = output.with_name("." + output.name)
    partial.write_text(meme(motifs))
    partial.replace(output)
    print(f"{len(motifs)} motifs of {RELEASE}")


if __name__ == "__main__":
    main()
