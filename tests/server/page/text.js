// SPDX-License-Identifier: MIT. How elements are made; how times, lengths of time and numbers are written.
const CHUNK = 20000, UNSEEN_MS = 200;  // characters of a text that are laid out at once; a tab that is not seen paints nothing
export const $ = id => document.getElementById(id);

// make("div.mute.wide", text or element, ...); what is null or undefined is left out.
export function make(kind, ...children) {
  const [name, ...classes] = kind.split("."), element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  element.append(...children.filter(child => (child ?? null) !== null));
  return element;
}
export function long(text, from = 0) {
  const end = from + CHUNK, pre = make("pre", text.slice(from, end));
  if (text.length <= end) return pre;
  const more = make("button", `${number(text.length - end)} more characters`);
  return make("div", pre, Object.assign(more, {onclick: () => more.replaceWith(long(text, end))}));
}
export const painted = () => new Promise(done => { requestAnimationFrame(() => setTimeout(done)); setTimeout(done, UNSEEN_MS); });
export const facts = pairs => pairs.filter(([, text]) => text).map(([name, text]) => make("div", make("dt", name), make("dd", text)));
const isTime = Number.isFinite, local = ms => new Date(ms - new Date(ms).getTimezoneOffset() * 6e4).toISOString();
export const time = (ms, step = 1000) => isTime(ms) ? local(ms).slice(11, step < 1000 ? 23 : 19) : "";
export function clock(ms, step) {
  const isToday = isTime(ms) && local(ms).slice(0, 10) === local(Date.now()).slice(0, 10);
  return isTime(ms) && !isToday ? `${local(ms).slice(5, 10)} ${time(ms, step)}` : time(ms, step);
}
export function duration(ms) {
  if (!isTime(ms)) return "";
  if (ms < 59950) return ms < 999.5 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
  const s = Math.round(ms / 1000), two = n => String(Math.floor(n) % 60).padStart(2, "0");
  return s < 3600 ? `${Math.floor(s / 60)} min ${two(s)} s` : `${Math.floor(s / 3600)} h ${two(s / 60)} min ${two(s)} s`;
}

// The first use of Intl costs a tenth of a second.
export const number = value => String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, ",");
export const money = value => `$${value.toFixed(value < 1 ? 4 : 2)}`;
export const count = (n, word) => `${number(n)} ${word}${n === 1 ? "" : "s"}`;
export const short = id => id.length <= 12 ? id : id[14] === "7" ? `…${id.slice(-7)}` : id.slice(0, 8);
export async function ask(path, parameters = {}, given = {}) {
  const got = await fetch(`${path}?${new URLSearchParams(parameters)}`, given);
  if (!got.ok) throw new Error((await got.json()).message);
  return got.status === 204 ? null : got.json();
}
