// SPDX-License-Identifier: MIT. Turns and calls as rows: as many elements as are seen, however many rows there are.
import {$, clock, count, duration, make, time} from "./text.js";

const ROW = 26, LINE = 300;  // pixels; characters
const SPARE = 6, NEAR = 40, MADE = 12;  // rows around what is seen; left above; made for a frame
const list = $("list"), rows = $("rows");
let items = [], chosen = "", follows = true, planned = 0;
let place = 0, own;  // where the list is scrolled to, also while it is hidden; the same where the page itself did that
export const when = {opened() {}, nearTop() {}};
const line = (...texts) => texts.filter(Boolean).join(" · ").slice(0, LINE).replace(/\s+/g, " ");
const OUTCOMES = {ok: "", open: "no end seen"};
const wholeOf = (turn, failed = turn.calls.filter(call => call.outcome === "error").length) =>
  [count(turn.calls.length, "call"), failed && `${failed} failed`, turn.error].filter(Boolean).join(", ");
// kind of a row -> its cells: when, what, whose, about what, outcome; how long stands behind them
const CELLS = {
  turn: turn => [clock(turn.started_ms), turn.prompt ? "prompt" : "turn", wholeOf(turn), line(turn.prompt) || "no prompt seen",
    turn.end || "goes on"],
  call: call => [time(call.started_ms, 1), call.shown ?? call.tool, call.lane && `↳ ${call.lane}`, line(call.subject, call.error),
    OUTCOMES[call.outcome] ?? call.outcome],
  wait: wait => [time(wait.started_ms, 1), "waits", "", `for a person to permit ${wait.tool}`, ""],
  gap: gap => [clock(gap.started_ms), "gap", "", `The server did not run until ${clock(gap.ended_ms)}: `
    + "events of that time are lost, or came later from a spool", ""]};
export const cells = ({kind, of}) => [...CELLS[kind](of), duration(of.duration_ms)];
const item = (kind, of, look = kind, id = of.started_ms) => ({key: `${kind} ${id}`, kind, look, at: of.started_ms, of});
export const itemOf = call => item("call", call, call.outcome, call.id || call.started_ms);

// A turn that is told anew is another object, so that its rows are made once.
function rowsOf(turn) {
  const inner = [...turn.calls.map(itemOf), ...turn.waits.map(wait => item("wait", wait))];
  return [item("turn", turn), ...inner.sort((one, other) => one.at - other.at)];
}
export function set(turns, gaps) {
  const top = Math.floor(place / ROW), held = items[top]?.key, offset = place - top * ROW;
  items = turns.flatMap(turn => turn.rows ??= rowsOf(turn));
  for (const gap of gaps) {
    items.splice(1 + items.findLastIndex(item => item.at <= gap.started_ms), 0, item("gap", gap));
  }
  $("space").style.height = `${items.length * ROW}px`;
  if (!follows && has(held)) place = list.scrollTop = indexOf(held) * ROW + offset;
  plan();
}
const indexOf = key => items.findIndex(item => item.key === key);
export const has = key => indexOf(key) >= 0;
export function choose(key, opens) {
  const at = indexOf(key);
  if (at < 0) return;
  chosen = key;
  follows = false;
  place = list.scrollTop = Math.min(at * ROW, Math.max(place, (at + 1) * ROW - list.clientHeight));
  when.opened(items[at], opens);
  plan();
}
function fill(row, item, index) {
  Object.assign(row, {id: `row-${index}`, ariaSelected: item.key === chosen, ariaPosInSet: index + 1, ariaSetSize: items.length});
  if (row.item === item) return;
  const texts = cells(item);
  Object.assign(row, {item, className: `row ${item.look}`, role: "option", ariaLabel: texts.filter(Boolean).join(", ")});
  [...row.children].forEach((cell, n) => { cell.textContent = texts[n] || ""; });
}
function render() {
  planned = 0;
  if (!list.clientHeight) return;
  list.scrollTop = follows ? items.length * ROW : place;
  if (follows) own = place = list.scrollTop;
  const first = Math.floor(list.scrollTop / ROW), begin = Math.max(0, first - SPARE);
  const all = items.slice(begin, begin + Math.ceil(list.clientHeight / ROW) + 2 * SPARE);
  const seen = all.slice(-rows.childElementCount - MADE), top = begin + all.length - seen.length;
  if (seen.length < all.length) plan();
  while (rows.childElementCount > seen.length) rows.lastChild.remove();
  while (rows.childElementCount < seen.length) rows.append(make("div", ...Array.from({length: 6}, () => make("span"))));
  [...rows.children].forEach((row, n) => fill(row, seen[n], top + n));
  rows.style.transform = `translateY(${top * ROW}px)`;
  const at = seen.findIndex(item => item.key === chosen);
  list.setAttribute("aria-activedescendant", at < 0 ? "" : `row-${top + at}`);
  if (first < NEAR && !follows) when.nearTop();
}
const plan = () => { planned ||= requestAnimationFrame(render); };
const page = () => Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
const KEYS = {ArrowDown: () => 1, ArrowUp: () => -1, PageDown: page, PageUp: () => -page(), Home: () => -1e9, End: () => 1e9};
list.onkeydown = event => {
  const at = indexOf(chosen), step = KEYS[event.key]?.();
  if (event.key === "Enter") choose(chosen, true);
  if (step) event.preventDefault();
  if (step) choose(items[Math.max(0, Math.min(items.length - 1, (at < 0 ? items.length : at) + step))]?.key, false);
};
list.onclick = ({target}) => choose(target.closest(".row")?.item.key, true);
list.onscroll = () => {
  place = list.scrollTop;
  if (place !== own) [own, follows] = [null, place + list.clientHeight > list.scrollHeight - ROW];
  plan();
};
export const followNewest = () => { follows = true; plan(); };
new ResizeObserver(plan).observe(list);
