"""The tables of redaction are data for ports: tests/contract/vectors/redaction.json.

    REDACTION=write pytest tests/test_redaction_data.py    writes the file anew
"""

import json
import os
import re

import hook_io
from conftest import VECTORS

PATH = VECTORS / "redaction.json"
#: member of the file -> its members: name there -> name of the table in hook_io.py
GROUPS = {
    "names": {
        "endings": "SECRET_ENDINGS", "tails": "NAME_TAILS", "whole": "SECRET_NAMES",
        "endings_if_random": "RANDOM_ENDINGS", "plain_endings": "PLAIN_ENDINGS",
        "in_queries": "QUERY_NAMES", "beside_a_secret": "PLAIN_NAMES",
        "pairs": "PAIRS", "schema_types": "SCHEMA_TYPES"},
    "values": {
        "plain": "PLAIN_VALUES", "plain_starts": "PLAIN_STARTS",
        "references": "REFERENCES", "of_sentences": "SENTENCE_WORDS",
        "common_pairs": "COMMON_PAIRS"},
    "between": {
        "signs": "SIGNS", "no_signs": "NO_SIGNS", "closers": "CLOSERS",
        "schemes": "SCHEMES", "setters": "SETTERS", "flags": "FLAGS",
        "headers": "HEADERS", "casts": "CASTS", "beside": "BESIDE",
        "asides": "ASIDE", "instead": "INSTEAD", "calls": "CALLS",
        "argument_starts": "ARGUMENT_STARTS"},
    "keys": {"starts": "KEY_STARTS", "marks": "KEY_MARKS",
             "id_prefixes": "ID_PREFIXES", "symbol_starts": "SYMBOL_STARTS",
             "file_endings": "FILE_ENDINGS", "base64_widths": "BASE64_WIDTHS",
             "public_starts": "PUBLIC_STARTS", "escapes": "ESCAPES"},
    "limits": {name.lower(): name for name in (
        "SECRET_MIN_CHARS", "NAME_MAX_CHARS", "NUMBER_MIN", "CRUMB_MAX_CHARS",
        "RANDOM_MIN_CHARS",
        "JUDGED_MAX_CHARS", "KEY_MIN_CHARS", "KEY_MAX_CHARS", "PREFIX_MAX_CHARS",
        "KEY_BODY_MIN_CHARS", "MEMBER_MIN_CHARS", "BEFORE_CHARS", "BEHIND_CHARS",
        "LETTERS_MIN_CHARS", "LONE_MIN_CHARS", "UUID_MAX_CHARS", "PIECES_MAX",
        "MARKED_MIN_CHARS", "VALUE_MAX_CHARS", "KEY_BLOCK_MAX_CHARS", "JOINT_CHARS",
        "LINE_CHARS", "STRING_MAX_CHARS", "CUT_MARGIN_CHARS")},
}


def plain(value):
    """Return a table as JSON has it, a set in the order of its words."""
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, tuple) else value


def regex_of(characters):
    return "[" + "".join(re.sub(r"([\\\]^-])", r"\\\1", c) for c in characters) + "]"


def built():
    """Return what the file has to hold."""
    data = {group: {name: plain(getattr(hook_io, table)) for name, table in row.items()}
            for group, row in GROUPS.items()}
    data["places"] = [{"mark": mark, "kind": kind, "least_chars": least}
                      for mark, (kind, least) in hook_io.PLACES.items()]
    data["ends"] = {
        kind: {"made_of": regex_of(kept)} if kept else {"ended_by": regex_of(ends)}
        for kind, (kept, ends) in hook_io.ENDS.items()}
    return {"contract": "redaction 1.0", "replaced_by": hook_io.REDACTED,
            "not_looked_through": hook_io.SKIPPED, **data}


def test_the_data_for_ports_are_those_of_the_library():
    if os.environ.get("REDACTION") == "write":
        text = json.dumps(built(), indent=1, ensure_ascii=False)
        PATH.write_text(re.sub(r"\n {3,}| *\n  (?=\]|\})", " ", text) + "\n")
    assert json.loads(PATH.read_text()) == built()


def test_every_regular_expression_in_them_is_one_of_re2_and_javascript():
    data = built()
    for form in (form for row in data["ends"].values() for form in row.values()):
        assert re.compile(form) and not re.search(r"\(\?|\\[1-9]|[*+?]\+", form), form


def test_every_table_of_redaction_is_among_the_data():
    held = {table for row in GROUPS.values() for table in row.values()}
    source = (VECTORS.parents[2] / "hook_io.py").read_text()
    section = source[source.index("\nREDACTED = "):source.index("\n# Cutting -")]
    tables = set(re.findall(r"^([A-Z][A-Z0-9_]+)\b(?:: .*)? = ", section, re.M))
    assert tables - held == {
        "REDACTED", "SKIPPED", "WORD", "KINDS", "PLACES", "ESCAPED",
        "COLOUR_MARKS", "ENDS", "KEY_BODY", "QUOTES"}


def test_the_page_says_what_each_limit_and_table_is_for():
    page = (VECTORS / "redaction.md").read_text()
    for group in ("limits", "names", "values", "between", "keys"):
        missing = [name for name in built()[group] if f"`{name}`" not in page]
        assert not missing, group
