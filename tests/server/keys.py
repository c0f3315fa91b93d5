# SPDX-License-Identifier: MIT
"""API keys of those who send telemetry: whose it is, without the key being kept.

A file has a line for each: `sha256:<hex of the key's digest> PROJECT ORGANISATION`, and
comments after `#`.  A key is long and random, so one plain digest is enough.
"""

import hashlib
import hmac
import ipaddress
import re
import secrets

from .contract import Refused, lines_of

LINE = re.compile(r"sha256:([0-9a-f]{64})\s+(\S+)\s+(\S+)", re.A)
#: header -> what stands before the key in it
HEADERS = {"authorization": "bearer ", "gram-key": "", "x-api-key": ""}
NOBODY = (None, None)


class Keys:
    """Who may send telemetry; *path*: the file, or None: this machine, without a key.

    Raises OSError, and ValueError for a line that is none of a key.
    """

    def __init__(self, path=None):
        self.owners = None if path is None else read_keys(path)

    def owner(self, exchange):
        """Return (project, organisation) of who sent *exchange*; raise Refused."""
        if self.owners is None:
            if exchange.peer and not ipaddress.ip_address(exchange.peer).is_loopback:
                raise Refused(401, "Invalid key: this server takes telemetry of other"
                              " machines only when it is started with --keys FILE")
            return NOBODY
        given, found = digest(presented(exchange.headers)), None
        for known, owner in self.owners.items():  # all of them, to take the same time
            if hmac.compare_digest(known, given):
                found = owner
        if not found:
            raise Refused(401, "Invalid key: must be in Authorization: Bearer KEY, as"
                          " OTEL_EXPORTER_OTLP_HEADERS sets it, and in the --keys file")
        return found


def presented(headers):
    """Return the key in *headers*, "" where there is none."""
    for name, before in HEADERS.items():
        value = headers.get(name, "")
        if value and value.lower().startswith(before):
            return value[len(before):].strip()
    return ""


def digest(key):
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def read_keys(path):
    """Return {digest: (project, organisation)} of the file; see the module."""
    owners = {}
    for number, line in enumerate(lines_of(path), 1):
        text = line.partition("#")[0].strip()
        match = LINE.fullmatch(text)
        if text and not match:
            raise ValueError(f"line {number} must be sha256:<hex> PROJECT"
                             " ORGANISATION, as --new-key prints it")
        if match:
            owners[match.group(1)] = match.group(2), match.group(3)
    return owners


def new_key(project, organisation):
    """Return a new key and the line of the file that knows it; raise ValueError."""
    key = "hio_" + secrets.token_urlsafe(32)
    line = f"sha256:{digest(key)} {project} {organisation}"
    if "#" in line or not LINE.fullmatch(line):
        raise ValueError("a project and an organisation must be a word each, without #")
    return key, line
