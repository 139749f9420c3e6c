"""The page of ``e2b auth login``, as text. It runs no script and loads nothing."""

import base64
import hashlib
from html import escape

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 12vh auto 0; max-width: 30rem; padding: 0 1.5rem;
  color: #1a2b33; background: #f4f8f9 }
main { background: #fff; border: 1px solid #d5e1e5; border-radius: 10px; padding: 2rem }
h1 { font-size: 1.3rem; margin: 0 0 .75rem }
label { display: block; font-weight: 600; margin: 1.25rem 0 .35rem }
input { box-sizing: border-box; font: inherit; padding: .6rem .7rem; width: 100%; border: 1px solid #9fb4bb;
  border-radius: 6px }
button { background: #0b6e7f; border: 0; border-radius: 6px; color: #fff; cursor: pointer; font: inherit;
  font-weight: 600; margin-top: 1.25rem; padding: .6rem 1.2rem }
.problem { background: #fdecea; border-radius: 6px; color: #8c1d18; padding: .6rem .8rem }
.small { color: #51666e; font-size: .88rem; margin-bottom: 0 }
code { background: #eef4f5; border-radius: 4px; padding: .1rem .3rem }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

# Nothing but the style above; forms go here, and from here to the command line on this machine.
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; frame-ancestors 'none'; "
        "form-action 'self' http://localhost:* http://127.0.0.1:*"
    ),
    # Not "no-referrer": browsers then hide the origin that the form's receiver wants to see.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


def form(next_address: str, problem: str = "") -> str:
    """Ask for a key."""
    shown = f'<p class="problem" role="alert">{escape(problem)}</p>' if problem else ""
    return _page(
        f"""<h1>Sign in to the command line</h1>
<p>The program <code>e2b</code> on this machine wants to act for your team. Go on only if you have just
started <code>e2b auth login</code>.</p>{shown}
<form method="post" autocomplete="off"><input type="hidden" name="next" value="{escape(next_address)}">
<label for="key">API key or access token</label>
<input id="key" name="key" type="password" required autofocus maxlength="256" spellcheck="false">
<button>Sign in</button></form>
<p class="small">An access token stays here: the program gets an API key of its own, which
<code>e2b auth logout</code> revokes. An API key is handed on.</p>"""
    )


def message(title: str, text: str) -> str:
    """Say something."""
    return _page(f"<h1>{escape(title)}</h1><p>{escape(text)}</p>")


def _page(content: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Atoll</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main>{content}</main></body></html>"
    )
