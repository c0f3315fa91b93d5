# SPDX-License-Identifier: MIT
"""Write vectors/corpus.json: the corpora of tests/corpus, for a port's redact().

    python3 tests/contract/corpus_vectors.py

A key of a published form stands there in parts, as in the corpus itself.
"""

import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import corpora

VECTORS = HERE / "vectors" / "corpus.json"
LONGEST = 400  # of a look-alike that is worth its place here
SECRET = "Zq7Xw4Zq7Xw4Zq7Xw4Zq7Xw4"
#: id -> why, what is expected, percent at least
CASES = {
    "keys-of-published-forms": (
        "A key is known by its form, whoever gave it out, in a command that holds no"
        " other sign of it.", "hides", 95),
    "secrets-with-a-name": (
        "A secret is known by what stands before it: a variable, an option, a header,"
        " a member.", "hides", 90),
    "what-only-looks-like-one-stays": (
        "Hashes, packages, code, styles and prose about passwords are what events are"
        " read for.", "keeps", 95),
}


def in_parts(template):
    """Return *template* with the runner's placeholders in the place of the corpus's."""
    def parts(match):
        times, rest = divmod(int(match[2]), len(match[1]))
        return f"${{{match[1]}*{times}}}{match[1][:rest]}" if times else match[1][:rest]
    return re.sub(r"<([^<>\n#]+?)\*(\d+)>", parts, template)


def texts():
    """Return {id: list of (text, secret in it or "")}."""
    found, alike = corpora.load("secrets"), corpora.load("lookalikes")
    keys = [in_parts(key) for key in found["keyed"].values() if "#" not in key]
    stay = [corpora.expand(text) for kind in (
        "commit hashes", "uuids and ids", "packages", "prose", "code",
        "css and minified", "logs") for text in alike[kind] if isinstance(text, str)]
    return {
        "keys-of-published-forms": [
            (f"cd app && deploy --target prod {key} && echo done", key)
            for key in keys],
        "secrets-with-a-name": [
            (row.replace("{}", SECRET), SECRET)
            for row in found["named"] if "<" not in row],
        "what-only-looks-like-one-stays": [
            (text.replace("${", "${$*1}{"), "") for text in stay
            if len(text) <= LONGEST],
    }


def case(name, pairs):
    why, kind, percent = CASES[name]
    more = {"secrets": [secret for _, secret in pairs]} if kind == "hides" else {}
    return {"id": f"corpus/{name}", "why": why, "spec": "README.md#what-is-sent",
            "level": "MUST", "needs": ["redact-values"], "call": "redact",
            "args": [[{"content": text} for text, _ in pairs]],
            "expect": {kind: {"least_percent": percent, **more}}}


def written():
    """Return the file as it is to be."""
    cases = [case(name, pairs) for name, pairs in texts().items()]
    return json.dumps({"contract": "functions 1.0", "topic": "corpus", "cases": cases},
                      indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    VECTORS.write_text(written(), encoding="utf-8")
