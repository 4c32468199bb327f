from __future__ import annotations

import numpy as np
from scipy import stats

from multivi_nf.data.draws import BLOCK, cell_keys, normals, uniforms, write_chunks


def test_a_draw_belongs_to_seed_name_and_number():
    names = [f"cell{i}" for i in range(20)]
    noise = normals(cell_keys(names, 0), range(6), 5)
    shuffled = normals(cell_keys(names[::-1], 0), range(2, 4), 5)
    np.testing.assert_array_equal(shuffled, noise[2:4, ::-1])
    assert not np.allclose(normals(cell_keys(names, 1), range(6), 5), noise)
    assert not np.allclose(normals(cell_keys(names, 0, "other"), range(6), 5), noise)


def test_noise_is_standard_normal_and_independent():
    noise = normals(cell_keys([f"c{i}" for i in range(400)], 7), range(50), 6)
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    flat = noise.transpose(1, 0, 2).reshape(400, -1)
    assert np.abs(np.corrcoef(flat[:, :40].T) - np.eye(40)).max() < 0.25
    assert np.abs(np.corrcoef(flat[:40])[np.triu_indices(40, 1)]).max() < 0.3


def test_uniforms_are_uniform_and_addressable():
    keys = cell_keys([f"c{i}" for i in range(500)], 3, "bootstrap")
    u = uniforms(keys, 0, 40)
    assert 0 < u.min() and u.max() < 1
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    np.testing.assert_array_equal(uniforms(keys, 10, 5), u[:, 10:15])


def test_chunks_hold_whole_blocks(tmp_path):
    names = [f"c{i}" for i in range(3 * BLOCK + 7)]
    write_chunks(tmp_path / "chunks", names, BLOCK + 1)
    files = sorted((tmp_path / "chunks").glob("cells_*.txt"))
    parts = [f.read_text().split() for f in files]
    assert [len(p) for p in parts] == [2 * BLOCK, BLOCK + 7]
    assert sum(parts, []) == names
