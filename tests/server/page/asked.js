// SPDX-License-Identifier: MIT. What hooks wait for a person to answer, for as long as they wait.
import {$, ask, long, make} from "./text.js";

const COALESCE_MS = 50, REST_MS = 400, POLL_MS = 1000, shown = new Map();
let timer, due = Infinity, last = 0;
const send = (path, value) => ask(path, {}, {method: "POST", body: JSON.stringify(value)});
function asking(one) {
  const title = `${one.tool_name || one.event_type} in ${one.source_app}`, said = make("span");
  const why = Object.assign(make("input"), {ariaLabel: `Why: ${title}`, placeholder: "why", maxLength: 1000});
  // A hook that takes denials alone leaves what is not denied to the agent's own rules.
  const buttons = [["allow", one.limit === "full" ? "Allow" : "Do not object"], ["deny", "Deny"]].map(([intent, text]) => {
    const onclick = () => send("/answer", {id: one.id, intent, text: why.value})
      .then(() => form.remove(), error => { said.textContent = error.message; });
    return Object.assign(make(`button.${intent}`, text), {type: "button", ariaLabel: `${text}: ${title}`, onclick});
  });
  const form = make("form", make("b", `${title} waits for your answer`),
    make("div.input", long(JSON.stringify(one.tool_input, null, 1) ?? "")), ...buttons, why, said);
  return Object.assign(form, {ariaLabel: title, onsubmit: event => event.preventDefault()});
}
async function refresh() {
  [due, last] = [Infinity, Date.now()];
  const on = $("asks").checked, waiting = await (on ? send("/asked", {}) : ask("/asked")).catch(() => []);
  for (const [id, form] of shown) if (!waiting.some(one => one.id === id)) { form.remove(); shown.delete(id); }
  for (const one of waiting) if (!shown.has(one.id)) { shown.set(one.id, asking(one)); $("asked").append(shown.get(one.id)); }
  if (on || waiting.length) soon(POLL_MS);
}

// The earliest time that anybody wants counts.
export function soon(in_ms = Math.max(COALESCE_MS, last + REST_MS - Date.now())) {
  if (Date.now() + in_ms >= due) return;
  clearTimeout(timer);
  due = Date.now() + in_ms;
  timer = setTimeout(refresh, in_ms);
}
$("asks").onchange = () => soon(0);
