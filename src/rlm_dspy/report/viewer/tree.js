// The tree on the page: what is open, found and selected; only the rows in view exist as elements.

// --- state -----------------------------------------------------------------------------------------------------------

const state = { selected: 0, visible: [], kept: null, matched: [], openBefore: null, query: null, from: 0, to: 1 };
const parts = {};   // the elements that change, by name

function openFirst() {
  const whole = NODES.length <= OPEN_ALL_ROWS;
  NODES.forEach((node) => { node.open = whole || node.level === 0; });
}

function updateVisible() {
  const found = [];
  for (let at = 0; at < NODES.length;) {
    const kept = !state.kept || state.kept[at];
    if (kept) found.push(at);
    at = kept && NODES[at].open ? at + 1 : NODES[at].end;
  }
  state.visible = found;
  parts.space.style.height = `${found.length * ROW_HEIGHT}px`;
  parts.empty.hidden = found.length > 0;
  forgetRows();
  drawRows();
}

function positionOf(number) {   // in the visible rows, by halving
  let low = 0;
  let high = state.visible.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    if (state.visible[middle] === number) return middle;
    if (state.visible[middle] < number) low = middle + 1; else high = middle - 1;
  }
  return -1;
}

function openAbove(number) {
  let changed = false;
  for (let at = NODES[number].parent; at >= 0; at = NODES[at].parent) {
    if (!NODES[at].open) changed = NODES[at].open = true;
  }
  return changed;
}

function selectNode(number) {
  if (openAbove(number)) updateVisible();
  if (positionOf(number) < 0) clearFilters();
  state.selected = number;
  scrollToSelected();
  forgetRows();
  drawRows();
  drawDetails();
  drawTimelines();
}

function setOpen(number, open) {
  if (NODES[number].leaf || NODES[number].open === open) return false;
  NODES[number].open = open;
  const selected = state.selected;
  if (!open && selected > number && selected < NODES[number].end) selectNode(number);
  updateVisible();
  return true;
}

function setAllOpen(open) {
  NODES.forEach((node) => { node.open = open || node.level === 0; });
  let number = state.selected;   // the nearest that stays in view
  while (!open && NODES[number].level > 1) number = NODES[number].parent;
  updateVisible();
  selectNode(number);
  parts.tree.focus({ preventScroll: true });
}

function scrollToSelected() {
  const top = Math.max(positionOf(state.selected), 0) * ROW_HEIGHT;
  const height = parts.tree.clientHeight;
  if (top < parts.tree.scrollTop) parts.tree.scrollTop = top;
  else if (top + ROW_HEIGHT > parts.tree.scrollTop + height) parts.tree.scrollTop = top + ROW_HEIGHT - height;
}

// --- filters and search ----------------------------------------------------------------------------------------------

function readFilters() {
  return {
    query: parts.search.value.trim(),
    kind: parts.kind.value,
    model: parts.model.value,
    depth: parts.depth.value,
    errors: parts.errors.getAttribute("aria-pressed") === "true",
  };
}

function matchTexts(query) {
  state.query = query ? new RegExp(escapePattern(query), "i") : null;
  return query ? PAGE.texts.map((text) => state.query.test(text)) : null;
}

function rowMatches(row, filters, hits) {
  if (filters.kind && row.kind !== filters.kind) return false;
  if (filters.model && modelOf(row) !== filters.model) return false;
  if (filters.depth && String(row.depth) !== filters.depth) return false;
  if (filters.errors && row.error === undefined) return false;
  return !hits || rowHolds(row, hits);
}

function rowHolds(row, hits) {
  const own = [row.name, row.input, row.output, row.reasoning, row.error];
  return own.some((number) => hits[number]) || (row.messages || []).some((message) => hits[message[1]]);
}

function applyFilters() {
  const filters = readFilters();
  const hits = matchTexts(filters.query);
  const active = Object.values(filters).some(Boolean);
  if (active && !state.openBefore) state.openBefore = NODES.map((node) => node.open);
  state.matched = [];
  state.kept = null;
  if (active) keepMatches((row) => rowMatches(row, filters, hits));
  else restoreOpen();
  parts.found.textContent = active ? `${countText(state.matched.length, "row")} found` : "";
  updateVisible();
  if (state.matched.length && !state.kept[state.selected]) selectNode(state.matched[0]);
  else { scrollToSelected(); drawRows(); drawDetails(); }
}

function keepMatches(matches) {
  state.kept = new Uint8Array(NODES.length);
  for (let at = NODES.length - 1; at >= 0; at -= 1) {
    const node = NODES[at];
    const hit = rowsOf(node).some((row) => row && matches(row));
    if (hit) state.matched.push(at);
    node.open = state.kept[at] === 1;   // by something below
    if (hit) state.kept[at] = 1;
    if (state.kept[at] && node.parent >= 0) state.kept[node.parent] = 1;
  }
  state.matched.reverse();
}

function restoreOpen() {
  if (state.openBefore) NODES.forEach((node, number) => { node.open = state.openBefore[number]; });
  state.openBefore = null;
  openAbove(state.selected);
}

function clearFilters() {
  [parts.search, parts.kind, parts.model, parts.depth].forEach((field) => { field.value = ""; });
  parts.errors.setAttribute("aria-pressed", "false");
  applyFilters();
}

