"""Make the errand that send() would hand to a format, whatever the environment says."""

import hook_io
import send_event

NOW_NS = 1795240627917193670  # 2026-11-21T05:57:07.917Z


def settings(argv=(), env=None, **given):
    """Return what stands in send_event.py's table, with *given* in its place."""
    values = {}
    for line in send_event.OPTIONS.strip().splitlines():
        name, variable, preset, _ = line.split(None, 3)
        unset = preset in ("-", "required")
        values[hook_io.CommandLine.key(name, variable)] = "" if unset else preset
    unknown = given.keys() - values.keys()
    assert not unknown, unknown
    return hook_io.Settings({**values, **given}, argv,
                            {} if env is None else env, {})


def errand(event_type="PreToolUse", source_app="my app", **given):
    """Return one errand; *given* are settings, or what an errand alone has."""
    own = {name: given.pop(name) for name in list(given)
           if name in ("agent", "summary", "effort", "name", "key", "time_ns")}
    made = hook_io.Errand(
        settings(event_type=event_type, source_app=source_app, **given), "send_event",
        0, NOW_NS, "0123456789abcdef")
    return made.like({"agent": "claude-code", **own})
