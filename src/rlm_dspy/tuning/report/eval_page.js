"use strict";
// Sorts and filters the questions of an evaluation; the page is complete without it.
(() => {
  const table = document.getElementById("rows");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows];
  const text = document.getElementById("text");
  const side = document.getElementById("side");
  const wrong = document.getElementById("wrong");
  const count = document.getElementById("count");
  const texts = new Map();
  const collator = new Intl.Collator(undefined, { numeric: true });

  function searchText(row) {
    if (!texts.has(row)) texts.set(row, row.textContent.toLowerCase());
    return texts.get(row);
  }

  function showMatches() {
    const wanted = text.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const fits = (!side.value || row.dataset.side === side.value)
        && (!wrong.checked || "wrong" in row.dataset)
        && (!wanted || searchText(row).includes(wanted));
      row.hidden = !fits;
      shown += fits;
    }
    count.value = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
  }

  function sortRows(column) {
    const head = heads[column];
    const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    const sign = order === "ascending" ? 1 : -1;
    const number = head.dataset.kind === "number";
    const keyed = rows.map((row) => {
      const cell = row.cells[column];
      return [number ? Number(cell.dataset.value) : cell.textContent, row];
    });
    keyed.sort((one, other) => sign * (number ? one[0] - other[0] : collator.compare(one[0], other[0])));
    body.append(...keyed.map((pair) => pair[1]));
    for (const each of heads) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
  }

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sortRows(column));
    head.replaceChildren(button);
  });
  for (const control of [text, side, wrong]) control.addEventListener("input", showMatches);
  const form = document.getElementById("filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  showMatches();
})();
