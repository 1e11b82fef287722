// The header, the tools and the keys; opens the page.

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
  const line = (name, text) => {
    summary.append(makeElement("p", "line", makeElement("b", "", `${name} `), firstLine(text)));
  };
  head.inputs.forEach(([name, value]) => line(textAt(name), textAt(value)));
  head.outputs.forEach(([name, value]) => line(textAt(name), textAt(value)));
  head.evidence.slice(0, 2).forEach((item) => {
    line("evidence", `${textAt(item.place)} “${firstLine(textAt(item.quote))}”`);
  });
  if (textAt(head.error)) summary.append(makeElement("p", "line failed", firstLine(textAt(head.error))));
  head.warnings.slice(0, 2).forEach((number) => {
    summary.append(makeElement("p", "line warning", `warning: ${firstLine(textAt(number))}`));
  });
  const more = Math.max(head.evidence.length - 2, 0) + Math.max(head.warnings.length - 2, 0);
  if (more) summary.append(makeElement("p", "line quiet", `… more quotes and warnings (${more}) are in the run's row`));
  return summary;
}

function makeChoice(label, options) {
  const made = makeElement("select", "");
  options.forEach(([value, text]) => made.append(new Option(text, value)));
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
  const buttons = [
    makeButton("open all", () => setAllOpen(true)), makeButton("close all", () => setAllOpen(false)),
    makeButton("timeline", toggleTimeline), makeButton("dark / light", toggleTheme),
  ];
  return makeElement("div", "tools", parts.search, parts.kind, parts.model, parts.depth, parts.errors, parts.found,
    makeElement("span", "gap"), keys, ...buttons);
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
  const colours = [...Object.keys(KINDS), "error-dot", "chosen"];
  parts.legend = makeElement("span", "legend", ...colours.map((name) => makeElement("span", `dot ${name}`)));
  parts.legend.hidden = true;   // the canvas takes its colours from it
  parts.window = makeElement("output", "quiet");
  const zoom = [["+", "zoom in", 0.5], ["−", "zoom out", 2], ["all", "whole run", 1e9]];
  const buttons = zoom.map(([label, title, factor]) => {
    const made = makeButton(label, () => zoomBy(factor));
    made.title = title;
    made.setAttribute("aria-label", title);
    return made;
  });
  const lines = makeTimelines();
  const tools = makeElement("div", "zoom", ...buttons, parts.window, parts.legend);
  tools.hidden = !parts.canvases.some(Boolean);
  return makeElement("section", "timeline-panel", lines, tools);
}

function makeTree() {
  const titles = RUNS.flatMap(() => [
    makeElement("span", "title", "tree"), ...figureColumns().map(([name]) => makeElement("span", "figure", name)),
  ]);
  parts.space = makeElement("div", "space");
  parts.space.setAttribute("role", "presentation");
  parts.empty = makeElement("p", "quiet", "No row matches.");
  parts.tree = makeElement("div", "tree", parts.space, parts.empty);
  parts.tree.tabIndex = 0;
  parts.tree.setAttribute("role", "tree");
  parts.tree.setAttribute("aria-label", "Steps, calls of models, cells, sub-calls, children and waits");
  let due = 0;
  parts.tree.addEventListener("scroll", () => {
    if (!due) due = requestAnimationFrame(() => { due = 0; drawRows(); });
  });
  return makeElement("div", "tree-pane", makeElement("div", "row heads", ...titles), parts.tree);
}

const KEYS = {
  j: () => moveBy(1), k: () => moveBy(-1), ArrowDown: () => moveBy(1), ArrowUp: () => moveBy(-1),
  PageDown: () => moveBy(pageRows()), PageUp: () => moveBy(-pageRows()),
  Home: () => moveBy(-Infinity), End: () => moveBy(Infinity), ArrowRight: openOrGoIn, ArrowLeft: closeOrGoOut,
  "/": () => { parts.search.focus(); parts.search.select(); },
  e: () => selectNext(nodesWithErrors()),
};

function openOrGoIn() {
  if (!setOpen(state.selected, true) && !NODES[state.selected].leaf) moveBy(1);
}

function closeOrGoOut() {
  const above = NODES[state.selected].parent;
  if (!setOpen(state.selected, false) && above >= 0) selectNode(above);
}

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
  const scrolls = /^(Arrow|Page|Home|End)/.test(event.key) && ![parts.tree, document.body].includes(event.target);
  if (event.target.tagName === "SELECT" || scrolls) return;
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
