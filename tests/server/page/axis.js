// SPDX-License-Identifier: MIT. Calls over time: a lane for the agent, one for each subagent; to zoom and to move.
import {$, clock, duration} from "./text.js";
import {itemOf} from "./turns.js";

const LANE = 26, AXIS = 18, LINES = 3, LANES_MAX = 12;  // pixels; calls at once in a lane
const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 3e4, 6e4, 12e4, 3e5, 6e5, 18e5, 36e5, 108e5, 864e5];
const chart = $("chart"), ink = chart.getContext("2d"), css = getComputedStyle(document.documentElement);
let turns = [], span = null, view = null, hits = [], planned = 0, dragged = null, colors = {};
export const when = {picked() {}, moved() {}};
const plan = () => { planned ||= requestAnimationFrame(() => setTimeout(draw)); };  // when the rows are painted
const shown = () => view || span || [0, 1];
const barsOf = (turn, open = turn.ended_ms ?? turn.calls.at(-1)?.ended_ms) => turn.calls.map(call => (
  {call, from: call.started_ms, to: call.ended_ms ?? open ?? call.started_ms, agent: call.lane && call.agent_id}));

// A turn that is told anew is another object, so that its bars are made once.
export function set(told) {
  turns = told;
  for (const turn of turns) {
    turn.bars ??= barsOf(turn);
    turn.last_ms ??= turn.bars.reduce((end, bar) => Math.max(end, bar.to), turn.ended_ms ?? turn.started_ms);
  }
  const from = turns[0]?.started_ms, to = turns.reduce((end, turn) => Math.max(end, turn.last_ms), from + 1000);
  span = turns.length ? [from, to] : null;
  plan();
}
export function show(from, to) { view = to > from ? [from, to] : null; plan(); }
function look(next) {
  view = span && next;
  when.moved(...(view ?? []).map(Math.round));
  plan();
}
function zoom(factor, middle = (shown()[0] + shown()[1]) / 2) {
  const [from, to] = shown(), length = (to - from) * factor;
  if (!factor || span && length >= (span[1] - span[0]) * 1.5) look(null);
  else if (length >= 5) look([middle - (middle - from) * factor, middle + (to - middle) * factor]);
}
const move = (share, [from, to] = shown(), by = (to - from) * share) => look([from + by, to + by]);

// The agent's own, then one for each subagent; one that ended leaves it to the next of its name.
function lanesOf(from, to) {
  const lanes = [{name: "", bars: [], end: -Infinity}], near = turns.filter(turn => turn.last_ms >= from && turn.started_ms <= to);
  const seen = near.flatMap(turn => turn.bars).filter(bar => bar.to >= from && bar.from <= to);
  for (const bars of Map.groupBy(seen, bar => bar.agent).values()) {
    const name = bars[0].call.lane ?? "", fresh = {name: lanes.length < LANES_MAX ? name : "more", bars: []};
    const free = lanes.find(lane => lane.name === name && lane.end <= bars[0].from) ?? lanes[LANES_MAX];
    const lane = free ?? lanes[lanes.push(fresh) - 1];
    lane.bars = lane.bars.concat(bars);
    lane.end = bars.reduce((end, bar) => Math.max(end, bar.to), 0);
  }
  return lanes;
}
function draw() {
  const [from, to] = shown(), lanes = lanesOf(from, to), x = at => (at - from) / (to - from) * width;
  const width = chart.clientWidth, height = AXIS + lanes.length * LANE;
  [planned, hits, colors] = [0, [], {}];
  chart.style.height = `${height}px`;
  [chart.width, chart.height] = [width * devicePixelRatio, height * devicePixelRatio];
  ink.scale(devicePixelRatio, devicePixelRatio);
  ink.font = "11px system-ui, sans-serif";
  if (!span) return;
  grid(x, from, to, width, height);
  lanes.forEach(({name, bars}, n) => lane(name, bars, x, AXIS + n * LANE, width));
}
function grid(x, from, to, width, height) {
  const zone = new Date(from).getTimezoneOffset() * 6e4, most = Math.max(1, width / 110);
  const step = STEPS.find(step => (to - from) / step <= most) || 864e5 * Math.ceil((to - from) / 864e5 / most);
  for (let at = Math.ceil((from - zone) / step) * step + zone; x(at) < width - 90; at += step) {
    box("line", x(at), x(at) + 1, 0, height);
    write(clock(at, step), x(at) + 4, 13);
  }
}
function lane(name, bars, x, y, width) {
  const ends = Array(LINES).fill(-Infinity);
  let last = -1;
  box("line", 0, width, y, 1);
  for (const {call, from, to} of bars) {
    const left = x(from), right = Math.max(left + 2, x(to));
    if (Math.abs(right - last) < 0.5 && call.outcome === "ok") continue;
    const free = ends.findIndex(end => end <= from), row = free < 0 ? LINES - 1 : free;
    [ends[row], last] = [to, right];
    box(call.outcome, left, right, y + 3 + row * 7, 6);
    hits.push([left - 3, right + 3, y + 2 + row * 7, y + 10 + row * 7, call]);
  }
  if (name) write(name, 4, y + LANE - 4);
}
const color = name => colors[name] ??= css.getPropertyValue(`--${name}`);
function write(text, x, y) { ink.fillStyle = color("mute"); ink.fillText(text.slice(0, 60), x, y); }
function box(name, from, to, y, h) { ink.fillStyle = color(name); ink.fillRect(from, y, to - from, h); }
const hit = ({offsetX: x, offsetY: y}) => hits.findLast(
  ([from, to, top, end]) => x > from && x < to && y >= top && y <= end)?.[4];
const at = event => shown()[0] + event.offsetX / chart.clientWidth * (shown()[1] - shown()[0]);
chart.onwheel = event => {
  if (!(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey)) return;
  event.preventDefault();
  zoom((event.deltaY || event.deltaX) < 0 ? 0.7 : 1 / 0.7, at(event));
};
chart.onpointerdown = event => { dragged = event.offsetX; };
chart.onpointermove = event => {
  const call = hit(event);
  chart.title = call ? `${call.shown ?? call.tool} ${duration(call.duration_ms)} ${call.subject ?? ""}` : "";
  if (dragged === null || !event.buttons || Math.abs(event.offsetX - dragged) < 4) return;
  move((dragged - event.offsetX) / chart.clientWidth);
  dragged = event.offsetX;
};
chart.onclick = event => { const call = hit(event); if (call) when.picked(itemOf(call).key); };
chart.ondblclick = event => zoom(0.4, at(event));
chart.onkeydown = ({key}) => ({"+": () => zoom(0.5), "-": () => zoom(2), 0: () => zoom(0),
  ArrowLeft: () => move(-0.2), ArrowRight: () => move(0.2)})[key]?.();
$("zoom").onclick = ({target}) => target.dataset.zoom && zoom(+target.dataset.zoom);
matchMedia("(prefers-color-scheme: dark)").onchange = plan;
new ResizeObserver(plan).observe(chart);
