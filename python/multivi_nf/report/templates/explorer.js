"use strict";
(async () => {
  const $ = (id) => document.getElementById(id);
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const meta = JSON.parse($("meta").textContent);
  const n = meta.n;
  const MISSING = 255;
  const inflate = async (id) => {
    const packed = Uint8Array.from(atob($(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  const kept = new Map();
  const values = (item) => {
    if (!kept.has(item.blob)) kept.set(item.blob, inflate(item.blob));
    return kept.get(item.blob);
  };
  const xy = new Uint16Array((await inflate("xy")).buffer);
  let names = null;
  const cellNames = async () => (names ??= new TextDecoder().decode(await inflate("cells")).split("\n"));

  // what a view can be coloured by, by its words in an address: "obs:cluster", "rna:CD3E", "rna imputed:CD3E"
  const byKey = new Map();
  for (const item of meta.items) {
    item.label = item.kind === "feature" ? `${item.name} · ${item.group}` : item.name;
    item.key = `${item.group}:${item.id}`;
    byKey.set(item.key, item);
  }
  // an id means its own feature, also where another one has it as its symbol
  for (const item of meta.items) {
    for (const word of [item.name, item.gene]) {
      const key = `${item.group}:${word}`;
      if (word && !byKey.has(key)) byKey.set(key, item);
    }
  }
  // a gene's linked peaks and a peak's linked genes, as measured, whichever of the two is shown and how
  const partners = new Map();
  for (const [gene, peak, distance, r] of meta.links) {
    const ends = [byKey.get(`rna:${gene}`), byKey.get(`atac:${peak}`)];
    for (const end of [0, 1]) {
      const id = `${["rna", "atac"][end]}:${ends[end].id}`;
      if (!partners.has(id)) partners.set(id, []);
      partners.get(id).push({ item: ends[1 - end], distance, r });
    }
  }
  const partnersOf = (item) => (item.kind === "feature" ? partners.get(`${item.group.split(" ")[0]}:${item.id}`) ?? [] : []);
  const column = (name) => byKey.get(`obs:${name}`);

  // colours
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const rgb = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
  const packed = ([r, g, b], alpha = 255) => ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;
  const RAMPS = {
    light: ["#cfdff0", "#93bce3", "#3a7fc1", "#123b6d"].map(rgb),
    dark: ["#2d4d6e", "#3f7db5", "#6db3ee", "#f4f1c1"].map(rgb),
  };
  const ramp = () => RAMPS[dark.matches ? "dark" : "light"];
  const along = (share) => {
    const stops = ramp(), at = Math.min(Math.max(share, 0), 1) * (stops.length - 1), k = Math.min(Math.floor(at), stops.length - 2);
    return stops[k].map((low, c) => Math.round(low + (at - k) * (stops[k + 1][c] - low)));
  };
  const missing = () => rgb(dark.matches ? "#333a41" : "#e1e3e6");
  const number = (value) => (Number.isInteger(value) && Math.abs(value) < 1e6 ? value.toLocaleString("en") : Number(value.toPrecision(3)).toString());
  const shown = (item, code) => {
    if (code === MISSING) return item.kind === "feature" ? "not measured" : "no value";
    if (item.kind === "category") return item.categories[code];
    return number(item.low + (code / 254) * (item.high - item.low));
  };

  // one order of drawing for all: shuffled, always the same, so that no group lies on top
  const shuffled = Uint32Array.from({ length: n }, (_, k) => k);
  for (let k = n - 1, seed = 1; k > 0; k--) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const other = Math.floor((seed / 4294967296) * (k + 1));
    [shuffled[k], shuffled[other]] = [shuffled[other], shuffled[k]];
  }
  const byValue = (codes) => {
    const start = new Uint32Array(257), order = new Uint32Array(n), place = (code) => (code === MISSING ? 0 : code + 1);
    for (const code of codes) start[place(code) + 1]++;
    for (let k = 1; k < 257; k++) start[k] += start[k - 1];
    for (const cell of shuffled) order[start[place(codes[cell])]++] = cell;
    return order;
  };

  // squares of the map and the cells in them, to find the cell under the pointer
  const SIDE = 128, square = (k) => (xy[2 * k + 1] >> 9) * SIDE + (xy[2 * k] >> 9);
  const first = new Uint32Array(SIDE * SIDE + 1), members = new Uint32Array(n);
  for (let k = 0; k < n; k++) first[square(k) + 1]++;
  for (let k = 0; k < SIDE * SIDE; k++) first[k + 1] += first[k];
  const filled = first.slice();
  for (let k = 0; k < n; k++) members[filled[square(k)]++] = k;

  // the part of the map that is seen, shared by both views, in CSS pixels; u and v go from 0 to 1
  const map = { scale: 1, x: 0, y: 0 };
  let selected = null, chosenCells = [], mode = "pan";
  const views = ["left", "right"].map((id) => new View($(id)));

  function View(root) {
    const canvas = root.querySelector("canvas"), context = canvas.getContext("2d"), legend = root.querySelector(".legend");
    const input = root.querySelector("input"), found = root.querySelector(".found"), linked = root.querySelector(".linked");
    const view = { root, canvas, item: null, codes: null, order: shuffled, hidden: new Set(), path: null };
    let image = null, buffer = null, middles = [];

    view.visible = (cell) => view.item.kind !== "category" || !view.hidden.has(view.codes[cell]);
    view.colourBy = async (item) => {
      const codes = await values(item);
      Object.assign(view, { item, codes, hidden: new Set(), order: item.kind === "category" ? shuffled : byValue(codes) });
      middles = item.kind === "category" && item.categories.length <= 60 ? middlesOf(item, codes) : [];
      input.value = item.label;
      drawLegend();
      listPartners();
      view.draw();
      remember();
    };
    view.palette = () => {
      const table = new Uint32Array(256).fill(packed(missing()));
      if (view.item.kind === "category") view.item.colours.forEach((hex, k) => (table[k] = packed(rgb(hex))));
      else for (let k = 0; k < 255; k++) table[k] = packed(along(k / 254));
      return table;
    };
    view.draw = () => {
      if (!view.item || root.hidden) return;
      const ratio = devicePixelRatio || 1, width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
      if (!width || !height) return;
      if (!image || canvas.width !== width || canvas.height !== height) {
        canvas.width = width;
        canvas.height = height;
        image = context.createImageData(width, height);
        buffer = new Uint32Array(image.data.buffer);
      }
      buffer.fill(0);
      const closer = Math.sqrt(map.scale / whole().scale);
      const radius = Math.min(Math.max(Math.sqrt((width * height) / Math.max(n, 1)) * 0.22, 0.6 * ratio), 4 * ratio) * Math.min(closer, 3);
      const reach = Math.floor(radius), disc = [];
      for (let dy = -reach; dy <= reach; dy++) for (let dx = -reach; dx <= reach; dx++) if (dx * dx + dy * dy <= radius * radius + 0.3) disc.push(dy * width + dx);
      const table = view.palette(), pale = table.map((colour) => (colour & 0xffffff) | (40 << 24)), { codes, order } = view;
      const hiding = view.hidden.size > 0, scale = (map.scale * ratio) / 65535, left = map.x * ratio, top = map.y * ratio;
      for (let pass = selected ? 0 : 1; pass < 2; pass++) {
        for (let k = 0; k < n; k++) {
          const cell = order[k], code = codes[cell];
          if (hiding && view.hidden.has(code)) continue;
          if (selected && selected[cell] !== pass) continue;
          const x = Math.round(left + scale * xy[2 * cell]), y = Math.round(top + scale * xy[2 * cell + 1]);
          if (x < reach || y < reach || x >= width - reach || y >= height - reach) continue;
          const colour = pass ? table[code] : pale[code], at = y * width + x;
          for (let d = 0; d < disc.length; d++) buffer[at + disc[d]] = colour;
        }
      }
      context.putImageData(image, 0, 0);
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      const style = getComputedStyle(document.body);
      context.font = `600 13px ${style.fontFamily}`;
      context.textAlign = "center";
      context.lineWidth = 3;
      context.strokeStyle = getComputedStyle(root).backgroundColor;
      context.fillStyle = style.color;
      for (const { code, name: full, u, v } of middles) {
        if (view.hidden.has(code)) continue;
        const name = full.length > 28 ? `${full.slice(0, 27)}…` : full;
        context.strokeText(name, map.x + map.scale * u, map.y + map.scale * v);
        context.fillText(name, map.x + map.scale * u, map.y + map.scale * v);
      }
      if (view.path) {
        context.beginPath();
        for (const [x, y] of view.path) context.lineTo(x, y);
        context.closePath();
        context.lineWidth = 1.5;
        context.strokeStyle = style.color;
        context.stroke();
      }
    };

    function drawLegend() {
      const { item, codes } = view, counts = new Uint32Array(256);
      for (const code of codes) counts[code]++;
      legend.replaceChildren();
      if (item.kind !== "category") {
        const stops = ramp().map((stop) => `rgb(${stop})`).join(",");
        const bar = make("span", { className: "bar" });
        bar.style.background = `linear-gradient(90deg,${stops})`;
        legend.append(make("span", {}, number(item.low)), bar, make("span", {}, number(item.high)), make("span", { className: "soft" }, item.unit));
        if (item.about) legend.append(make("span", { className: "soft" }, item.about));
        if (counts[MISSING]) {
          const dot = make("i", { className: "dot" });
          dot.style.background = "var(--missing)";
          const count = make("small", { className: "soft" }, counts[MISSING].toLocaleString("en"));
          legend.append(make("span", { className: "key" }, dot, `${shown(item, MISSING)} `, count));
        }
        return;
      }
      const entry = (code, name, colour) => {
        const dot = make("i");
        dot.style.background = colour;
        const button = make("button", { title: "Click: show or hide. Double click: this one alone" }, dot, name, make("small", { className: "soft" }, counts[code].toLocaleString("en")));
        button.ariaPressed = "true";
        button.dataset.code = code;
        button.onclick = () => toggle(code);
        button.ondblclick = () => alone(code);
        legend.append(button);
      };
      item.categories.forEach((name, code) => counts[code] && entry(code, name, item.colours[code]));
      if (counts[MISSING]) entry(MISSING, "no value", "var(--missing)");
    }
    function listPartners() {
      const all = partnersOf(view.item), few = all.slice(0, 12);
      linked.hidden = !all.length;
      const buttons = few.map(({ item, distance, r }) => {
        const far = distance === 0 ? "at its start" : `${distance > 0 ? "+" : "−"}${number(Math.abs(distance))} bp`;
        return make("button", { title: "Show beside", onclick: () => beside(view, item) }, item.name, make("small", { className: "soft" }, ` ${far}, r ${r}`));
      });
      const title = make("span", { className: "soft" }, view.item.group.startsWith("rna") ? "Linked peaks:" : "Linked genes:");
      const more = all.length > few.length ? [make("span", { className: "soft" }, `and ${all.length - few.length} more in links.tsv.gz`)] : [];
      linked.replaceChildren(title, ...buttons, ...more);
    }
    const pressed = () => {
      for (const button of legend.children) button.ariaPressed = String(!view.hidden.has(+button.dataset.code));
      view.draw();
    };
    const toggle = (code) => {
      view.hidden.has(code) ? view.hidden.delete(code) : view.hidden.add(code);
      pressed();
    };
    const alone = (code) => {
      const all = [...legend.children].map((button) => +button.dataset.code);
      const already = view.hidden.size === all.length - 1 && !view.hidden.has(code);
      view.hidden = new Set(already ? [] : all.filter((other) => other !== code));
      pressed();
    };

    // the search box
    const linksOf = (item) => {
      const own = partnersOf(item), names = [...new Set(own.map((other) => other.item.name))];
      if (!own.length) return "";
      return item.group.startsWith("rna") ? `${own.length} linked peak${own.length > 1 ? "s" : ""}` : `linked to ${names.slice(0, 3).join(", ")}`;
    };
    let picked = 0, matches = [];
    const list = () => {
      const words = input.value.trim().toLowerCase();
      const score = (item) => {
        const name = item.name.toLowerCase();
        return name === words ? 0 : name.startsWith(words) ? 1 : item.label.toLowerCase().includes(words) || (item.gene ?? "").toLowerCase().includes(words) || item.id.toLowerCase().includes(words) ? 2 : 3;
      };
      matches = meta.items.map((item) => [score(item), item]).filter(([s]) => s < 3).sort((a, b) => a[0] - b[0]).slice(0, 60).map(([, item]) => item);
      picked = 0;
      found.replaceChildren(...matches.map((item, k) => {
        const about = [item.kind === "feature" ? item.group : "column", item.gene ? `near ${item.gene}` : "", linksOf(item)].filter(Boolean).join(", ");
        const line = make("li", { onpointerdown: (event) => { event.preventDefault(); pick(k); } }, item.name, " ", make("small", {}, about));
        line.ariaSelected = String(k === 0);
        return line;
      }));
      if (!matches.length) found.append(make("li", {}, make("small", {}, `Nothing here is called ${input.value}: the page holds ${meta.n_features} features (--explorer_size)`)));
      found.hidden = false;
    };
    const pick = (k) => {
      found.hidden = true;
      if (matches[k]) view.colourBy(matches[k]);
      input.blur();
    };
    input.onfocus = () => { input.select(); input.value = ""; list(); };
    input.oninput = list;
    input.onblur = () => { found.hidden = true; if (view.item) input.value = view.item.label; };
    input.onkeydown = (event) => {
      if (event.key === "Enter") pick(picked);
      else if (event.key === "Escape") input.blur();
      else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        event.preventDefault();
        picked = Math.min(Math.max(picked + (event.key === "ArrowDown" ? 1 : -1), 0), matches.length - 1);
        [...found.children].forEach((line, k) => (line.ariaSelected = String(k === picked)));
        found.children[picked]?.scrollIntoView({ block: "nearest" });
      }
    };

    // pointers: one moves or draws, two zoom
    const pointers = new Map();
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.onpointerdown = (event) => {
      try { canvas.setPointerCapture(event.pointerId); } catch { /* a pointer that is gone */ }
      pointers.set(event.pointerId, place(event));
      view.path = pointers.size === 1 && (mode === "lasso" || event.shiftKey) ? [place(event)] : null;
      $("tip").hidden = true;
    };
    canvas.onpointermove = (event) => {
      const at = place(event), before = pointers.get(event.pointerId);
      if (!before) return hover(event, at);
      if (view.path) {
        view.path.push(at);
        view.draw();
      } else if (pointers.size === 2) {
        const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, p]) => p);
        const ratio = Math.hypot(at[0] - other[0], at[1] - other[1]) / Math.max(Math.hypot(before[0] - other[0], before[1] - other[1]), 1);
        zoom(ratio, (at[0] + other[0]) / 2, (at[1] + other[1]) / 2);
      } else {
        map.x += at[0] - before[0];
        map.y += at[1] - before[1];
        drawAll();
      }
      pointers.set(event.pointerId, at);
    };
    canvas.onpointerup = canvas.onpointercancel = (event) => {
      pointers.delete(event.pointerId);
      if (view.path && event.type === "pointerup" && view.path.length > 2) select(view, view.path);
      view.path = null;
      drawAll();
    };
    canvas.onpointerleave = () => ($("tip").hidden = true);
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...place(event));
    }, { passive: false });
    canvas.onkeydown = (event) => {
      const moves = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }, move = moves[event.key];
      const zooms = { "+": 1.25, "=": 1.25, "-": 0.8 }, ratio = zooms[event.key];
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (move) {
        map.x += 60 * move[0];
        map.y += 60 * move[1];
        drawAll();
      } else if (ratio) zoom(ratio, canvas.clientWidth / 2, canvas.clientHeight / 2);
      else if (event.key === "0") $("reset").click();
      else return;
      event.preventDefault();
    };
    const hover = async (event, [x, y]) => {
      const cell = nearest(view, (x - map.x) / map.scale, (y - map.y) / map.scale, 9 / map.scale), tip = $("tip");
      if (cell < 0) return void (tip.hidden = true);
      const lines = [(await cellNames())[cell]];
      for (const other of views) if (!other.root.hidden && other.item) lines.push(`${other.item.label}: ${shown(other.item, other.codes[cell])}`);
      tip.textContent = [...new Set(lines)].join("\n");
      tip.hidden = false;
      tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
      tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
    };
    dark.addEventListener("change", () => { drawLegend(); view.draw(); });
    return view;
  }

  function middlesOf(item, codes) {
    const groups = item.categories.map(() => [[], []]);
    for (let k = 0, step = Math.max(1, Math.floor(n / 50000)); k < n; k += step) {
      const cell = shuffled[k];
      if (codes[cell] !== MISSING) for (const axis of [0, 1]) groups[codes[cell]][axis].push(xy[2 * cell + axis]);
    }
    const middle = (list) => list.sort((a, b) => a - b)[list.length >> 1] / 65535;
    return groups.map(([u, v], code) => ({ code, name: item.categories[code], u: middle(u), v: middle(v) })).filter(({ u }) => u >= 0);
  }

  function nearest(view, u, v, reach) {
    let best = -1, distance = reach * reach;
    const low = (w) => Math.max(0, Math.floor((w - reach) * SIDE)), high = (w) => Math.min(SIDE - 1, Math.floor((w + reach) * SIDE));
    for (let row = low(v); row <= high(v); row++) for (let col = low(u); col <= high(u); col++) {
      for (let k = first[row * SIDE + col]; k < first[row * SIDE + col + 1]; k++) {
        const cell = members[k], far = (xy[2 * cell] / 65535 - u) ** 2 + (xy[2 * cell + 1] / 65535 - v) ** 2;
        if (far < distance && view.visible(cell)) [best, distance] = [cell, far];
      }
    }
    return best;
  }

  function select(view, path) {
    const ring = path.map(([x, y]) => [((x - map.x) / map.scale) * 65535, ((y - map.y) / map.scale) * 65535]);
    const inside = (x, y) => {
      let within = false;
      for (let i = 0, j = ring.length - 1; i < ring.length; j = i++) {
        const [xi, yi] = ring[i], [xj, yj] = ring[j];
        if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) within = !within;
      }
      return within;
    };
    const [xs, ys] = [0, 1].map((axis) => ring.map((point) => point[axis]));
    const box = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    selected = new Uint8Array(n);
    chosenCells = [];
    for (let k = 0; k < n; k++) {
      const x = xy[2 * k], y = xy[2 * k + 1];
      if (x < box[0] || x > box[1] || y < box[2] || y > box[3] || !view.visible(k) || !inside(x, y)) continue;
      selected[k] = 1;
      chosenCells.push(k);
    }
    if (!chosenCells.length) selected = null;
    tell();
  }

  async function tell() {
    const place = $("chosen");
    if (!selected) return place.replaceChildren(make("p", { className: "soft" }, "No cells are selected: press Lasso and draw around some."));
    const all = await cellNames(), show = [...new Set(["sample", "cluster", "modality"].map(column).concat(views.filter((v) => !v.root.hidden).map((v) => v.item)))].filter(Boolean);
    const codes = await Promise.all(show.map(values));
    const link = make("button", { id: "download", onclick: () => {
      const text = chosenCells.map((cell) => all[cell]).join("\n") + "\n";
      const anchor = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/plain" })), download: "barcodes.txt" });
      anchor.click();
      setTimeout(() => URL.revokeObjectURL(anchor.href), 1000);
    } }, "Download barcodes");
    const clear = make("button", { onclick: () => { selected = null; chosenCells = []; tell(); drawAll(); } }, "Clear");
    const head = make("tr", {}, make("th", {}, "cell"), ...show.map((item) => make("th", {}, item.label)));
    const rows = chosenCells.slice(0, 200).map((cell) => make("tr", {}, make("td", {}, all[cell]), ...show.map((item, k) => make("td", {}, shown(item, codes[k][cell])))));
    const more = chosenCells.length > 200 ? " The table shows the first 200; the download holds all." : "";
    place.replaceChildren(
      make("p", {}, make("strong", { id: "count" }, chosenCells.length.toLocaleString("en")), ` of ${n.toLocaleString("en")} cells selected.${more} `, link, " ", clear),
      make("div", { className: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows))),
    );
  }

  function whole() {
    const { clientWidth: width, clientHeight: height } = views[0].canvas, scale = 0.92 * Math.min(width, height);
    return { scale, x: (width - scale) / 2, y: (height - scale) / 2 };
  }
  function zoom(ratio, x, y) {
    const scale = Math.min(Math.max(map.scale * ratio, whole().scale * 0.5), whole().scale * 200);
    map.x = x - ((x - map.x) * scale) / map.scale;
    map.y = y - ((y - map.y) * scale) / map.scale;
    map.scale = scale;
    drawAll();
  }
  let waiting = false;
  function drawAll() {
    if (waiting) return;
    waiting = true;
    const draw = () => {
      if (!waiting) return;
      waiting = false;
      views.forEach((view) => view.draw());
    };
    requestAnimationFrame(draw);
    setTimeout(draw, 100); // a page that is not seen gets no frames
  }
  function remember() {
    const parts = views.filter((view) => !view.root.hidden && view.item).map((view) => `${view.root.id}=${encodeURIComponent(view.item.key)}`);
    try { history.replaceState(null, "", `#${parts.join("&")}`); } catch { /* a page that may not change its address */ }
  }
  const plain = (text) => { try { return decodeURIComponent(text); } catch { return text; } }; // written by hand: 50%
  const asked = () => Object.fromEntries(location.hash.slice(1).split("&").map((part) => part.match(/^([^=]*)=?(.*)$/).slice(1).map(plain)));
  const setMode = (name) => {
    mode = name;
    $("pan").ariaPressed = String(name === "pan");
    $("lasso").ariaPressed = String(name === "lasso");
    $("views").classList.toggle("lasso", name === "lasso");
  };
  const showTwo = async (on, item) => {
    views[1].root.hidden = !on;
    $("two").ariaPressed = String(on);
    Object.assign(map, whole());
    if (on) await views[1].colourBy(item ?? views[1].item ?? column("modality") ?? meta.items[0]);
    remember();
    drawAll();
  };
  const beside = (view, item) => (view === views[0] ? showTwo(true, item) : views[0].colourBy(item));
  const lacking = ({ left, right }) => {
    const names = [left, right].filter((key) => key && !byKey.has(key)).map((key) => key.split(":").slice(1).join(":") || key);
    $("lacking").hidden = !names.length;
    $("lacking").textContent = `Asked for and not among the ${meta.n_features} features of this page (--explorer_size): ${names.join(", ")}.`;
  };
  $("pan").onclick = () => setMode("pan");
  $("lasso").onclick = () => setMode("lasso");
  $("reset").onclick = () => { Object.assign(map, whole()); drawAll(); };
  $("two").onclick = () => showTwo(views[1].root.hidden);
  let size = "";
  const watch = new ResizeObserver(() => {
    const now = `${views[0].canvas.clientWidth}x${views[0].canvas.clientHeight}`;
    if (now !== size) { size = now; Object.assign(map, whole()); }
    views.forEach((view) => view.draw());
  });
  views.forEach((view) => watch.observe(view.canvas));

  Object.assign(map, whole());
  const { left, right } = asked();
  lacking({ left, right });
  await views[0].colourBy(byKey.get(left) ?? column("cluster") ?? meta.items[0]);
  if (byKey.has(right)) await showTwo(true, byKey.get(right));
  addEventListener("hashchange", () => {
    const now = asked();
    lacking(now);
    if (byKey.has(now.left)) views[0].colourBy(byKey.get(now.left));
    if (byKey.has(now.right)) showTwo(true, byKey.get(now.right));
  });
  document.documentElement.dataset.ready = "yes";
})();
