// SPDX-License-Identifier: MIT
// How times, lengths of time and numbers are written.
const DAY = new Intl.DateTimeFormat("sv", {dateStyle: "short", timeStyle: "medium"});
export const $ = id => document.getElementById(id);

export function make(kind, text, ...children) {
  const element = document.createElement(kind);
  element.append(...[text ?? []].flat(), ...children);
  return element;
}

export function clock(ms, step = 1000) {
  if (ms === null || ms === undefined) return "";
  const text = DAY.format(ms), today = text.startsWith(DAY.format(Date.now()).slice(0, 10));
  return text.slice(today ? 11 : 5) + (step < 1000 ? (ms % 1000 / 1000).toFixed(3).slice(1) : "");
}

export function duration(ms) {
  if (ms === null || ms === undefined) return "";
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 59950) return `${(ms / 1000).toFixed(1)} s`;
  const s = Math.round(ms / 1000), two = n => String(n).padStart(2, "0");
  if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`;
  return `${Math.floor(s / 3600)} h ${two(Math.floor(s / 60) % 60)} min ${two(s % 60)} s`;
}

export const number = value => Math.round(value).toLocaleString("en");
export const money = value => `$${value.toFixed(value < 1 ? 4 : 2)}`;
export const short = id => id.length <= 12 ? id : id[14] === "7" ? `…${id.slice(-7)}` : id.slice(0, 8);
export const total = (usage, kind) => Object.values(usage).reduce((sum, kinds) => sum + (kinds[kind] || 0), 0);

export async function ask(path, parameters = {}) {
  const got = await fetch(`${path}?${new URLSearchParams(parameters)}`);
  if (!got.ok) throw new Error((await got.json()).message);
  return got.json();
}
