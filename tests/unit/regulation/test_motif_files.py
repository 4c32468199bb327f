import gzip
import time

import numpy as np
import pytest

from multivi_nf.errors import InputError
from multivi_nf.regulation.motif_files import PSEUDOCOUNT, read_motifs

MEME = """MEME version 4

ALPHABET= ACGT

MOTIF MA0001.1 JUN::FOS
letter-probability matrix: alength= 4 w= 2 nsites= 20 E= 0
 0.5 0.25 0.25 0
 0.1\t0.2\t0.3\t0.4

URL http://example.org
MOTIF only_an_id
letter-probability matrix:
1 0 0 0
0 1 0 0
0 0 1e0 0
"""
JASPAR = """>MA0004.1\tArnt
A  [ 4 19 ]
C  [16  0 ]
G  [ 0  1 ]
T  [ 0  0 ]
>MA2.1 FOS(var.2)
4 0
0 4
0 0
0 0
"""


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_meme_is_read_as_probabilities(tmp_path):
    one, other = read_motifs(write(tmp_path / "m.meme", MEME))
    assert (one.id, one.name, one.factors) == ("MA0001.1", "JUN::FOS", ["JUN", "FOS"])
    assert np.allclose(one.probabilities, [[0.5, 0.1], [0.25, 0.2], [0.25, 0.3], [0, 0.4]])
    assert (other.id, other.name) == ("only_an_id", "only_an_id") and other.probabilities.shape == (4, 3)


def test_jaspar_is_read_as_counts_with_a_pseudocount(tmp_path):
    (tmp_path / "m.gz").write_bytes(gzip.compress(JASPAR.encode()))
    one, other = read_motifs(tmp_path / "m.gz")
    assert (one.id, one.name) == ("MA0004.1", "Arnt") and other.factors == ["FOS"]
    expected = (np.array([4, 16, 0, 0]) + PSEUDOCOUNT / 4) / (20 + PSEUDOCOUNT)
    assert np.allclose(one.probabilities[:, 0], expected) and np.allclose(one.probabilities.sum(axis=0), 1)


def test_windows_ends_of_line_and_a_byte_order_mark_are_read(tmp_path):
    text = "\ufeff" + JASPAR.replace("\n", "\r\n")
    assert [motif.id for motif in read_motifs(write(tmp_path / "m.txt", text))] == ["MA0004.1", "MA2.1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no motif"),
        ("\n\n# nothing\n", "holds no motif"),
        ("MEME version 4\n", "holds no motif"),
        ("hello\n", "line 1: 'hello' where a motif begins with >"),
        (MEME.replace(" 0.1\t0.2\t0.3\t0.4\n", ""), "has 1 of 2 rows of four numbers"),
        (MEME.replace("0.5 0.25", "0.9 0.25"), "add up to"),
        (MEME.replace("0.5 0.25 0.25 0", "1.5 -0.25 -0.25 0"), "neither counts nor probabilities"),
        (MEME.replace("0.5 0.25", "nan 0.25"), "has 0 of 2 rows"),
        (MEME.replace("ACGT", "ACDEFGHIKLMNPQRSTVWY"), "not DNA"),
        (MEME + "MOTIF last\n", "last has no letter-probability matrix"),
        (MEME.replace("only_an_id", "MA0001.1"), "more than once, such as 'MA0001.1'"),
        (JASPAR.replace("T  [ 0  0 ]\n", ""), "has not four rows"),
        (JASPAR.replace("[ 4 19 ]", "[ 4 19 3 ]"), "of as many counts"),
        (JASPAR.replace("C  [", "G  ["), "has not four rows"),
        (JASPAR.replace("4 0\n0 4", "0 0\n0 4"), "neither counts nor probabilities"),
        (gzip.compress(JASPAR.encode(), mtime=0)[:-8], "cannot be read as text"),
        (b"SQLite format 3\0\1\2\3", "where a motif begins with >"),
    ],
)
def test_what_is_empty_or_broken_is_refused(tmp_path, text, message):
    with pytest.raises(InputError) as caught:
        read_motifs(write(tmp_path / "m.txt", text))
    assert message in caught.value.what and caught.value.why and caught.value.remedy


def test_a_path_to_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_motifs(tmp_path / "none")


def test_a_motif_repeated_without_end_is_told_at_once(tmp_path):
    """To count each of n names among n costs n²: three hundred thousand took hours."""
    one = ">M1 a\nA [1 0]\nC [0 1]\nG [0 0]\nT [0 0]\n"
    path = write(tmp_path / "m.txt", one * 20_000)
    began = time.process_time()
    with pytest.raises(InputError, match="1 motif ids more than once, such as 'M1'"):
        read_motifs(path)
    assert time.process_time() - began < 5
