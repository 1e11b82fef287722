"use strict";
// The viewer of recorded runs. The page holds its data as JSON: `texts`, each once, and one or two `runs`, each with the
// `rows` of its tree (parents first) and the `heads` of its runs. Rows name their texts by number.
// Nothing here writes markup: elements are created, texts are set as text, styles through the style object.
(() => {

const PAGE = JSON.parse(document.getElementById("data").textContent);
const RUNS = PAGE.runs;
const TWO = RUNS.length > 1;
const ROW_HEIGHT = 26;         // pixels, as in the style
const SPARE_ROWS = 8;          // made above and below those in view
const OPEN_ALL_ROWS = 300;     // smaller trees open as a whole
const FOLD_LINES = 24;         // of a long text, before it is unfolded
const FOLD_CHARS = 4000;
const UNFOLD_CHARS = 100000;   // more with each press
const PAINT_CHARS = 60000;     // longer code is shown without colours
const SHOWN_MESSAGES = 12;     // of a long prompt at its beginning and at its end
const MORE_MESSAGES = 200;
const MAX_LANES = 5;           // of one kind in the timeline; what overlaps more shares the last
const LANE_HEIGHT = 14;
const EXCERPT_LINES = 10;

const KINDS = {
  run: "run", step: "step", lm: "model", cell: "cell", sub_call: "sub-call", child: "child", wait: "wait",
};

// --- small parts ---------------------------------------------------------------------------------------------------

function makeElement(tag, className, ...content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content.filter((part) => part !== null && part !== undefined && part !== ""));
  return made;
}

function makeButton(label, onPress, className = "") {
  const made = makeElement("button", className, label);
  made.type = "button";
  made.addEventListener("click", onPress);
  return made;
}

function textAt(number) {
  return number === undefined || number === null ? "" : PAGE.texts[number];
}

function countText(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

function secondsText(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.0995) return `${(seconds * 1000).toFixed(seconds < 0.00995 ? 1 : 0)} ms`;
  return seconds < 99.95 ? `${seconds.toFixed(seconds < 9.995 ? 2 : 1)} s` : `${Math.round(seconds).toLocaleString("en")} s`;
}

function costText(usage) {
  if (!usage) return "";
  if (usage[3] === null) return "cost unknown";
  return usage[3] < 1 ? `$${usage[3].toFixed(4)}` : `$${usage[3].toLocaleString("en", { maximumFractionDigits: 2 })}`;
}

function tokensOf(usage) {
  return usage ? usage[0] + usage[1] : 0;
}

function cachedShare(usage) {
  return usage && usage[0] ? usage[2] / usage[0] : null;
}

function percentText(share) {
  return share === null ? "" : `${Math.round(share * 100)} %`;
}

function firstLine(text) {
  const line = text.slice(0, 400).split("\n").find((part) => part.trim()) || "";
  return line.trim();
}

// --- the tree: nodes with a row of each run ------------------------------------------------------------------------

function childrenByRow(rows) {
  const below = rows.map(() => []);
  const tops = [];
  rows.forEach((row, number) => (row.parent === null ? tops : below[row.parent]).push(number));
  return { below, tops };
}

// Pairs the rows of two runs: steps by their number, the rest by their place among those of their kind.
function alignedPairs(left, right) {
  if (!TWO) return left.map((row) => [row]);
  const waiting = new Map(pairKeys(right, 1));
  const pairs = [...pairKeys(left, 0)].map(([key, row]) => {
    const other = waiting.has(key) ? waiting.get(key) : null;
    waiting.delete(key);
    return [row, other];
  });
  return pairs.concat([...waiting.values()].map((row) => [null, row]));
}

function pairKeys(numbers, run) {
  const seen = {};
  return numbers.map((number) => {
    const row = RUNS[run].rows[number];
    const group = row.kind === "step" ? `step ${row.step}` : row.kind;
    seen[group] = (seen[group] || 0) + 1;
    return [`${group} ${seen[group]}`, number];
  });
}

// Nodes in the order of the tree; `end` is the number after the last node below. A stack, as trees may be deep.
function buildNodes() {
  const lists = RUNS.map((run) => childrenByRow(run.rows));
  const made = [];
  const waiting = alignedPairs(lists[0].tops, TWO ? lists[1].tops : [])
    .reverse().map((rows) => ({ rows, parent: -1, level: 0 }));
  while (waiting.length) {
    const node = waiting.pop();
    const number = made.length;
    made.push(node);
    const below = node.rows.map((row, run) => (row === null ? [] : lists[run].below[row]));
    const pairs = alignedPairs(below[0], below[1] || []);
    node.leaf = pairs.length === 0;
    node.open = false;
    for (let at = pairs.length - 1; at >= 0; at -= 1) {
      waiting.push({ rows: pairs[at], parent: number, level: node.level + 1 });
    }
  }
  made.forEach((node, number) => { node.end = number + 1; });
  for (let at = made.length - 1; at >= 0; at -= 1) {
    const above = made[made[at].parent];
    if (above) above.end = Math.max(above.end, made[at].end);
  }
  return made;
}

const NODES = buildNodes();
const NODE_OF_ROW = RUNS.map((run) => new Int32Array(run.rows.length));
NODES.forEach((node, number) => node.rows.forEach((row, run) => { if (row !== null) NODE_OF_ROW[run][row] = number; }));

function rowsOf(node) {
  return node.rows.map((row, run) => (row === null ? null : RUNS[run].rows[row]));
}

function anyRow(node) {
  return rowsOf(node).find((row) => row);
}

function titleOf(row) {
  const about = firstLine(textAt(row.kind === "step" ? row.reasoning || row.input : row.input));
  const name = textAt(row.name);
  if (row.kind === "step") return [row.step ? `${row.step}` : name, about].filter(Boolean).join("  ");
  if (row.kind === "cell") return about;
  if (row.kind === "sub_call") return [name, about].filter(Boolean).join("  ");
  return name || about;
}

function modelOf(row) {
  return textAt(row.kind === "lm" ? row.name : row.model);
}

// --- state ---------------------------------------------------------------------------------------------------------

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
}

