// The details of the selected row: its figures and its texts.

// --- texts: folded, coloured -----------------------------------------------------------------------------------------

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
  "((?:[rbfuRBFU]{1,2})?(?:" + [
    '"""[^]*?(?:"""|$)', "'''[^]*?(?:'''|$)",
    '"(?:\\\\[^]|[^"\\\\\\n])*"?', "'(?:\\\\[^]|[^'\\\\\\n])*'?",
  ].join("|") + "))",
  "(\\b\\d[\\w.]*)",
  "([A-Za-z_]\\w*)",
].join("|"), "g");
const KEYWORDS = wordSet("False None True and as assert async await break case class continue def del elif else " +
  "except finally for from global if import in is lambda match nonlocal not or pass raise return try while with yield");
const FUNCTIONS = wordSet("SUBMIT llm_query llm_query_batched predict predict_batched subcall subcall_batched print " +
  "len range sorted sum min max str int float list dict set tuple enumerate zip map filter any all isinstance open");

function wordSet(words) {
  return new Set(words.split(" "));
}

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
  for (const [at, line] of text.split("\n").entries()) {
    const begins = line.includes("Traceback (most recent call last)");
    const ends = inside && !begins && /^\S/.test(line);
    const name = begins ? "trace-head" : ends ? "trace-error" : inside && /^\s+File "/.test(line) ? "trace-place" : "";
    pre.append(at ? "\n" : "", name ? makeElement("span", name, line) : line);
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

// --- details ---------------------------------------------------------------------------------------------------------

function drawDetails() {
  const node = NODES[state.selected];
  parts.details.replaceChildren();
  if (!node) return;
  rowsOf(node).forEach((row, run) => {
    const column = makeElement("article", "column");
    if (row) column.append(...detailsOf(row, run).filter(Boolean));
    else column.append(makeNote("This run has no such row."));
    parts.details.append(column);
  });
  parts.details.scrollTop = 0;
  markFound();
}

function detailsOf(row, run) {
  const head = row.head === undefined ? null : RUNS[run].heads[row.head];
  const title = makeElement("h2", "", makeElement("span", `dot ${row.kind}`), `${KINDS[row.kind]} ${titleOf(row).slice(0, 160)}`);
  const rest = head ? headDetails(head, run) : textsOf(row, run);
  return [title, makeFacts(factsOf(row, run, head)), errorOf(row), ...rest];
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
  if (hasCalls(usage)) {
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
  if (by === "killed" || by === "running") return by;
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
  const byModel = head.usage_by_model.length > 1 ? head.usage_by_model : [];
  return groups.concat(byModel.map(([name, usage]) => makeNote(
    `used by ${textAt(name)}: ${countText(tokensOf(usage), "token")}, ${costText(usage) || "$0"}`)));
}

function textsOf(row, run) {
  const block = (label, number, paint) => makeBlock(label, textAt(number), paint);
  if (row.kind === "step") {
    const output = block("output, as the model saw it", row.output);
    return [block("reasoning", row.reasoning), block("code", row.input, paintPython), output];
  }
  if (row.kind === "cell") return [block("code", row.input, paintPython), block("raw output", row.output)];
  if (row.kind === "lm") return [makePrompt(row, run), block("reply", row.output)];
  return [block("asked", row.input), block("answered", row.output)];
}

// --- evidence --------------------------------------------------------------------------------------------------------

function makeEvidence(item, head, run) {
  const match = textAt(item.match);
  const facts = [textAt(item.place), match ? `${match} match` : "not found in the inputs", item.weak ? "weak" : ""];
  const title = makeElement("h3", "", `evidence: ${facts.filter(Boolean).join(", ")}`);
  const made = makeElement("section", "block evidence", title);
  const found = findQuote(textAt(item.quote), head, run, textAt(item.around));
  if (found) made.append(makeNote(found.where), makeExcerpt(found));
  else {
    made.append(makeElement("blockquote", "", textAt(item.quote)));
    made.append(makeNote("The record does not hold the source of this quote."));
  }
  return made;
}

// Looks for a quote in the lines that the record kept of its source; in older records in inputs, the host's view of them, then outputs of cells.
function findQuote(quote, head, run, around) {
  const words = quote.slice(0, 2000).split(/\s+/).filter(Boolean).map(escapePattern);
  if (!words.length) return null;
  const pattern = new RegExp(words.join("[\\s│|]+"));
  const source = around ? [["in its source:", around]] : [];
  for (const [where, text] of [...source, ...placesOf(head, run)]) {
    const found = pattern.exec(text);
    if (found) return { where, text, start: found.index, end: found.index + found[0].length };
  }
  return null;
}

function* placesOf(head, run) {
  for (const [name, value] of head.inputs) {
    yield [`in the input ${textAt(name)}, as far as the record holds it:`, textAt(value)];
  }
  const probe = "in the host's view of the inputs, as the model saw it; the record does not hold the source itself:";
  yield [probe, textAt(head.probe)];
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
  for (let line = 0; line < EXCERPT_LINES && to < text.length; line += 1) {
    to = (text.indexOf("\n", to) + 1) || text.length;
  }
  from = Math.max(from, start - 2000);
  to = Math.min(Math.max(to, end), end + 2000);
  const pre = makeElement("pre", "", text.slice(from, start), makeElement("mark", "", text.slice(start, end)));
  pre.append(text.slice(end, to).replace(/\n$/, ""));
  return pre;
}

// --- prompts ---------------------------------------------------------------------------------------------------------

// The whole prompt of a call: a row keeps only the messages after those that it shares with the call before.
function promptOf(call, run) {
  const rows = RUNS[run].rows;
  const kept = [call.messages];
  let row = call;
  let same = row.same;
  while (same > 0 && row.previous !== undefined && row.previous !== null) {
    row = rows[row.previous];
    if (same > row.same) {
      kept.push(row.messages.slice(0, same - row.same));
      same = row.same;
    }
  }
  const messages = kept.reverse().flat();
  return { messages, lost: call.same + call.messages.length - messages.length };
}

function makePrompt(row, run) {
  const { messages, lost } = promptOf(row, run);
  const section = makeElement("section", "block prompt", makeElement("h3", "", promptTitle(row, messages, lost)));
  if (lost) section.append(makeNote(`The record lacks the first ${countText(lost, "message")} of this prompt.`));
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
  const label = () => {
    more.hidden = next >= last;
    more.textContent = `show ${countText(last - next, "more message")}`;
  };
  section.append(more);
  add(0, next, more);
  add(last, messages.length, null);
  label();
  return section;
}

function promptTitle(row, messages, lost) {
  const shared = row.same ? `, ${row.same.toLocaleString("en")} shared with the call before (shaded)` : "";
  const usage = row.usage;
  const tokens = usage && usage[2] ? `${usage[2].toLocaleString("en")} of ${countText(usage[0], "token")}` : "";
  const cached = tokens ? `; ${tokens} came from the cache` : "";
  return `prompt: ${countText(messages.length + lost, "message")}${shared}${cached}`;
}

function makeMessage([role, content], shared) {
  const empty = makeElement("h3", "", `${textAt(role)}: empty`);
  const made = makeBlock(textAt(role), textAt(content)) || makeElement("section", "block", empty);
  made.classList.add("message");
  if (shared) made.classList.add("shared");
  return made;
}
