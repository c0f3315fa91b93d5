// SPDX-License-Identifier: MIT
// Calls over time: a lane for the agent, one for each subagent; to zoom and to move.
import {$, clock, duration} from "./text.js";

const LANE = 26, AXIS = 18, LINES = 3, LANES_MAX = 12;  // pixels; calls at once in a lane
const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 3e4, 6e4, 12e4, 3e5, 6e5, 18e5, 36e5, 108e5, 864e5];
const chart = $("chart"), ink = chart.getContext("2d"), css = getComputedStyle(document.documentElement);
let calls = [], span = null, view = null, hits = [], planned = 0, pick = () => {}, moved = () => {}, dragged = null;

export function set(turns) {
  calls = turns.flatMap(turn => turn.calls.map(call => ({...call, from: call.started_ms ?? call.ended_ms,
    to: call.ended_ms ?? (turn.ended_ms || turn.calls.at(-1).ended_ms || call.started_ms)})));
  const times = turns.flatMap(turn => [turn.started_ms, turn.ended_ms]).concat(calls.map(call => call.to)).filter(Boolean);
  span = times.length ? [times.reduce((a, b) => Math.min(a, b)), times.reduce((a, b) => Math.max(a, b), 0)] : null;
  if (span && span[1] - span[0] < 1000) span[1] = span[0] + 1000;
  plan();
}

export const [onPick, onMove] = [action => { pick = action; }, action => { moved = action; }];
export function show(from, to) { view = to > from ? [from, to] : null; plan(); }
const shown = () => view || span;

function zoom(factor, at) {
  if (!span) return;
  const [from, to] = shown(), middle = at ?? (from + to) / 2;
  view = factor && (to - from) * factor < (span[1] - span[0]) * 1.5 && (to - from) * factor >= 5 ?
    [middle - (middle - from) * factor, middle + (to - middle) * factor] : factor ? view : null;
  moved(view);
  plan();
}

function move(share) {
  if (!span) return;
  const [from, to] = shown(), by = (to - from) * share;
  view = [from + by, to + by];
  moved(view);
  plan();
}

function draw() {
  planned = 0;
  const width = chart.clientWidth, lanes = new Map([["", []]]);
  for (const call of calls) {
    const name = call.lane && (lanes.size < LANES_MAX || lanes.has(`${call.lane} ${call.agent_id}`)) ?
      `${call.lane} ${call.agent_id}` : call.lane ? "more" : "";
    if (!lanes.has(name)) lanes.set(name, []);
    lanes.get(name).push(call);
  }
  const height = AXIS + lanes.size * LANE;
  chart.style.height = `${height}px`;
  [chart.width, chart.height] = [width * devicePixelRatio, height * devicePixelRatio];
  ink.scale(devicePixelRatio, devicePixelRatio);
  hits = [];
  if (!span) return;
  const [from, to] = shown(), x = at => (at - from) / (to - from) * width;
  grid(x, from, to, width, height);
  [...lanes].forEach(([name, own], n) => lane(name, own, x, AXIS + n * LANE, width));
}

function grid(x, from, to, width, height) {
  const zone = new Date(from).getTimezoneOffset() * 6e4, most = Math.max(1, width / 110);
  const step = STEPS.find(step => (to - from) / step <= most) || 864e5 * Math.ceil((to - from) / 864e5 / most);
  ink.font = "11px system-ui, sans-serif";
  for (let at = Math.ceil((from - zone) / step) * step + zone; x(at) < width - 90; at += step) {
    box("line", x(at), x(at) + 1, 0, height);
    ink.fillStyle = color("mute");
    ink.fillText(clock(at, step), x(at) + 4, 13);
  }
}

function lane(name, own, x, y, width) {
  const ends = Array(LINES).fill(-Infinity);
  let last = -1;
  box("line", 0, width, y, 1);
  for (const call of own) {
    const left = x(call.from), right = Math.max(left + 2, x(call.to));
    if (right < 0 || left > width || (right - last < 0.5 && call.outcome === "ok")) continue;
    const free = ends.findIndex(end => end <= call.from), row = free < 0 ? LINES - 1 : free;
    ends[row] = call.to;
    last = right;
    box(call.outcome, left, right, y + 3 + row * 7, 6, call);
  }
  if (name) { ink.fillStyle = color("mute"); ink.fillText(name.split(" ")[0], 4, y + LANE - 4); }
}

const color = name => css.getPropertyValue(`--${name}`);
function box(name, from, to, y, h, call) {
  ink.fillStyle = color(name);
  ink.fillRect(from, y, to - from, h);
  if (call) hits.push([from, to, y, y + h, call]);
}
const plan = () => { planned ||= requestAnimationFrame(draw); };
const hit = ({offsetX: x, offsetY: y}) => hits.findLast(
  ([from, to, top, end]) => x > from - 3 && x < to + 3 && y >= top - 1 && y <= end + 1)?.[4];
const at = event => { const [from, to] = shown(); return from + event.offsetX / chart.clientWidth * (to - from); };

chart.onwheel = event => {
  if (!span || !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey)) return;
  event.preventDefault();
  zoom((event.deltaY || event.deltaX) < 0 ? 0.7 : 1 / 0.7, at(event));
};
chart.onpointerdown = event => { dragged = event.offsetX; };
chart.onpointermove = event => {
  const call = hit(event);
  chart.title = call ? `${call.tool} ${duration(call.duration_ms)} ${call.subject}` : "";
  if (dragged === null || !event.buttons || Math.abs(event.offsetX - dragged) < 4) return;
  move((dragged - event.offsetX) / chart.clientWidth);
  dragged = event.offsetX;
};
chart.onclick = event => { const call = hit(event); if (call) pick(`call ${call.id}`); };
chart.ondblclick = event => zoom(0.4, at(event));
chart.onkeydown = ({key}) => ({"+": () => zoom(0.5), "-": () => zoom(2), 0: () => zoom(0),
  ArrowLeft: () => move(-0.2), ArrowRight: () => move(0.2)})[key]?.();
$("zoom").onclick = ({target}) => target.dataset.zoom && zoom(+target.dataset.zoom);
matchMedia("(prefers-color-scheme: dark)").onchange = plan;
new ResizeObserver(plan).observe(chart);