function scrollToSelected() {
  const top = Math.max(positionOf(state.selected), 0) * ROW_HEIGHT;
  const height = parts.tree.clientHeight;
  if (top < parts.tree.scrollTop) parts.tree.scrollTop = top;
  else if (top + ROW_HEIGHT > parts.tree.scrollTop + height) parts.tree.scrollTop = top + ROW_HEIGHT - height;
}

// --- filters and search --------------------------------------------------------------------------------------------

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
  state.query = query ? new RegExp(query.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "i") : null;
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
  parts.found.textContent = active ? countText(state.matched.length, "row").replace(/$/, " found") : "";
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
  const ahead = back ? numbers.filter((one) => one < state.selected).pop() : numbers.find((one) => one > state.selected);
  const next = ahead !== undefined ? ahead : back ? numbers[numbers.length - 1] : numbers[0];
  if (next !== undefined) selectNode(next);
}

function nodesWithErrors() {
  const found = [];
  NODES.forEach((node, number) => { if (rowsOf(node).some((row) => row && row.error !== undefined)) found.push(number); });
  return found;
}

// --- the rows in view ----------------------------------------------------------------------------------------------

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
  row.setAttribute("aria-posinset", place + 1);
  row.setAttribute("aria-setsize", state.visible.length);
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
  if (first) title.append(makeTwisty(node));
  if (!row) return [title, ...figureColumns().map(() => makeElement("span", "figure"))];
  title.append(makeElement("span", `dot ${row.kind}`), makeElement("span", "kind", KINDS[row.kind]));
  title.append(makeElement("span", "name", titleOf(row)), ...marksOf(row));
  if (row.error !== undefined) title.classList.add("failed");
  return [title, ...figureColumns().map(([, draw]) => draw(row))];
}

function makeTwisty(node) {
  const made = makeElement("span", "twisty", node.leaf ? "" : node.open ? "▾" : "▸");
  made.style.marginLeft = `${Math.min(node.level, 24) * 14}px`;   // deeper levels are no further in, but numbered
  if (node.level > 24) made.append(makeElement("span", "level", `${node.level}`));
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
    ["tokens", (row) => makeBar("tokens", row.usage ? tokensOf(row.usage).toLocaleString("en") : "",
      tokensOf(row.usage) / scales.tokens)],
    ["cost", (row) => makeBar("cost", costText(row.usage).replace("cost ", ""), row.usage ? row.usage[3] / scales.cost : 0)],
    ["cached", (row) => makeBar("cached", percentText(cachedShare(row.usage)), cachedShare(row.usage))],
  ];
  return TWO ? columns.slice(1, 4) : columns;
}

function makeBar(name, text, share) {
  const bar = makeElement("span", `bar ${name}`);
  bar.style.width = `${Math.min(Math.max(share || 0, 0), 1) * 100}%`;
  return makeElement("span", "figure", bar, makeElement("span", "number", text));
}

// --- texts: folded, coloured ---------------------------------------------------------------------------------------

