#!/bin/sh
# SPDX-License-Identifier: MIT
# Send an agent's event to a server: the contract `send_event 1.1`, as far as conformance.json says.
case ${HOOK_IO_OFF-} in ''|0|false|no|off) ;; *) exit 0 ;; esac
for fd in 0 1 2; do eval "(: 9<&$fd) 2>/dev/null || exec $fd<>/dev/null"; done # or a file gets that number
umask 077; export LC_ALL=C; say() { (trap '' PIPE; printf '%s\n' "$@") >&2 2>/dev/null; } # in C ${#body} is bytes
mistake() { say "[ERROR] send_event.sh: $(printf %.80s "$1" | tr -c '[:print:]' ' ')"; exit 2; }
while [ $# -gt 0 ]; do # the value of --some-option goes to the variable given_SOME_OPTION
  name=${1%%=*} value=${1#*=}
  case $1 in --*=*|--summarize) ;; *) case ${2---} in --*) value='' ;; *) value=$2; shift ;; esac ;; esac
  case $name in --version) echo 0.1.0; exit ;;
    --source-app|--event-type|--session-id|--metadata|--server-url|--timeout-ms|--fail-loud|--format|--summarize)
      export "given_$(echo "${name#--}" | tr a-z- A-Z_)=$value"; shift ;;
    *) mistake "unrecognized argument: $name" ;; esac
