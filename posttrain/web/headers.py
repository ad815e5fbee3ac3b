"""What every answer carries, so that a browser does with it nothing but show it."""

from __future__ import annotations

import base64
import hashlib
import re

_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
SECURITY_HEADERS = {
    "content-security-policy": _NOTHING,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",  # a page's address may hold its token
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_INLINE = re.compile(r"<(script|style)\b([^>]*)>(.*?)</\1\s*>", re.DOTALL | re.IGNORECASE)
_DATA = re.compile(r"\btype\s*=\s*[\"']?application/json", re.IGNORECASE)


def content_policy(html: str, connects: bool = True) -> str:
    """A Content-Security-Policy by which just the scripts and styles that stand in this page run, by their hashes.

    `html` must be ours: a script that a user or a model wrote into it would be allowed, too. Markup written in a
    script's text is not looked for; JSON blocks run nothing and need no hash. connects: the page may ask this server.
    """
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, attributes, text in _INLINE.findall(html):
        if not _DATA.search(attributes):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            hashes[kind.lower()].append(f"'sha256-{digest}'")
    allowed = [f"{kind}-src {' '.join(dict.fromkeys(found))}" for kind, found in hashes.items() if found]
    return "; ".join((_NOTHING, *allowed, "img-src data:", *(["connect-src 'self'"] if connects else [])))