function makeBlock(label, text, paint) {
  if (!text.trim()) return null;
  const pre = makeElement("pre");
  pre.tabIndex = 0;
  const block = makeElement("section", "block", makeElement("h3", "", label), pre);
  let shown = foldedLength(text);
  const more = makeButton("", () => { shown = Math.min(shown + UNFOLD_CHARS, text.length); draw(); }, "more");
  const draw = () => {
    pre.replaceChildren();
    (paint || paintOutput)(pre, text.slice(0, shown));
    const left = text.length - shown;
    more.hidden = left === 0;
    more.textContent = `show ${left > UNFOLD_CHARS ? `${UNFOLD_CHARS.toLocaleString("en")} of ` : ""}` +
      `${countText(left, "more character")} (${countText(text.slice(shown).split("\n").length, "line")})`;
    markFound();
  };
  block.append(more);
  draw();
  return block;
}

// How much of a text is shown at first: it is never folded before what is searched for.
function foldedLength(text) {
  let end = 0;
  for (let line = 0; line < FOLD_LINES && end >= 0; line += 1) end = text.indexOf("\n", end) + 1 || -1;
  end = Math.min(end < 0 ? text.length : end, FOLD_CHARS, text.length);
  const hit = state.query ? text.search(state.query) : -1;
  end = Math.max(end, Math.min(hit < 0 ? 0 : hit + 1000, text.length));
  return text.length - end < 200 ? text.length : end;
}

const PYTHON = new RegExp([
  "(#[^\\n]*)",
  "((?:[rbfuRBFU]{1,2})?(?:\"\"\"[^]*?(?:\"\"\"|$)|'''[^]*?(?:'''|$)|\"(?:\\\\[^]|[^\"\\\\\\n])*\"?|'(?:\\\\[^]|[^'\\\\\\n])*'?))",
  "(\\b\\d[\\w.]*)",
  "([A-Za-z_]\\w*)",
].join("|"), "g");
const KEYWORDS = new Set(("False None True and as assert async await break case class continue def del elif else except " +
  "finally for from global if import in is lambda match nonlocal not or pass raise return try while with yield").split(" "));
const FUNCTIONS = new Set(("SUBMIT llm_query llm_query_batched predict predict_batched subcall subcall_batched print len " +
  "range sorted sum min max str int float list dict set tuple enumerate zip map filter any all isinstance open").split(" "));

function paintPython(pre, text) {
  if (text.length > PAINT_CHARS) { pre.textContent = text; return; }
  let done = 0;
  for (const found of text.matchAll(PYTHON)) {
    const name = pythonClass(found);
    if (!name) continue;
    pre.append(text.slice(done, found.index), makeElement("span", name, found[0]));
    done = found.index + found[0].length;
  }
  pre.append(text.slice(done));
}

function pythonClass(found) {
  if (found[1]) return "comment";
  if (found[2]) return "string";
  if (found[3]) return "digits";
  if (KEYWORDS.has(found[4])) return "keyword";
  return FUNCTIONS.has(found[4]) ? "function" : "";
}

// Tracebacks are told from other output by their first line; the error itself stands out, places are quieter.
function paintOutput(pre, text) {
  if (!text.includes("Traceback (most recent call last)")) { pre.textContent = text; return; }
  let inside = false;
  for (const line of text.split("\n")) {
    const begins = line.includes("Traceback (most recent call last)");
    const ends = inside && !begins && /^\S/.test(line);
    const name = begins ? "trace-head" : ends ? "trace-error" : inside && /^\s+File "/.test(line) ? "trace-place" : "";
    pre.append(name ? makeElement("span", name, line) : line, "\n");
    inside = begins || (inside && !ends);
  }
}

function markFound() {
  if (!globalThis.CSS || !CSS.highlights) return;
  CSS.highlights.delete("found");
  if (!state.query) return;
  const ranges = [];
  const walker = document.createTreeWalker(parts.details, NodeFilter.SHOW_TEXT);
  const everywhere = new RegExp(state.query.source, "gi");
  while (walker.nextNode() && ranges.length < 1000) {
    for (const found of walker.currentNode.data.matchAll(everywhere)) {
      const range = new Range();
      range.setStart(walker.currentNode, found.index);
      range.setEnd(walker.currentNode, found.index + found[0].length);
      ranges.push(range);
    }
  }
  CSS.highlights.set("found", new Highlight(...ranges));
}

// --- details -------------------------------------------------------------------------------------------------------

function drawDetails() {
  const node = NODES[state.selected];
  parts.details.replaceChildren();
  if (!node) return;
  rowsOf(node).forEach((row, run) => {
    const column = makeElement("article", "column");
    if (row) column.append(...detailsOf(row, run).filter(Boolean));
    else column.append(makeElement("p", "quiet", "This run has no such row."));
    parts.details.append(column);
  });
  parts.details.scrollTop = 0;
  markFound();
}

