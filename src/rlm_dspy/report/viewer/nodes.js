// The data of the page, and the tree of nodes made from it. The page holds JSON: `texts`, each once, and one or two
// `runs`, each with the `rows` of its tree (parents first) and the `heads` of its runs. Rows have numbers of texts.
// The files of this folder are one script, in the order of page.py. None of them writes markup: elements are created,
// texts are set as text, and styles through the style object.

const PAGE = JSON.parse(document.getElementById("data").textContent);
const RUNS = PAGE.runs;
const TWO = RUNS.length > 1;
const ROW_HEIGHT = 26;         // pixels, as in the style
const SPARE_ROWS = 8;          // made above and below those in view
const OPEN_ALL_ROWS = 300;     // smaller trees open as a whole
const MOST_INDENTED = 16;      // levels
const FOLD_LINES = 24;         // of a long text, before it is unfolded
const FOLD_CHARS = 4000;
const UNFOLD_CHARS = 100000;   // more with each press
const PAINT_CHARS = 60000;     // longer code is shown without colours
const SHOWN_MESSAGES = 12;     // of a long prompt at its beginning and at its end
const MORE_MESSAGES = 200;
const MAX_LANES = TWO ? 2 : 5; // of one kind in the timeline; what overlaps more shares the last
const TWO_DIGITS = { minimumFractionDigits: 2, maximumFractionDigits: 2 };
const LANE_HEIGHT = 14;
const EXCERPT_LINES = 10;

const KINDS = {
  run: "run", step: "step", lm: "model", cell: "cell", sub_call: "sub-call", child: "child", wait: "wait",
};

// --- small parts -----------------------------------------------------------------------------------------------------

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

function makeNote(text) {
  return makeElement("p", "quiet", text);
}

function textAt(number) {
  return number === undefined || number === null ? "" : PAGE.texts[number];
}

function countText(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

function secondsText(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds === 0) return "0 s";
  if (seconds < 0.0995) return `${(seconds * 1000).toFixed(seconds < 0.00995 ? 1 : 0)} ms`;
  if (seconds < 99.95) return `${seconds.toFixed(seconds < 9.995 ? 2 : 1)} s`;
  return `${Math.round(seconds).toLocaleString("en")} s`;
}

function costText(usage) {
  if (!usage) return "";
  if (usage[3] === null) return "cost unknown";
  return usage[3] < 1 ? `$${usage[3].toFixed(4)}` : `$${usage[3].toLocaleString("en", TWO_DIGITS)}`;
}

function tokensOf(usage) {
  return usage ? usage[0] + usage[1] : 0;
}

function hasCalls(usage) {   // the usage of a wait has none
  return usage && (usage[4] > 0 || tokensOf(usage) > 0 || usage[3] !== 0);
}

function cachedShare(usage) {
  return usage && usage[0] ? usage[2] / usage[0] : null;
}

function percentText(share) {
  return share === null ? "" : `${Math.round(share * 100)} %`;
}

function escapePattern(text) {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

function firstLine(text) {
  const line = text.slice(0, 400).split("\n").find((part) => part.trim()) || "";
  return line.trim();
}

// --- the tree: nodes with a row of each run --------------------------------------------------------------------------

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
  const waiting = [];
  const addNodes = (pairs, parent, level) => {   // the last first, as the stack gives them back in reverse
    for (let at = pairs.length - 1; at >= 0; at -= 1) {
      waiting.push({ rows: pairs[at], parent, level, place: at + 1, siblings: pairs.length, open: false });
    }
  };
  addNodes(alignedPairs(lists[0].tops, TWO ? lists[1].tops : []), -1, 0);
  while (waiting.length) {
    const node = waiting.pop();
    const number = made.length;
    made.push(node);
    const below = node.rows.map((row, run) => (row === null ? [] : lists[run].below[row]));
    const pairs = alignedPairs(below[0], below[1] || []);
    node.leaf = pairs.length === 0;
    addNodes(pairs, number, node.level + 1);
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
