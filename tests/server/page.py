# SPDX-License-Identifier: MIT
"""The page to look at events, and what it may do."""

import base64
import hashlib
import os
import re

from .contract import PRIVATE, Refused

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page.html")
#: what the page may do, beside running its own script and style
POLICY = ("default-src 'none'", "connect-src 'self'", "img-src data:",
          "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'")


def source_hash(page, tag):
    """Return what a policy calls the text of *tag* in *page*."""
    text = re.search(f"<{tag}>(.*?)</{tag}>", page, re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"{tag}-src 'sha256-{digest}'"


def get_page(exchange, server):
    try:
        with open(PAGE, encoding="utf-8") as file:
            page = file.read()
    except OSError:
        raise Refused(404, f"Invalid path: {PAGE} cannot be read") from None
    policy = [*POLICY, source_hash(page, "script"), source_hash(page, "style")]
    return {"status": 200, "body": page, "headers": {
        **PRIVATE, "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "; ".join(policy)}}