function detailsOf(row, run) {
  const head = row.head === undefined ? null : RUNS[run].heads[row.head];
  const title = makeElement("h2", "", makeElement("span", `dot ${row.kind}`), `${KINDS[row.kind]} ${titleOf(row)}`);
  return [title, makeFacts(factsOf(row, run, head)), errorOf(row), ...(head ? headDetails(head, run) : textsOf(row, run))];
}

function errorOf(row) {
  return row.error === undefined ? null : makeElement("pre", "error", textAt(row.error));
}

function factsOf(row, run, head) {
  const started = RUNS[run].heads[0] && RUNS[run].heads[0].started;
  const usage = row.usage;
  const facts = head ? headFacts(head) : [];
  if (row.start === null) facts.push(["start", "unknown: the record has no times of its parts"]);
  else facts.push(["start", `+${secondsText(row.start)}${started ? ` (${dateText(started + row.start)})` : ""}`]);
  facts.push(["seconds", row.seconds === null ? "unfinished: it has no end" : secondsText(row.seconds)]);
  if (usage) {
    facts.push(["tokens", `${countText(usage[0], "prompt token")} (${usage[2].toLocaleString("en")} cached, ` +
      `${percentText(cachedShare(usage)) || "0 %"}), ${countText(usage[1], "reply token")}`]);
    facts.push(["cost", costText(usage).replace("cost ", "")], ["calls", callsText(usage)]);
  }
  if (modelOf(row)) facts.push(["model", modelOf(row)]);
  if (row.finish !== undefined) facts.push(["finish", textAt(row.finish)]);
  if (row.depth) facts.push(["depth", String(row.depth)]);
  return facts;
}

function callsText(usage) {
  const more = [[usage[5], "estimated"], [usage[6], "retries"], [usage[7] && secondsText(usage[7]), "waited"]];
  return [String(usage[4]), ...more.filter(([count]) => count).map(([count, what]) => `${count} ${what}`)].join(", ");
}

function dateText(seconds) {
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) ? "" : date.toISOString().replace("T", " ").replace(/\.\d+Z/, " UTC");
}

function makeFacts(facts) {
  const list = makeElement("dl", "facts");
  facts.forEach(([name, value]) => list.append(makeElement("dt", "", name), makeElement("dd", "", value)));
  return list;
}

function endingText(head) {
  const by = textAt(head.stopped_by);
  return by ? `${textAt(head.status)} by ${by}` : textAt(head.status);
}

function headFacts(head) {
  const facts = [["id", textAt(head.id)], ["ended", endingText(head)]];
  if (textAt(head.signature)) facts.push(["signature", textAt(head.signature)]);
  if (textAt(head.sub_model)) facts.push(["sub-model", textAt(head.sub_model)]);
  facts.push(["steps", `${head.steps.toLocaleString("en")}, ${countText(head.sub_calls, "sub-call")}`]);
  return facts;
}

function headDetails(head, run) {
  const pairs = (list) => list.map(([name, value]) => makeBlock(textAt(name), textAt(value)));
  const groups = [
    ...head.warnings.map((number) => makeElement("p", "warning", `warning: ${textAt(number)}`)),
    ...pairs(head.outputs),
    ...head.evidence.map((item) => makeEvidence(item, head, run)),
    ...pairs(head.inputs),
    makeBlock("first observation: what the host shows of the inputs", textAt(head.probe)),
    makeBlock("not read, or only in part", head.unread.map(textAt).join("\n")),
  ];
  if (head.usage_by_model.length > 1) groups.push(...head.usage_by_model.map(([name, usage]) =>
    makeElement("p", "quiet", `used by ${textAt(name)}: ${countText(tokensOf(usage), "token")}, ${costText(usage) || "$0"}`)));
  return groups;
}

function textsOf(row, run) {
  const block = (label, number, paint) => makeBlock(label, textAt(number), paint);
  if (row.kind === "step") {
    return [block("reasoning", row.reasoning), block("code", row.input, paintPython), block("output, as the model saw it", row.output)];
  }
  if (row.kind === "cell") return [block("code", row.input, paintPython), block("raw output", row.output)];
  if (row.kind === "lm") return [makePrompt(row, run), block("reply", row.output)];
  return [block("asked", row.input), block("answered", row.output)];
}

// --- evidence ------------------------------------------------------------------------------------------------------

function makeEvidence(item, head, run) {
  const match = textAt(item.match);
  const facts = [textAt(item.place), match ? `${match} match` : "not found in the inputs", item.weak ? "weak" : ""];
  const made = makeElement("section", "block evidence", makeElement("h3", "", `evidence: ${facts.filter(Boolean).join(", ")}`));
  const found = findQuote(textAt(item.quote), head, run);
  if (found) made.append(makeElement("p", "quiet", found.where), makeExcerpt(found));
  else {
    made.append(makeElement("blockquote", "", textAt(item.quote)));
    made.append(makeElement("p", "quiet", "The record does not hold the source of this quote."));
  }
  return made;
}

