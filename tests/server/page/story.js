// SPDX-License-Identifier: MIT. The turns of a session, told in parts: the newest, earlier ones, what is new.
const isUnended = (one, late) => !one.id && one.outcome === "open" && one.tool === late.tool && one.agent_id === late.agent_id;

// The part with the end of a call does not know when it began.
function joinedCall(early, late) {
  const {first_id} = early, started_ms = Math.min(early.started_ms, late.started_ms);
  const whole = {...early, ...late, first_id, started_ms, duration_ms: late.duration_ms || late.ended_ms - started_ms};
  return late.outcome === "open" ? early : whole;
}
function joinedTurn(early, late) {
  const calls = [...early.calls], places = new Map(calls.map((call, n) => [call.id, n]));
  for (const call of late.calls) {
    const at = call.id ? places.get(call.id) ?? -1 : calls.findIndex(one => isUnended(one, call));
    calls[at < 0 ? calls.length : at] = at < 0 ? call : joinedCall(calls[at], call);
  }
  const wentOn_ms = (late.calls[0] ?? late).started_ms, ended_ms = late.ended_ms ?? early.ended_ms;
  const waits = early.waits.map(wait => wait.ended_ms ? wait :
    {...wait, ended_ms: wentOn_ms, duration_ms: Math.max(0, wentOn_ms - wait.started_ms)});
  const made = {rows: undefined, bars: undefined, last_ms: undefined};  // what was made of the turn before
  return {...early, ...made, calls, waits: [...waits, ...late.waits], end: late.end || early.end, error: late.error || early.error,
    model: late.model || early.model, ended_ms, duration_ms: ended_ms && ended_ms - early.started_ms};
}

// A turn without its prompt goes on in the one before, as in the story of all events.
const goesOn = (early, late) => early.started_ms === late.started_ms || (late.prompt_ms === null &&
  (!late.prompt_id || late.prompt_id === early.prompt_id) && !(early.end && early.prompt_ms === null));
function put(turns, fresh) {
  const all = [...turns];
  for (const turn of fresh) {
    const at = all.findLastIndex(one => one.started_ms <= turn.started_ms);
    if (at >= 0 && goesOn(all[at], turn)) all[at] = joinedTurn(all[at], turn);
    else all.splice(at + 1, 0, turn);
  }
  return all;
}
function turnsOf({ids: [first_id, last_id], turns}) {
  for (const {calls} of turns) for (const call of calls) Object.assign(call, {first_id, last_id});
  return turns;
}
export const begin = told => ({session: told.session_id, earlier: told.earlier, events: told.events ?? 0,
  newest: told.ids?.[1] ?? 0, turns: told.ids ? turnsOf(told) : []});

export const goOn = (story, told) => !told.ids ? story : {...story, newest: told.ids[1],
  turns: put(story.turns.filter(turn => turn.started_ms < told.from_ms), turnsOf(told))};
export const goBack = (story, told) => ({...story, earlier: told.earlier, events: story.events + (told.events ?? 0),
  turns: told.ids ? put(turnsOf(told), story.turns) : story.turns});