function selectNext(numbers, back = false) {
  const order = back ? [...numbers].reverse() : numbers;
  const ahead = order.find((one) => (back ? one < state.selected : one > state.selected));
  const next = ahead === undefined ? order[0] : ahead;   // around the end
  if (next !== undefined) selectNode(next);
}

function nodesWithErrors() {
  const found = [];
  NODES.forEach((node, number) => {
    if (rowsOf(node).some((row) => row && row.error !== undefined)) found.push(number);
  });
  return found;
}

// --- the rows in view ------------------------------------------------------------------------------------------------

const shownRows = new Map();   // elements by their place; only these exist
const scales = largestFigures();

function largestFigures() {
  const found = { seconds: 0, tokens: 0, cost: 0 };
  NODES.forEach((node) => rowsOf(node).forEach((row) => {
    if (!row || row.kind === "run") return;
    found.seconds = Math.max(found.seconds, row.seconds || 0);
    found.tokens = Math.max(found.tokens, tokensOf(row.usage));
    found.cost = Math.max(found.cost, (row.usage && row.usage[3]) || 0);
  }));
  return found;
}

function forgetRows() {
  shownRows.forEach((element) => element.remove());
  shownRows.clear();
}

function drawRows() {
  const first = Math.max(Math.floor(parts.tree.scrollTop / ROW_HEIGHT) - SPARE_ROWS, 0);
  const count = Math.ceil(parts.tree.clientHeight / ROW_HEIGHT) + 2 * SPARE_ROWS;
  const last = Math.min(first + count, state.visible.length);
  shownRows.forEach((element, place) => {
    if (place < first || place >= last) { element.remove(); shownRows.delete(place); }
  });
  for (let place = first; place < last; place += 1) {
    if (!shownRows.has(place)) {
      const element = makeRow(state.visible[place], place);
      shownRows.set(place, element);
      parts.space.append(element);
    }
  }
}

function makeRow(number, place) {
  const node = NODES[number];
  const row = makeElement("div", "row");
  row.id = `row-${number}`;
  row.style.top = `${place * ROW_HEIGHT}px`;
  row.setAttribute("role", "treeitem");
  row.setAttribute("aria-level", node.level + 1);
  row.setAttribute("aria-posinset", node.place);
  row.setAttribute("aria-setsize", node.siblings);
  row.setAttribute("aria-selected", number === state.selected);
  if (!node.leaf) row.setAttribute("aria-expanded", node.open);
  if (number === state.selected) parts.tree.setAttribute("aria-activedescendant", row.id);
  rowsOf(node).forEach((one, run) => row.append(...makeCells(node, one, run === 0)));
  row.addEventListener("click", (event) => {
    if (event.target.classList.contains("twisty")) setOpen(number, !node.open);
    else selectNode(number);
  });
  row.addEventListener("dblclick", () => setOpen(number, !node.open));
  return row;
}

function makeCells(node, row, first) {
  const title = makeElement("span", "title");
  title.append(makeTwisty(node, first));
  if (node.level > MOST_INDENTED) title.append(makeElement("span", "kind", `${node.level}`));
  if (!row) return [title, ...figureColumns().map(() => makeElement("span", "figure"))];
  title.append(makeElement("span", `dot ${row.kind}`), makeElement("span", "kind", KINDS[row.kind]));
  title.append(makeElement("span", "name", titleOf(row)), ...marksOf(row));
  if (row.error !== undefined) title.classList.add("failed");
  return [title, ...figureColumns().map(([, draw]) => draw(row))];
}

function makeTwisty(node, first) {
  const made = makeElement("span", "twisty", node.leaf || !first ? "" : node.open ? "▾" : "▸");
  made.style.marginLeft = `${Math.min(node.level, MOST_INDENTED) * 14}px`;   // deeper levels are numbered instead
  made.setAttribute("aria-hidden", "true");
  return made;
}

function marksOf(row) {
  const marks = [...(row.marks || [])];
  if (row.error !== undefined) marks.push("failed");
  if (row.seconds === null && row.start !== null) marks.push("unfinished");
  if (row.kind === "lm" && !["", "stop"].includes(textAt(row.finish))) marks.push(textAt(row.finish));
  return marks.map((mark) => makeElement("span", `mark ${mark === "submitted" ? "good" : "bad"}`, mark));
}

function figureColumns() {
  const columns = [
    ["start", (row) => makeElement("span", "figure", row.start === null ? "–" : `+${secondsText(row.start)}`)],
    ["seconds", (row) => makeBar("seconds", secondsText(row.seconds), row.seconds / scales.seconds)],
    ["tokens", (row) => makeBar("tokens", hasCalls(row.usage) ? tokensOf(row.usage).toLocaleString("en") : "",
      tokensOf(row.usage) / scales.tokens)],
    ["cost", (row) => makeBar("cost", hasCalls(row.usage) ? costText(row.usage).replace("cost ", "") : "",
      row.usage ? row.usage[3] / scales.cost : 0)],
    ["cached", (row) => makeBar("cached", percentText(cachedShare(row.usage)), cachedShare(row.usage))],
  ];
  return TWO ? columns.slice(1, 4) : columns;
}

function makeBar(name, text, share) {
  const bar = makeElement("span", `bar ${name}`);
  bar.style.width = `${Math.min(Math.max(share || 0, 0), 1) * 100}%`;
  return makeElement("span", "figure", bar, makeElement("span", "number", text));
}
