// The timeline: lanes of bars on a canvas, which zooms.

const TIMELINES = RUNS.map((run) => layLanes(run.rows));
const LONGEST = Math.max(...TIMELINES.map((line) => line.end), 1e-6);

// Gives each row a lane of its kind, so that what ran side by side is seen side by side.
function layLanes(rows) {
  const lanes = [];
  const numbered = rows.map((row, number) => ({ row, number }));
  const timed = numbered.filter(({ row }) => row.start !== null && row.kind !== "run");
  const last = rows.reduce((end, row) => Math.max(end, (row.start || 0) + (row.seconds || 0)), 0);
  const unfinished = timed.some(({ row }) => row.seconds === null);
  const end = unfinished ? last * 1.03 + 0.001 : last;   // what has not ended reaches beyond all that has
  for (const kind of Object.keys(KINDS)) {
    const ours = [];
    const found = timed.filter(({ row }) => row.kind === kind).sort((a, b) => a.row.start - b.row.start);
    for (const { row, number } of found) {
      const open = row.seconds === null;
      const failed = row.error !== undefined;
      const bar = { number, start: row.start, end: open ? end : row.start + row.seconds, open, failed };
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
      box.append(makeNote("No timeline: the record has no times of its parts (an earlier version wrote it)."));
      return null;
    }
    const names = makeElement("div", "lanes");
    line.lanes.forEach((lane, at) => {
      const repeated = at > 0 && line.lanes[at - 1].kind === lane.kind;
      names.append(makeElement("span", "", repeated ? "" : LANE_NAMES[lane.kind]));
    });
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

const LANE_NAMES = {
  lm: "model", cell: "cells", step: "steps", sub_call: "sub-calls", child: "children", wait: "waits",
};

function listenToCanvas(canvas, run) {
  let grabbed = null;
  let moved = false;
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomBy(event.deltaY < 0 ? 0.8 : 1.25, event.offsetX / canvas.clientWidth);
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    grabbed = event.offsetX;
    moved = false;
    canvas.setPointerCapture(event.pointerId);
  });
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
  TIMELINES[run].lanes.forEach((lane, at) => {
    const placedBars = lane.bars.map((bar) => placeBar(bar, perSecond));
    const barsInView = placedBars.filter(({ x, long }) => x <= width && x + long >= 0);
    const fill = ({ bar, x, long }, colour) => {
      draw.globalAlpha = bar.open ? 0.55 : 1;
      draw.fillStyle = colour;
      draw.fillRect(x, at * LANE_HEIGHT + 2, Math.max(long - (long > 3 ? 1 : 0), 1), LANE_HEIGHT - 4);
    };
    let pixel = -1;   // thousands of bars on one pixel are drawn once
    for (const placed of barsInView) {
      if (placed.long > 1 || placed.x !== pixel) fill(placed, colours[lane.kind]);
      pixel = placed.x;
    }
    barsInView.filter(({ bar }) => bar.failed).forEach((placed) => fill(placed, colours["error-dot"]));
    const chosen = NODES[state.selected] && NODES[state.selected].rows[run];
    barsInView.filter(({ bar }) => bar.number === chosen).forEach((placed) => fill(placed, colours.chosen));
  });
}

function placeBar(bar, perSecond) {
  const x = (bar.start - state.from * LONGEST) * perSecond;
  const long = (bar.end - bar.start) * perSecond;
  return long > 1 ? { bar, x, long } : { bar, x: Math.floor(x), long: 1 };
}