// Looks for a quote where the record may hold its source: inputs, the host's view of them, then outputs of cells.
function findQuote(quote, head, run) {
  const words = quote.slice(0, 2000).split(/\s+/).filter(Boolean).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  if (!words.length) return null;
  const pattern = new RegExp(words.join("[\\s│|]+"));
  for (const [where, text] of placesOf(head, run)) {
    const found = pattern.exec(text);
    if (found) return { where, text, start: found.index, end: found.index + found[0].length };
  }
  return null;
}

function* placesOf(head, run) {
  for (const [name, value] of head.inputs) yield [`in the input ${textAt(name)}, as far as the record holds it:`, textAt(value)];
  yield ["in the host's view of the inputs, as the model saw it; the record does not hold the source itself:", textAt(head.probe)];
  for (const row of RUNS[run].rows) {
    if (row.kind === "step" && row.depth === 0 && row.output !== undefined) {
      yield [`in the output of step ${row.step}; the record does not hold the source itself:`, textAt(row.output)];
    }
  }
}

function makeExcerpt({ text, start, end }) {
  let from = text.lastIndexOf("\n", start - 1) + 1;
  for (let line = 1; line < EXCERPT_LINES / 2 && from > 0; line += 1) from = text.lastIndexOf("\n", from - 2) + 1;
  let to = from;
  for (let line = 0; line < EXCERPT_LINES && to < text.length; line += 1) to = (text.indexOf("\n", to) + 1) || text.length;
  from = Math.max(from, start - 2000);
  to = Math.min(Math.max(to, end), end + 2000);
  const pre = makeElement("pre", "", text.slice(from, start), makeElement("mark", "", text.slice(start, end)));
  pre.append(text.slice(end, to).replace(/\n$/, ""));
  return pre;
}

// --- prompts -------------------------------------------------------------------------------------------------------

// The whole prompt of a call: a row keeps only the messages after those that it shares with the call before.
function promptOf(row, run) {
  const rows = RUNS[run].rows;
  const kept = [row.messages];
  let same = row.same;
  while (same > 0 && row.previous !== undefined && row.previous !== null) {
    row = rows[row.previous];
    if (same > row.same) {
      kept.push(row.messages.slice(0, same - row.same));
      same = row.same;
    }
  }
  return { messages: kept.reverse().flat(), lost: Math.max(same, 0) };
}

function makePrompt(row, run) {
  const { messages, lost } = promptOf(row, run);
  const section = makeElement("section", "block prompt", makeElement("h3", "", promptTitle(row, messages, lost)));
  if (lost) section.append(makeElement("p", "quiet", `The record lacks the first ${countText(lost, "message")} of this prompt.`));
  const shared = row.same - lost;
  const add = (from, to, before) => {
    for (let at = from; at < to; at += 1) section.insertBefore(makeMessage(messages[at], at < shared), before);
  };
  if (messages.length <= 2 * SHOWN_MESSAGES + 1) { add(0, messages.length, null); return section; }
  let next = SHOWN_MESSAGES;
  const last = messages.length - SHOWN_MESSAGES;
  const more = makeButton("", () => {
    const to = Math.min(next + MORE_MESSAGES, last);
    add(next, to, more);
    next = to;
    label();
  }, "more");
  const label = () => { more.hidden = next >= last; more.textContent = `show ${countText(last - next, "more message")}`; };
  section.append(more);
  add(0, next, more);
  add(last, messages.length, null);
  label();
  return section;
}

function promptTitle(row, messages, lost) {
  const shared = row.same ? `, ${row.same.toLocaleString("en")} shared with the call before (shaded)` : "";
  const usage = row.usage;
  const cached = usage && usage[2] ? `; ${usage[2].toLocaleString("en")} of ${countText(usage[0], "token")} came from the cache` : "";
  return `prompt: ${countText(messages.length + lost, "message")}${shared}${cached}`;
}

function makeMessage([role, content], shared) {
  const made = makeBlock(textAt(role), textAt(content)) || makeElement("section", "block", makeElement("h3", "", `${textAt(role)}: empty`));
  made.classList.add("message");
  if (shared) made.classList.add("shared");
  return made;
}

// --- timeline ------------------------------------------------------------------------------------------------------

const TIMELINES = RUNS.map((run) => layLanes(run.rows));
const LONGEST = Math.max(...TIMELINES.map((line) => line.end), 1e-6);