done
[ "${given_SOURCE_APP-}" ] && [ "${given_EVENT_TYPE-}" ] || mistake 'required: --source-app and --event-type'
plan() { jq -rs ' # of the event on stdin: what to do with it, as assignments to shell variables
  def option($name; $base): [env["given_" + $name, "HOOK_IO_" + $name], $base] | map(select((. // "") != ""))[0];
  def redact: if type == "array" then map(redact)
    elif type == "object" then with_entries(.value = if (.value | IN(null, true, false, 0, "", [], {}) | not)
        and (.key | ascii_downcase | gsub("[-_. ]"; "") | test("^(auth|bearer|jwt|pwd|xauth)[0-9]*$|
        (password|passwd|passphrase|secrets?|token|authorization|cookies?|credentials?|connectionstring|
        (api|access|account|private|secret|signing|encryption|shared|master)key)[0-9]*$"; "x"))
      then "[redacted]" else .value | redact end)
    elif type == "string" and test("^\\s*[\\[{]") then . as $text | (try fromjson catch null) as $value
      | ($value | redact) as $safe | if $safe == $value then $text else $safe | tojson end else . end;
  def summary($kind): "\(.cwd)/" as $folder | [.tool_name, (first(.tool_input | objects["command", "file_path",
      "path", "pattern", "url", "query", "description"] | strings) | ltrimstr($folder))] as $tool
    | if $kind == "UserPromptSubmit" and (.prompt | type) == "string" then ["prompt", .prompt] else $tool end
    | [map(strings) | join(": ")[:999] | splits("\\s+") | select(. != "")] | join(" ")
    | if . == "" then "\($kind) event" elif length > 200 then .[:199] + "…" else . end;
  def refusal: if test("[^!-~]|[\\\\#]|^[^/]*//[^/?]*@") or (test("^https?://"; "i") | not)
      then "the URL must begin with http:// or https:// and have no user info, blanks, # and \\"
    elif test("^(https://([a-z0-9-]+\\.)+[a-z]+|https?://(localhost|\\[::1]|(127\\.\\d+|10\\.\\d+|192\\.168
        |172\\.(1[6-9]|2\\d|3[01]))\\.\\d+\\.\\d+))(:[1-9]\\d{0,4})?([/?]|$)"; "ix") then ""
    else "plain http to a public address: use https, or set HOOK_IO_ALLOW_HTTP=1" end;
  if length > 1 or any(.[]; type != "object") or any(.. | numbers; isnan or isinfinite) then error("") else . end
  | (if option("FIELDS"; null) then {} else .[0] // {} end) as $event # for no part of it can be picked here
  | env as {given_SOURCE_APP: $source_app, given_EVENT_TYPE: $event_type}
  | option("SERVER_URL"; "http://localhost:4000/events") as $url | option("SESSION_ID"; $event.session_id) as $session
  | ($url | sub("([?#]|[^!-~])(.|\n)*"; "") | sub("//.*@"; "//")) as $shown
  | ([option("TIMEOUT_MS"; "100") | select(test("^[1-9][0-9]{0,4}$"))][0] // "100") as $ms
  | {$url, $shown, refusal: ($url | refusal), $ms, seconds: ($ms | tonumber / 1000),
     file: ([env.HOOK_IO_STATE_DIR, "\(env.XDG_STATE_HOME)/hook-io", "\(env.HOME)/.local/state/hook-io"]
      | map(strings | select(startswith("/")))[0] + "/send_event." + ($shown | gsub("[^A-Za-z0-9.-]"; "_") | .[:80])),
     session: ($session // "-" | tostring | gsub("[^A-Za-z0-9.-]"; "_") | .[:80]),
     heard: (option("FAIL_LOUD"; "hint") == "hint" and env.HOOK_IO_PLATFORM != "raw" and ("\($event.hook_event_name)"
       | test("^(PreToolUse|PostToolUse|PostToolUseFailure|PostToolBatch|UserPromptSubmit|SessionStart|Stop)$"))),
     body: ($event | redact | {$source_app, $event_type, tool_name, session_id: $session, metadata:
           (option("METADATA"; if . == {} then null else tojson end) | redact), summary: summary($event_type),
         timestamp: (now | strftime("%Y-%m-%dT%H:%M:%S.") + (. * 1000 % 1000 + 1000 | tostring)[1:] + "Z")}
       | with_entries(select(.value | type == "string" and . != "")) | tojson)}
  | to_entries[] | "\(.key)=\(.value | tostring | @sh)"' 2>/dev/null; }
event=$([ -t 0 ] || timeout 5 cat | tr -d '\000')
todo=$(printf %s "$event" | plan || # some versions of jq take no half of a surrogate pair
    printf %s "$event" | sed 's/\\u[dD][89a-fA-F][0-9a-fA-F]\{2\}/?/g' | plan) || {
  said=$(printf %s "$event" | sed 's/[^A-Za-z -].*//;q' | cut -c 1-80); say "[WARNING] No event on stdin: $said"
  todo=$(echo "{\"input_error\": \"no event: $said\"}" | plan); }; eval "$todo"
lose() { # OUTCOME FACT EFFECT
  say "[ERROR] Failed to send event to observability-server: $2 ($shown)" "[WARNING] Observability server $3"
  line=$(printf '%s %-19.19s %-11.11s %-10.10s' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$given_EVENT_TYPE" "$1" "$session")
  if { [ -L "${file%/*}" ] || [ -L "$file" ] || ! mkdir -p "${file%/*}" || ! echo "$line" >>"$file"; } 2>/dev/null; then
    say "[WARNING] Losses are not counted: ${file%/*} cannot be written"
  elif [ "$heard" = true ] && [ $(($(wc -c <"$file") / 64)) -ge "${HOOK_IO_FAIL_LOUD_THRESHOLD:-3}" ] 2>/dev/null &&
      since=$(head -c 20 "$file" | tr -dc 0-9TZ:-) && (set -C; : >"$file.told.$since.$session") 2>/dev/null; then
    printf '%s\n' "hook-io: $(($(wc -c <"$file") / 64)) events in a row did not reach $shown since $since ($2). Your \
work is not blocked. Start the server, set HOOK_IO_SERVER_URL, or HOOK_IO_OFF=1 ($file)" | jq -Rc '{systemMessage: .}'
  fi; exit 0; }
[ -z "$refusal" ] || lose invalid "$refusal" 'not asked, event discarded'
answer=$(printf %s "$body" | curl -qsg --noproxy '*' --proto =http,https --path-as-is --max-time "$seconds" \
  -H 'Content-Type: application/json' -H Expect: -H 'Connection: close' --data-binary @- -o /dev/null \
  -w '%{http_code}:%{exitcode}:%{size_upload}' "$url")
case $answer in
  2*) rm -f "$file" "$file".told.* 2>/dev/null; exit 0 ;;
  [3-9]*|101*) lose rejected "HTTP ${answer%%:*}" 'did not take it, event discarded' ;;
  *:28:${#body}) lose unconfirmed "no answer within $ms ms" 'too slow, event may be lost' ;;
  *:28:*) lose timed_out "not sent within $ms ms" 'out of reach, event discarded' ;;
  *:7:*) lose refused 'connection refused' 'not running, event discarded' ;;
  *) lose refused 'no answer in HTTP' 'not available, event discarded' ;;
esac
