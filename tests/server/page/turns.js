// SPDX-License-Identifier: MIT
// Turns and calls as rows: as many elements as are seen, however many rows there are.
import {$, clock, duration, make} from "./text.js";

const ROW = 26, SPARE = 6;  // pixels; rows above and below what is seen
const list = $("list"), rows = $("rows");
let items = [], chosen = "", follows = true, planned = 0, open = () => {};

const count = (n, word) => n ? `${n} ${word}${n === 1 ? "" : "s"}` : "";
const line = text => (text || "").replace(/\s+/g, " ");

function turnRow(turn) {
  const {calls, error: failed} = turn.counts;
  const said = [count(calls, "call"), failed ? `${failed} failed` : "", turn.error].filter(Boolean).join(", ");
  return {key: `turn ${turn.started_ms}`, kind: "turn", at: turn.started_ms, turn,
    cells: [clock(turn.started_ms), turn.prompt ? "prompt" : "turn", said, line(turn.prompt) || "no prompt seen",
      turn.end || "goes on", duration(turn.duration_ms)]};
}

function callRow(call) {
  const lane = call.lane && `↳ ${call.lane}`;
  return {key: `call ${call.id}`, kind: call.outcome, at: call.started_ms ?? call.ended_ms, call,
    cells: [clock(call.started_ms ?? call.ended_ms, 1), call.tool, lane, line([call.subject, call.error].filter(Boolean).join(" · ")),
      {ok: "", open: "no end seen"}[call.outcome] ?? call.outcome, duration(call.duration_ms)]};
}

const waitRow = wait => ({key: `wait ${wait.started_ms}`, kind: "wait", at: wait.started_ms, wait, cells: [
  clock(wait.started_ms, 1), "waits", "", `for a person to permit ${wait.tool}`, "", duration(wait.duration_ms)]});
const gapRow = gap => ({key: `gap ${gap.from}`, kind: "gap", at: gap.from, gap, cells: [clock(gap.from), "gap", "",
  `The server did not run until ${clock(gap.to)}: events of that time are lost`, "", duration(gap.to - gap.from)]});

export function set(turns, gaps) {
  items = turns.flatMap(turn => [turnRow(turn), ...[...turn.calls.map(callRow), ...turn.waits.map(waitRow)]
    .sort((one, other) => one.at - other.at)]);
  for (const gap of gaps) {
    const at = items.findIndex(item => item.at > gap.from);
    items.splice(at < 0 ? items.length : at, 0, gapRow(gap));
  }
  $("space").style.height = `${items.length * ROW}px`;
  plan();
}

export const find = key => items.find(item => item.key === key);
export const onOpen = action => { open = action; };
export function choose(key, opens) {
  chosen = key;
  const at = items.findIndex(item => item.key === key);
  if (at < 0) return;
  follows = false;
  list.scrollTop = Math.min(at * ROW, Math.max(list.scrollTop, (at + 1) * ROW - list.clientHeight));
  open(items[at], opens);
  plan();
}

export function anchored(change) {
  const top = Math.floor(list.scrollTop / ROW), held = items[top]?.key, offset = list.scrollTop - top * ROW;
  change();
  const now = items.findIndex(item => item.key === held);
  if (!follows && now >= 0) list.scrollTop = now * ROW + offset;
}

function fill(row, item, index) {
  row.className = `row ${item.kind}`;
  Object.assign(row, {role: "option", id: `row-${index}`, ariaSelected: item.key === chosen,
    ariaPosInSet: index + 1, ariaSetSize: items.length});
  [...row.children].forEach((cell, n) => { cell.textContent = item.cells[n] || ""; });
  row.setAttribute("aria-label", item.cells.filter(Boolean).join(", "));
}

function render() {
  planned = 0;
  if (follows) list.scrollTop = items.length * ROW;
  const top = Math.max(0, Math.floor(list.scrollTop / ROW) - SPARE);
  const seen = items.slice(top, top + Math.ceil(list.clientHeight / ROW) + 2 * SPARE);
  while (rows.childElementCount > seen.length) rows.lastChild.remove();
  while (rows.childElementCount < seen.length) rows.append(make("div", null, ...Array.from({length: 6}, () => make("span"))));
  [...rows.children].forEach((row, n) => fill(row, seen[n], top + n));
  rows.style.transform = `translateY(${top * ROW}px)`;
  const at = seen.findIndex(item => item.key === chosen);
  list.setAttribute("aria-activedescendant", at < 0 ? "" : `row-${top + at}`);
}

const plan = () => { planned ||= requestAnimationFrame(render); };
const page = () => Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
const KEYS = {ArrowDown: () => 1, ArrowUp: () => -1, PageDown: page, PageUp: () => -page(), Home: () => -1e9, End: () => 1e9};

list.onkeydown = event => {
  const at = items.findIndex(item => item.key === chosen), step = KEYS[event.key]?.();
  if (event.key === "Enter" && at >= 0) choose(chosen, true);
  if (!step) return;
  event.preventDefault();
  choose(items[Math.max(0, Math.min(items.length - 1, (at < 0 ? items.length : at) + step))]?.key, false);
};
list.onclick = event => {
  const at = Math.floor((event.clientY - list.getBoundingClientRect().top + list.scrollTop) / ROW);
  if (items[at]) choose(items[at].key, true);
};
list.onscroll = () => { follows = list.scrollTop + list.clientHeight > list.scrollHeight - ROW; plan(); };
export const followNewest = () => { follows = true; plan(); };
new ResizeObserver(plan).observe(list);