// Gives each row a lane of its kind, so that what ran side by side is seen side by side.
function layLanes(rows) {
  const lanes = [];
  const timed = rows.map((row, number) => ({ row, number })).filter(({ row }) => row.start !== null && row.kind !== "run");
  const end = rows.reduce((last, row) => Math.max(last, (row.start || 0) + (row.seconds || 0)), 0);
  for (const kind of Object.keys(KINDS)) {
    const ours = [];
    for (const { row, number } of timed.filter((one) => one.row.kind === kind).sort((a, b) => a.row.start - b.row.start)) {
      const bar = { number, start: row.start, end: row.seconds === null ? end : row.start + row.seconds, failed: row.error !== undefined };
      let lane = ours.findIndex((one) => one.end <= bar.start);
      if (lane < 0) lane = ours.length < MAX_LANES ? ours.push({ kind, bars: [], end: 0 }) - 1 : MAX_LANES - 1;
      ours[lane].bars.push(bar);
      ours[lane].end = Math.max(ours[lane].end, bar.end);
    }
    lanes.push(...ours);
  }
  return { lanes, end };
}

function makeTimelines() {
  const box = makeElement("div", "timeline");
  parts.canvases = TIMELINES.map((line, run) => {
    if (!line.lanes.length) {
      box.append(makeElement("p", "quiet", "No timeline: the record has no times of its parts (an earlier version wrote it)."));
      return null;
    }
    const names = makeElement("div", "lanes");
    line.lanes.forEach((lane, at) => names.append(makeElement("span", "", at && line.lanes[at - 1].kind === lane.kind ? "" : laneName(lane))));
    const canvas = makeElement("canvas");
    canvas.style.height = `${line.lanes.length * LANE_HEIGHT}px`;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "Timeline; the tree holds the same rows.");
    listenToCanvas(canvas, run);
    box.append(makeElement("div", "lines", names, canvas));
    return canvas;
  });
  return box;
}

function laneName(lane) {
  return { lm: "model", cell: "cells", step: "steps", sub_call: "sub-calls", child: "children", wait: "waits" }[lane.kind];
}

function listenToCanvas(canvas, run) {
  let grabbed = null;
  let moved = false;
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomBy(event.deltaY < 0 ? 0.8 : 1.25, event.offsetX / canvas.clientWidth);
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => { grabbed = event.offsetX; moved = false; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    if (grabbed === null) return;
    moved = moved || Math.abs(event.offsetX - grabbed) > 3;
    if (moved) { panBy((grabbed - event.offsetX) / canvas.clientWidth); grabbed = event.offsetX; }
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!moved) selectBar(canvas, run, event.offsetX, event.offsetY);
    grabbed = null;
  });
}

function zoomBy(factor, around = 0.5) {
  const width = Math.min(Math.max((state.to - state.from) * factor, 1e-7), 1);
  const middle = state.from + (state.to - state.from) * around;
  const from = Math.min(Math.max(middle - width * around, 0), 1 - width);
  Object.assign(state, { from, to: from + width });
  drawTimelines();
}

function panBy(share) {
  const width = state.to - state.from;
  const from = Math.min(Math.max(state.from + share * width, 0), 1 - width);
  Object.assign(state, { from, to: from + width });
  drawTimelines();
}

function selectBar(canvas, run, x, y) {
  const lane = TIMELINES[run].lanes[Math.floor(y / LANE_HEIGHT)];
  const at = (share) => LONGEST * (state.from + (state.to - state.from) * share);
  const time = at(x / canvas.clientWidth);
  const reach = at(3 / canvas.clientWidth) - at(0);   // a bar may be thinner than the pointer
  const hit = lane && lane.bars.find((bar) => bar.start - reach <= time && bar.end + reach >= time);
  if (hit) selectNode(NODE_OF_ROW[run][hit.number]);
}

function drawTimelines() {
  if (!parts.canvases || parts.timeline.hidden) return;
  const colours = laneColours();
  parts.canvases.forEach((canvas, run) => { if (canvas) drawTimeline(canvas, run, colours); });
  const [from, to] = [state.from * LONGEST, state.to * LONGEST];
  parts.window.textContent = `${secondsText(from)} to ${secondsText(to)}`;
}

function laneColours() {
  const colour = (name) => getComputedStyle(parts.legend.querySelector(`.${name}`)).backgroundColor;
  return Object.fromEntries([...Object.keys(KINDS), "error-dot", "chosen"].map((name) => [name, colour(name)]));
}

