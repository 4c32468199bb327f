"use strict";
// Tables: sort by a click on a heading, filter, download what is shown; on a narrow screen each row becomes a list.
for (const table of document.querySelectorAll("table.data")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  for (const row of body.rows) [...row.cells].forEach((cell, k) => (cell.dataset.label = heads[k]?.textContent ?? ""));
  const value = (row, k) => {
    const text = row.cells[k]?.textContent.trim() ?? "", found = text.replace(/,/g, "").match(/^-?\d+(\.\d+)?(e[-+]?\d+)?/i);
    return found ? Number(found[0]) : text === "–" ? -Infinity : text.toLowerCase();
  };
  heads.forEach((head, k) => {
    head.tabIndex = 0;
    const sort = () => {
      const down = head.ariaSort !== "descending";
      heads.forEach((other) => (other.ariaSort = null));
      head.ariaSort = down ? "descending" : "ascending";
      const order = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1);
      const rows = [...body.rows].map((row) => [value(row, k), row]).sort(([a], [b]) => (down ? -1 : 1) * order(a, b));
      body.append(...rows.map(([, row]) => row));
    };
    head.onclick = sort;
    head.onkeydown = (event) => event.key === "Enter" && sort();
  });
  if (body.rows.length < 6) continue;
  const filter = Object.assign(document.createElement("input"), { type: "search", placeholder: "Filter rows", ariaLabel: "Filter rows" });
  filter.oninput = () => {
    for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(filter.value.trim().toLowerCase());
  };
  const save = Object.assign(document.createElement("button"), { textContent: "Download table" });
  save.onclick = () => {
    const lines = [table.tHead.rows[0], ...[...body.rows].filter((row) => !row.hidden)].map((row) => [...row.cells].map((cell) => cell.textContent.trim()).join("\t"));
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(new Blob([lines.join("\n") + "\n"])), download: `${table.dataset.name || "table"}.tsv` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const tools = Object.assign(document.createElement("div"), { className: "tools" });
  tools.append(filter, save);
  table.closest(".scroll").before(tools);
}
// On paper nothing can be opened: all is, and is closed again afterwards.
let shut = [];
addEventListener("beforeprint", () => {
  shut = [...document.querySelectorAll("details:not([open])")];
  for (const part of shut) part.open = true;
});
addEventListener("afterprint", () => {
  for (const part of shut) part.open = false;
});
