"""Chromosomes: what they are called and how long they are, and when a file belongs to another assembly."""

from __future__ import annotations

import re
from collections.abc import Iterable

from multivi_nf.errors import InputError

STYLES = ("auto", "exact")
# Main chromosomes of the UCSC assemblies (chromInfo tables of the UCSC genome browser), bp.
_MOUSE = [f"chr{n}" for n in [*range(1, 20), "X", "Y", "M"]]
_HUMAN = [f"chr{n}" for n in [*range(1, 23), "X", "Y", "M"]]
SIZES: dict[str, dict[str, int]] = {
    "hg38": dict(zip(_HUMAN, [
        248956422, 242193529, 198295559, 190214555, 181538259, 170805979, 159345973, 145138636, 138394717, 133797422,
        135086622, 133275309, 114364328, 107043718, 101991189, 90338345, 83257441, 80373285, 58617616, 64444167,
        46709983, 50818468, 156040895, 57227415, 16569])),
    "hg19": dict(zip(_HUMAN, [
        249250621, 243199373, 198022430, 191154276, 180915260, 171115067, 159138663, 146364022, 141213431, 135534747,
        135006516, 133851895, 115169878, 107349540, 102531392, 90354753, 81195210, 78077248, 59128983, 63025520,
        48129895, 51304566, 155270560, 59373566, 16571])),
    "mm10": dict(zip(_MOUSE, [
        195471971, 182113224, 160039680, 156508116, 151834684, 149736546, 145441459, 129401213, 124595110, 130694993,
        122082543, 120129022, 120421639, 124902244, 104043685, 98207768, 94987271, 90702639, 61431566, 171031299,
        91744698, 16299])),
    "mm39": dict(zip(_MOUSE, [
        195154279, 181755017, 159745316, 156860686, 151758149, 149588044, 144995196, 130127694, 124359700, 130530862,
        121973369, 120092757, 120883175, 125139656, 104073951, 98008968, 95294699, 90720763, 61420004, 169476592,
        91455967, 16299])),
}  # fmt: skip
MOST_OUTSIDE = 0.001
"""Share of a file's entries past their chromosomes' ends above which it must be of another assembly."""

FEW = 10
"""Entries that are wrong from which on a file is."""


def wrong_assembly(outside: int, total: int) -> bool:
    """Tell whether so many entries lie at no place of their chromosome that the file must be of another assembly.

    Single ones occur in genuine files: aligners reach past the ends, most often of the circular mitochondrion, and
    shifting or widening moves coordinates below 0. So the verdict needs over 0.1 %, and at least ten entries, or a
    tenth of a file that has few.

    Parameters
    ----------
    outside, total
        Numbers of entries.
    """
    return outside > MOST_OUTSIDE * total and (outside >= FEW or outside > 0.1 * total)


_MITO = re.compile(r"(chr)?(mtdna|mito|mitochondria|mitochondrion([-_]genome)?|mt[-_]?genome)", re.IGNORECASE)


def canonical(name: str) -> str:
    """Reduce a chromosome name to what UCSC and Ensembl names share: `chr1` → `1`, `MT` and `chrM` → `M`."""
    bare = re.sub("^chr", "", name, flags=re.IGNORECASE)
    return "M" if bare.upper() in ("M", "MT") or _MITO.fullmatch(bare) else bare


def is_mitochondrial(name: str) -> bool:
    """Tell whether a name is a mitochondrion's: `chrM`, `MT`, `MtDNA` (worm), `mitochondrion_genome` (fly), `Mito`.

    Also after the name of a genome: `GRCh38_chrM`.
    """
    bare = re.sub(r"^[A-Za-z]+[A-Za-z0-9.]*\d[A-Za-z0-9.]*_+", "", name)
    return canonical(bare) == "M" or _MITO.fullmatch(bare) is not None


def harmonise(names: Iterable[str], target_names: Iterable[str], style: str = "auto") -> dict[str, str]:
    """Map chromosome names to the naming of a target.

    Parameters
    ----------
    names
        Names as in the file.
    target_names
        Names as they should be (of the chromosome sizes, as a rule).
    style
        `auto`: `chr1` and `1`, `MT` and `chrM` are the same chromosome. `exact`: only equal names are.

    Returns
    -------
    Name → target name, for those names that have one; all others (scaffolds, decoys) are left out.

    Raises
    ------
    InputError
        Two names of the file would become one chromosome.
    """
    if style not in STYLES:
        raise InputError(
            f"chromosome style {style!r} is not known",
            "names of chromosomes could not be compared",
            f"give --chrom_style one of {', '.join(STYLES)}",
        )
    names = list(dict.fromkeys(names))
    targets = list(dict.fromkeys(target_names))
    exact = set(targets)
    mapping = {name: name for name in names if name in exact}
    if style == "exact":
        return mapping
    by_canonical = {canonical(target): target for target in reversed(targets)}
    for name in names:
        if name not in mapping and canonical(name) in by_canonical:
            mapping[name] = by_canonical[canonical(name)]
    seen: dict[str, str] = {}
    for name, target in mapping.items():
        if target in seen:
            raise InputError(
                f"the names {seen[target]!r} and {name!r} occur side by side and both mean chromosome {target!r}",
                "two references seem to be mixed in one file; merging them would count the wrong places",
                "give a file aligned to one reference, or set --chrom_style exact to use only the exact names",
            )
        seen[target] = name
    return mapping


def renamed(mapping: dict[str, str]) -> dict[str, str]:
    """Keep the part of a :func:`harmonise` mapping in which the name changed, to tell the user."""
    return {name: target for name, target in mapping.items() if name != target}
