// SPDX-License-Identifier: MIT
// What hooks wait for a person to answer, for as long as they wait.
import {$, ask, make} from "./text.js";

const COALESCE_MS = 50, POLL_MS = 1000;
const shown = new Map();
let timer, due = Infinity;

async function send(path, value) {
  const got = await fetch(path, {method: "POST", body: JSON.stringify(value)});
  if (!got.ok) throw new Error((await got.json()).message);
  return got.status === 204 ? null : got.json();
}

function asking(one) {
  const why = make("input"), said = make("span"), title = `${one.tool_name || one.event_type} in ${one.source_app}`;
  const form = make("form", make("b", `${title} waits for your answer`), make("pre", JSON.stringify(one.tool_input, null, 1)));
  // A hook that takes denials alone leaves what is not denied to the agent's own rules.
  for (const [intent, text] of [["allow", one.limit === "full" ? "Allow" : "Do not object"], ["deny", "Deny"]]) {
    const button = Object.assign(make("button", text), {type: "button", ariaLabel: `${text}: ${title}`});
    button.onclick = () => send("/answer", {id: one.id, intent, text: why.value}).then(() => form.remove(), error => { said.textContent = error.message; });
    form.append(button);
  }
  Object.assign(why, {ariaLabel: `Why: ${title}`, placeholder: "why", maxLength: 1000});
  form.onsubmit = event => event.preventDefault();
  form.append(why, said);
  return Object.assign(form, {ariaLabel: title});
}

async function refresh() {
  due = Infinity;
  const on = $("asks").checked, waiting = await (on ? send("/asked", {}) : ask("/asked")).catch(() => []);
  for (const [id, form] of shown) if (!waiting.some(one => one.id === id)) { form.remove(); shown.delete(id); }
  for (const one of waiting) if (!shown.has(one.id)) { shown.set(one.id, asking(one)); $("asked").append(shown.get(one.id)); }
  if (on || waiting.length) soon(POLL_MS);
}

// The earliest time that anybody wants counts.
export function soon(in_ms = COALESCE_MS) {
  if (Date.now() + in_ms >= due) return;
  clearTimeout(timer);
  due = Date.now() + in_ms;
  timer = setTimeout(refresh, in_ms);
}

$("asks").onchange = () => soon(0);