function drawTimeline(canvas, run, colours) {
  const scale = globalThis.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(canvas.clientHeight * scale);
  const draw = canvas.getContext("2d");
  draw.scale(scale, scale);
  const perSecond = width / ((state.to - state.from) * LONGEST);
  const chosen = NODES[state.selected].rows[run];
  TIMELINES[run].lanes.forEach((lane, at) => {
    let drawn = -1;   // the last pixel with a bar: thousands of bars on one pixel are drawn once
    for (const bar of lane.bars) {
      const x = (bar.start - state.from * LONGEST) * perSecond;
      const long = Math.max((bar.end - bar.start) * perSecond, 1);
      if (x > width || x + long < 0 || (x + long <= drawn && !bar.failed && bar.number !== chosen)) continue;
      drawn = Math.max(drawn, x + long);
      draw.fillStyle = bar.number === chosen ? colours.chosen : bar.failed ? colours["error-dot"] : colours[lane.kind];
      draw.fillRect(x, at * LANE_HEIGHT + 2, Math.max(long - (long > 3 ? 1 : 0), 1), LANE_HEIGHT - 4);
    }
  });
}

// --- header, tools, keys -------------------------------------------------------------------------------------------

function makeHeader() {
  const header = makeElement("header", "");
  RUNS.forEach((run) => { if (run.heads[0]) header.append(makeSummary(run.heads[0], run.rows[0])); });
  return header;
}

function makeSummary(head, top) {
  const usage = head.usage;
  const status = makeElement("span", `status ${textAt(head.status)}`, endingText(head));
  const facts = [
    textAt(head.model) || "no model", head.started ? dateText(head.started) : "start unknown",
    top.start !== null && top.seconds === null ? "unfinished" : secondsText(head.seconds),
    countText(head.steps, "step"), countText(head.sub_calls, "sub-call"), countText(tokensOf(usage), "token"),
    `${percentText(cachedShare(usage)) || "0 %"} cached`, costText(usage) || "$0.0000",
  ];
  const summary = makeElement("div", "summary");
  summary.append(makeElement("h1", "", `run ${textAt(head.id)} `, status), makeElement("p", "", facts.join(" · ")));
  const line = (name, text) => summary.append(makeElement("p", "line", makeElement("b", "", `${name} `), firstLine(text)));
  head.inputs.forEach(([name, value]) => line(textAt(name), textAt(value)));
  head.outputs.forEach(([name, value]) => line(textAt(name), textAt(value)));
  head.evidence.slice(0, 2).forEach((item) => line("evidence", `${textAt(item.place)} “${firstLine(textAt(item.quote))}”`));
  if (textAt(head.error)) summary.append(makeElement("p", "line failed", firstLine(textAt(head.error))));
  head.warnings.slice(0, 2).forEach((number) => summary.append(makeElement("p", "line warning", `warning: ${firstLine(textAt(number))}`)));
  const more = Math.max(head.evidence.length - 2, 0) + Math.max(head.warnings.length - 2, 0);
  if (more) summary.append(makeElement("p", "line quiet", `… and ${countText(more, "more warning or quote").replace(/s$/, "s")} under the run's row`));
  return summary;
}

function makeChoice(label, options) {
  const made = makeElement("select", "", ...options.map(([value, text]) => { const one = makeElement("option", "", text); one.value = value; return one; }));
  made.setAttribute("aria-label", label);
  made.addEventListener("change", applyFilters);
  return made;
}

function distinctValues(valueOf) {
  const found = new Set(RUNS.flatMap((run) => run.rows.map(valueOf)));
  return [...found].filter((value) => value !== "" && value !== undefined);
}

function makeTools() {
  parts.search = makeElement("input");
  parts.search.type = "search";
  parts.search.placeholder = "search  ( / )";
  parts.search.setAttribute("aria-label", "Search in all texts");
  let due = 0;
  parts.search.addEventListener("input", () => { clearTimeout(due); due = setTimeout(applyFilters, 120); });
  const kinds = distinctValues((row) => row.kind);
  parts.kind = makeChoice("Kind", [["", "all kinds"], ...kinds.map((kind) => [kind, KINDS[kind]])]);
  parts.model = makeChoice("Model", [["", "all models"], ...distinctValues(modelOf).map((name) => [name, name])]);
  const depths = distinctValues((row) => row.depth).sort((a, b) => a - b);
  parts.depth = makeChoice("Depth", [["", "all depths"], ...depths.map((depth) => [String(depth), `depth ${depth}`])]);
  const failed = nodesWithErrors().length;
  parts.errors = makeButton(countText(failed, "error"), () => {
    parts.errors.setAttribute("aria-pressed", parts.errors.getAttribute("aria-pressed") !== "true");
    applyFilters();
  }, failed ? "failed" : "");
  parts.errors.setAttribute("aria-pressed", "false");
  parts.errors.title = "show only rows with errors";
  parts.found = makeElement("output", "quiet");
  const keys = makeElement("span", "keys", "j k ← → / e");
  keys.title = "j, k: next and previous row; ← →: collapse, expand; /: search; e: next error; Esc: leave the search";
  return makeElement("div", "tools", parts.search, parts.kind, parts.model, parts.depth, parts.errors, parts.found,
    makeElement("span", "gap"), keys, makeButton("open all", () => setAllOpen(true)), makeButton("close all", () => setAllOpen(false)),
    makeButton("timeline", toggleTimeline), makeButton("dark / light", toggleTheme));
}

