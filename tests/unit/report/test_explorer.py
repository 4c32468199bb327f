"""The explorer: what is put into it, and what it does in a real browser."""

from __future__ import annotations

import base64
import json
import re
import zlib

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from tests.chromium import noted

from multivi_nf.export.modalities import fill_modalities
from multivi_nf.palette import CATEGORIES
from multivi_nf.report.explorer import MISSING, Beside, imputed_unit, quantised, scaled, write_explorer

N = 90


@pytest.fixture
def mosaic():
    """90 cells on a circle, clusters its thirds; GENE0 is counted in the last third only, half of it without RNA."""
    angle = np.linspace(0, 2 * np.pi, N, endpoint=False)
    names = np.array([f"s1:c{k:02d}" for k in range(N)])
    has_rna = np.arange(N) < 75
    counts = np.ones((N, 40), np.int32)
    counts[60:, 0] = 50
    rna = ad.AnnData(
        sparse.csr_matrix(counts[has_rna]),
        pd.DataFrame(index=names[has_rna]),
        pd.DataFrame({"symbol": [f"GENE{k}" for k in range(40)]}, index=[f"ENSG{k}" for k in range(40)]),
    )
    protein = ad.AnnData(
        sparse.csr_matrix(counts[:10, :3]), pd.DataFrame(index=names[:10]), pd.DataFrame(index=["CD3", "CD4", "CD8"])
    )
    atac = ad.AnnData(
        sparse.csr_matrix(counts[60:, :2]),
        pd.DataFrame(index=names[60:]),
        pd.DataFrame(index=["chr1:0-5", "chr1:9-12"]),
    )
    with mudata.set_options(pull_on_update=False):
        mosaic = mudata.MuData({"rna": rna, "atac": atac, "protein": protein})
        mosaic.obs = pd.DataFrame(
            {
                "sample": "s1",
                "modality": "rna",
                "cluster": [str(k // 30) for k in range(N)],
                "label": [None if k % 2 else "<b>odd</b>" for k in range(N)],
                "depth": np.arange(N, dtype=float),
                "out_of_support": np.arange(N) % 9 == 0,
            },
            index=names,
        ).loc[mosaic.obs_names]
    at = pd.Index(names).get_indexer(mosaic.obs_names)
    mosaic.obsm["X_umap"] = np.column_stack([np.cos(angle), np.sin(angle)])[at].astype(np.float32)
    return fill_modalities(mosaic)


def read(path):
    """`meta` of the page and a function that gives a part's bytes."""
    page = path.read_text()
    meta = json.loads(re.search(r'<script type="application/json" id="meta">(.*?)</script>', page, re.S).group(1))

    def part(name):
        text = re.search(rf'<script type="text/plain" id="{name}">(.*?)</script>', page, re.S).group(1)
        return zlib.decompress(base64.b64decode(text))

    return page, meta, part


def test_what_is_in_the_page(mosaic, tmp_path):
    obs = pd.DataFrame({"measured": mosaic.obs_names.isin(mosaic["rna"].obs_names)}, index=mosaic.obs_names)
    values = np.tile(np.arange(N, dtype=np.float32)[:, None], (1, 2))
    ad.AnnData(values, obs, pd.DataFrame(index=["ENSG5", "ENSG0"])).write_zarr(tmp_path / "rna.zarr")
    held = write_explorer(mosaic, Beside({"rna": tmp_path / "rna.zarr"}, {}), tmp_path / "e.html", title="A <b> run")
    page, meta, part = read(tmp_path / "e.html")
    assert held == (N, 43) and "A &lt;b&gt; run" in page and "<b>odd" not in page
    assert not re.search(r"""(src|href)=["']?https?:|fetch\(|import\(""", page), "nothing comes from the network"
    assert part("cells").decode().split("\n") == mosaic.obs_names.tolist()
    items = {(item["group"], item["name"]): item for item in meta["items"]}
    assert np.frombuffer(part(items["obs", "label"]["blob"]), np.uint8).tolist().count(MISSING) == 45
    assert items["obs", "cluster"]["colours"] == list(CATEGORIES[:3])
    gene = np.frombuffer(part(items["rna", "GENE0"]["blob"]), np.uint8)
    measured = obs["measured"].to_numpy()
    assert (gene[~measured] == MISSING).all()
    number = np.array([int(name[-2:]) for name in mosaic.obs_names])
    assert (gene[measured & (number >= 60)] == 254).all() and (gene[measured & (number < 60)] < 200).all()
    guess = np.frombuffer(part(items["rna imputed", "GENE0"]["blob"]), np.uint8)
    np.testing.assert_array_equal(guess, quantised(np.log1p(np.arange(N)), 0, np.log(N)))
    assert ("rna imputed", "GENE1") not in items and ("protein", "CD8") in items


@pytest.mark.parametrize(
    ("scale", "unit"),
    [
        ("probability at depth 0.5", "probability open"),
        ("expected fragments at the median depth, 900 in peaks", "expected fragments"),
        (None, "probability open"),
    ],
)
def test_unit_of_imputed_atac_is_the_scale_of_its_store(tmp_path, scale, unit):
    uns = {} if scale is None else {"multivi_nf": json.dumps({"scale": scale})}
    ad.AnnData(np.zeros((2, 1), np.float32), uns=uns).write_zarr(tmp_path / "atac.zarr")
    assert imputed_unit("atac", tmp_path / "atac.zarr") == unit
    assert imputed_unit("rna", tmp_path / "atac.zarr") == "ln(1 + imputed)"


def test_budget_keeps_the_map_and_says_so(mosaic, tmp_path):
    held = write_explorer(mosaic, Beside({}, {}), tmp_path / "e.html", size=0.006)
    page, meta, _ = read(tmp_path / "e.html")
    assert 0 < held[1] < 43 and "as many as fit" in page
    first = [item["name"] for item in meta["items"] if item["kind"] == "feature"][:3]
    assert first == ["CD3", "CD4", "CD8"], "proteins first"
    assert {"cluster", "depth", "sample"} <= {item["name"] for item in meta["items"]}


def test_markers_come_before_other_genes(mosaic, tmp_path):
    markers = {"rna": pd.DataFrame({"rank": [2, 1, 1], "feature": ["ENSG9", "ENSG8", "ENSG7"]})}
    write_explorer(mosaic, Beside({}, markers), tmp_path / "e.html")
    _, meta, _ = read(tmp_path / "e.html")
    order = [item["name"] for item in meta["items"] if item["group"] == "rna"]
    assert order[:3] == ["GENE8", "GENE7", "GENE9"] and order[3] == "GENE0", "then by variance"


def linked():
    """GENE3 with both peaks, GENE4 with the second; one link to a peak that is not there."""
    return pd.DataFrame(
        {
            "gene": ["ENSG3", "ENSG3", "ENSG4", "ENSG5"],
            "peak": ["chr1:9-12", "chr1:0-5", "chr1:9-12", "chr9:0-1"],
            "distance": [-1200, 0, 300, 7],
            "correlation": [0.51239, 0.4, 0.3, 0.2],
        }
    )


def test_links_are_in_the_page_with_their_genes_and_peaks_before_markers(mosaic, tmp_path):
    markers = {"rna": pd.DataFrame({"rank": [1], "feature": ["ENSG8"]})}
    write_explorer(mosaic, Beside({}, markers, linked()), tmp_path / "e.html")
    _, meta, _ = read(tmp_path / "e.html")
    assert meta["links"] == [
        ["ENSG3", "chr1:9-12", -1200, 0.512],
        ["ENSG3", "chr1:0-5", 0, 0.4],
        ["ENSG4", "chr1:9-12", 300, 0.3],
    ]
    order = [item["id"] for item in meta["items"] if item["group"] in ("rna", "atac")]
    assert order[:5] == ["ENSG3", "chr1:9-12", "chr1:0-5", "ENSG4", "ENSG8"]
    numbers = set()
    for size in np.arange(0.002, 0.006, 0.0002):
        write_explorer(mosaic, Beside({}, markers, linked()), tmp_path / "small.html", size=size)
        _, meta, _ = read(tmp_path / "small.html")
        held = {item["id"] for item in meta["items"]}
        assert all(gene in held and peak in held for gene, peak, _, _ in meta["links"])
        numbers.add(len(meta["links"]))
    assert numbers == {0, 1, 2, 3}, "of a smaller page the links of what is in it"
    write_explorer(mosaic, Beside({}, markers), tmp_path / "none.html")
    assert read(tmp_path / "none.html")[1]["links"] == []


LEAD = """<!doctype html>
<iframe id=f src="e.html#left=rna:GENE3&right=rna:LOST" style="width:%dpx;height:900px;border:0"></iframe><script>
f.onload = async () => {
  const w = f.contentWindow, d = f.contentDocument, out = {};
  const wait = async (ok) => { for (let k = 0; k < 200 && !ok(); k++) await new Promise((r) => setTimeout(r, 20)); };
  const buttons = (side) => [...d.querySelectorAll(`#${side} .linked button`)];
  const said = (side) => d.querySelector(`#${side} .linked`).textContent;
  try {
    await wait(() => d.documentElement.dataset.ready);
    out.lacking = d.getElementById('lacking').textContent; out.alone = d.getElementById('right').hidden;
    out.left = d.querySelector('#left input').value; out.peaks = said('left');
    buttons('left')[0].click(); await wait(() => !d.getElementById('right').hidden && said('right'));
    out.right = d.querySelector('#right input').value; out.genes = said('right'); out.hash = w.location.hash;
    buttons('right')[1].click(); await wait(() => d.querySelector('#left input').value.includes('GENE4'));
    out.back = d.querySelector('#left input').value; out.other = said('left');
    const input = d.querySelector('#left input');
    input.dispatchEvent(new w.Event('focus')); input.value = 'chr1:9'; input.dispatchEvent(new w.Event('input'));
    out.found = d.querySelector('#left .found li').textContent;
    input.value = 'gene9'; input.dispatchEvent(new w.Event('input'));
    input.dispatchEvent(new w.KeyboardEvent('keydown', {key: 'Enter'}));
    await wait(() => input.value.includes('GENE9'));
    out.none = d.querySelector('#left .linked').hidden;
    out.overflow = d.documentElement.scrollWidth - d.documentElement.clientWidth;
  } catch (e) { out.error = String(e) + e.stack; }
  const pre = document.createElement('pre'); pre.id = 'out'; pre.textContent = JSON.stringify(out);
  document.body.append(pre);
}</script>"""


@pytest.mark.parametrize("width", [1200, 390])
def test_from_a_gene_to_its_linked_peak_beside_it_and_back(mosaic, tmp_path, width):
    write_explorer(mosaic, Beside({}, {}, linked()), tmp_path / "e.html")
    (tmp_path / "drive.html").write_text(LEAD % width)
    found = driven(tmp_path, dark=False)
    assert found["left"] == "GENE3 · rna" and found["alone"] is True
    assert "LOST" in found["lacking"] and "--explorer_size" in found["lacking"]
    assert found["peaks"] == "Linked peaks:chr1:9-12 −1,200 bp, r 0.512chr1:0-5 at its start, r 0.4"
    assert found["right"] == "chr1:9-12 · atac" and found["genes"].startswith("Linked genes:GENE3 −1,200 bp")
    assert found["hash"] == "#left=rna%3AENSG3&right=atac%3Achr1%3A9-12"
    assert found["back"] == "GENE4 · rna" and found["other"] == "Linked peaks:chr1:9-12 +300 bp, r 0.3"
    assert "linked to GENE3, GENE4" in found["found"] and found["none"] is True
    assert found["overflow"] <= 0


ADDRESS = """<!doctype html>
<iframe id=f src="e.html#left=rna:50%&right=rna:ENSG5" style="width:390px;height:900px;border:0"></iframe><script>
f.onload = async () => {
  const d = f.contentDocument, out = {};
  for (let k = 0; k < 200 && !d.documentElement.dataset.ready; k++) await new Promise((r) => setTimeout(r, 20));
  out.ready = d.documentElement.dataset.ready; out.lacking = d.getElementById('lacking').textContent;
  out.right = f.contentWindow.location.hash;
  out.overflow = d.documentElement.scrollWidth - d.documentElement.clientWidth;
  const legend = d.querySelector('#left .legend');
  out.cut = legend.scrollWidth - legend.clientWidth;
  const canvas = d.querySelector('#left canvas');
  const press = async (key, times) => {
    for (let k = 0; k < times; k++) canvas.dispatchEvent(new f.contentWindow.KeyboardEvent('keydown', {key}));
    await new Promise((r) => setTimeout(r, 160));
    const p = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    return p.filter((v, k) => k % 4 == 3 && v == 255).length;
  };
  out.keys = [];
  for (const [key, times] of [['0', 1], ['ArrowRight', 30], ['ArrowLeft', 30], ['+', 40], ['0', 1]])
    out.keys.push(await press(key, times));
  const pre = document.createElement('pre'); pre.id = 'out'; pre.textContent = JSON.stringify(out);
  document.body.append(pre);
}</script>"""


def test_odd_addresses_and_names(mosaic, tmp_path):
    mosaic["rna"].var["symbol"] = ["ENSG5", *[f"GENE{k}" for k in range(1, 40)]]
    mosaic.obs["cluster"] = mosaic.obs["cluster"].cat.rename_categories({"0": "A" * 150})
    write_explorer(mosaic, Beside({}, {}), tmp_path / "e.html")
    (tmp_path / "drive.html").write_text(ADDRESS)
    found = driven(tmp_path, dark=False)
    assert found["ready"] == "yes" and found["lacking"].endswith(": 50%."), "a percent sign does not stop the page"
    assert found["right"].endswith("right=rna%3AENSG5"), "an id means its own gene, not the one with that symbol"
    whole, aside, back, closer, again = found["keys"]
    assert whole == back == again > 0 == aside == closer, "keys move the map, zoom into its empty middle, show it whole"
    assert found["overflow"] <= 0 and found["cut"] <= 0, "long names are broken, not cut"


def test_places_and_codes_by_hand():
    places = scaled(np.array([[0.0, 0.0], [10.0, 5.0]]))
    np.testing.assert_array_equal(places, [[0, 49151], [65535, 16384]])
    np.testing.assert_array_equal(quantised(np.array([-1, 0, 1, 2, 9, np.nan]), 0, 2), [0, 0, 127, 254, 254, MISSING])


def driven(folder, dark):
    """What drive.html noted of the page in its frame."""
    found = noted(folder / "drive.html", dark=dark, budget=20000)
    assert "error" not in found, found["error"]
    return found


DRIVE = """<!doctype html><iframe id=f src="e.html" style="width:%dpx;height:900px;border:0"></iframe><script>
f.onload = async () => {
  const w = f.contentWindow, d = f.contentDocument, out = {};
  const wait = async (ok) => { for (let k = 0; k < 200 && !ok(); k++) await new Promise((r) => setTimeout(r, 20)); };
  const frame = () => new Promise((r) => setTimeout(r, 160));
  try {
    await wait(() => d.documentElement.dataset.ready);
    const canvas = d.querySelector('#left canvas');
    const colours = (c = canvas) => {
      const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, n = {};
      for (let k = 0; k < p.length; k += 4) if (p[k + 3] == 255) {
        const h = '#' + [p[k], p[k + 1], p[k + 2]].map((v) => v.toString(16).padStart(2, '0')).join('');
        n[h] = (n[h] || 0) + 1;
      }
      return n;
    };
    out.before = colours();
    d.querySelector('#left .legend button').click(); await frame(); out.hidden = colours();
    d.querySelector('#left .legend button').click(); await frame();
    d.getElementById('lasso').click();
    const at = (type, x, y) => {
      const box = canvas.getBoundingClientRect(), clientX = x + box.left, clientY = y + box.top;
      canvas.dispatchEvent(new w.PointerEvent(type, {pointerId: 1, bubbles: true, clientX, clientY}));
    };
    const W = canvas.clientWidth, H = canvas.clientHeight;
    at('pointerdown', 1, 1); at('pointermove', W / 2, 1); at('pointermove', W / 2, H - 1);
    at('pointermove', 1, H - 1); at('pointerup', 1, H - 1);
    await wait(() => d.getElementById('count')); await frame();
    out.count = d.getElementById('count').textContent; out.dimmed = colours();
    let blob;
    w.URL.createObjectURL = (b) => { blob = b; return 'about:blank#'; };
    w.HTMLAnchorElement.prototype.click = function () { out.file = this.download; };
    d.getElementById('download').click(); out.barcodes = (await blob.text()).trim().split('\\n');
    out.rows = d.querySelectorAll('#chosen tbody tr').length;
    [...d.querySelectorAll('#chosen button')].find((b) => b.textContent == 'Clear').click(); await frame();
    const input = d.querySelector('#left input');
    const type = (text) => {
      input.dispatchEvent(new w.Event('focus')); input.value = text; input.dispatchEvent(new w.Event('input'));
    };
    type('gene0'); out.found = [...d.querySelectorAll('#left .found li')].map((e) => e.textContent);
    input.dispatchEvent(new w.KeyboardEvent('keydown', {key: 'Enter'}));
    await wait(() => input.value.includes('GENE0')); await frame();
    out.label = input.value; out.gene = Object.keys(colours()); out.hash = w.location.hash;
    type('nothing'); out.none = d.querySelector('#left .found li').textContent;
    input.dispatchEvent(new w.Event('blur'));
    d.getElementById('two').click(); await wait(() => !d.getElementById('right').hidden); await frame();
    out.right = Object.keys(colours(d.querySelector('#right canvas')));
    out.drawn = Object.values(colours()).reduce((a, b) => a + b, 0);
    const box = canvas.getBoundingClientRect(), far = {clientX: box.left + 2, clientY: box.top + 2, deltaY: -6000};
    canvas.dispatchEvent(new w.WheelEvent('wheel', {...far, cancelable: true, bubbles: true})); await frame();
    out.zoomed = Object.values(colours()).reduce((a, b) => a + b, 0);
    d.getElementById('reset').click(); await frame();
    out.again = Object.values(colours()).reduce((a, b) => a + b, 0);
    out.overflow = d.documentElement.scrollWidth - d.documentElement.clientWidth;
    out.background = w.getComputedStyle(d.body).backgroundColor;
  } catch (e) { out.error = String(e) + e.stack; }
  const pre = document.createElement('pre'); pre.id = 'out'; pre.textContent = JSON.stringify(out);
  document.body.append(pre);
}</script>"""


@pytest.mark.parametrize("width, dark", [(1200, False), (390, True)])
def test_in_a_browser(mosaic, tmp_path, width, dark):
    write_explorer(mosaic, Beside({}, {}), tmp_path / "e.html")
    (tmp_path / "drive.html").write_text(DRIVE % width)
    found = driven(tmp_path, dark)
    assert set(CATEGORIES[:3]) <= set(found["before"]), "clusters in their colours, by pixel"
    assert CATEGORIES[0] not in found["hidden"] and CATEGORIES[1] in found["hidden"], "the legend hides a cluster"
    left = mosaic.obs_names[mosaic.obsm["X_umap"][:, 0] < -1e-6].tolist()
    assert int(found["count"]) == len(left) and found["barcodes"] == left and found["rows"] == len(left)
    assert found["file"] == "barcodes.txt"
    assert sum(found["dimmed"].values()) < 0.8 * sum(found["before"].values()), "what is not selected fades"
    assert found["found"][0].startswith("GENE0 ") and found["label"] == "GENE0 · rna"
    assert found["hash"].startswith("#left=rna%3AENSG0") and not set(CATEGORIES[:3]) & set(found["gene"])
    assert "43 features" in found["none"] and found["right"] != found["gene"]
    assert found["zoomed"] == 0 and found["again"] == found["drawn"] > 0, "zoomed into a corner without cells, and back"
    assert found["overflow"] <= 0
    brightness = sum(int(v) for v in re.findall(r"\d+", found["background"])[:3]) / 3
    assert (brightness < 80) == dark