function toggleTheme() {
  const style = document.documentElement.style;
  const dark = style.colorScheme ? style.colorScheme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  style.colorScheme = dark ? "light" : "dark";
  drawTimelines();
}

function toggleTimeline() {
  parts.timeline.hidden = !parts.timeline.hidden;
  drawTimelines();
  drawRows();
}

function makeTimelinePanel() {
  parts.legend = makeElement("span", "legend", ...[...Object.keys(KINDS), "error-dot", "chosen"].map((name) => makeElement("span", `dot ${name}`)));
  parts.legend.hidden = true;
  parts.window = makeElement("output", "quiet");
  const zoom = [["+", "zoom in", () => zoomBy(0.5)], ["−", "zoom out", () => zoomBy(2)], ["all", "whole run", () => zoomBy(1e9)]];
  const buttons = zoom.map(([label, title, press]) => { const one = makeButton(label, press); one.title = title; one.setAttribute("aria-label", title); return one; });
  return makeElement("section", "timeline-panel", makeTimelines(), makeElement("div", "zoom", ...buttons, parts.window, parts.legend));
}

function makeTree() {
  const titles = RUNS.flatMap(() => [makeElement("span", "title", "tree"), ...figureColumns().map(([name]) => makeElement("span", "figure", name))]);
  parts.space = makeElement("div", "space");
  parts.space.setAttribute("role", "presentation");
  parts.empty = makeElement("p", "quiet", "No row matches.");
  parts.tree = makeElement("div", "tree", parts.space, parts.empty);
  parts.tree.tabIndex = 0;
  parts.tree.setAttribute("role", "tree");
  parts.tree.setAttribute("aria-label", "Steps, calls of models, cells, sub-calls, children and waits");
  let due = 0;
  parts.tree.addEventListener("scroll", () => { if (!due) due = requestAnimationFrame(() => { due = 0; drawRows(); }); });
  return makeElement("div", "tree-pane", makeElement("div", "row heads", ...titles), parts.tree);
}

const KEYS = {
  j: () => moveBy(1), k: () => moveBy(-1), ArrowDown: () => moveBy(1), ArrowUp: () => moveBy(-1),
  PageDown: () => moveBy(pageRows()), PageUp: () => moveBy(-pageRows()), Home: () => moveBy(-Infinity), End: () => moveBy(Infinity),
  ArrowRight: () => { if (!setOpen(state.selected, true) && !NODES[state.selected].leaf) moveBy(1); },
  ArrowLeft: () => { if (!setOpen(state.selected, false) && NODES[state.selected].parent >= 0) selectNode(NODES[state.selected].parent); },
  "/": () => { parts.search.focus(); parts.search.select(); },
  e: () => selectNext(nodesWithErrors()),
};

function pageRows() {
  return Math.max(Math.floor(parts.tree.clientHeight / ROW_HEIGHT) - 1, 1);
}

function moveBy(count) {
  const place = Math.min(Math.max(positionOf(state.selected) + count, 0), state.visible.length - 1);
  if (state.visible.length) selectNode(state.visible[place]);
}

function pressKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === parts.search) {
    if (event.key === "Escape") { parts.search.value = ""; applyFilters(); parts.tree.focus(); }
    if (event.key === "Enter") { applyFilters(); selectNext(state.matched, event.shiftKey); }
    return;
  }
  const moves = /^(Arrow|Page|Home|End)/.test(event.key);
  if (event.target.tagName === "SELECT" || (moves && event.target !== parts.tree && event.target !== document.body)) return;
  const act = KEYS[event.key];
  if (act) { event.preventDefault(); act(); }
}

function openPage() {
  document.documentElement.classList.add("scripted");
  document.body.classList.toggle("two", TWO);
  const header = makeHeader();
  const tools = makeTools();
  parts.timeline = makeTimelinePanel();
  const tree = makeTree();
  parts.details = makeElement("div", "details");
  parts.details.setAttribute("aria-label", "Details");
  parts.details.setAttribute("role", "region");
  document.body.append(header, tools, parts.timeline, makeElement("main", "", tree, parts.details));
  openFirst();
  updateVisible();
  drawDetails();
  drawTimelines();
  parts.tree.focus({ preventScroll: true });
  document.addEventListener("keydown", pressKey);
  addEventListener("resize", () => { drawRows(); drawTimelines(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawTimelines);
}

openPage();
})();
