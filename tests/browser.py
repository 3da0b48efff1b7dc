"""A page opened in an installed browser, at the width of a phone or of a desk."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any, Literal

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome is installed"
)


def opened(page: str, script: str, folder: Path, width: int, scheme: Literal["light", "dark"] = "light") -> Any:
    """What a script finds in the page: the value of its variable `result`. No error may reach the console.

    script: run at the end of the page; folder: an empty one, for the browser's own files; width: in pixels
    """
    ending = (
        f'<script>{script}\nparent.document.getElementById("result").textContent = JSON.stringify(result);</script>'
    )
    frame = folder / "frame.html"  # a browser's own window cannot be as narrow as a phone
    frame.write_text(
        f'<!doctype html><pre id="result"></pre><iframe width="{width}" height="900" style="border:0" '
        f'srcdoc="{escape(page.replace("</body>", ending + "</body>"))}"></iframe>'
    )
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--window-size=1400,1000"]
    command += [f"--blink-settings=preferredColorScheme={['dark', 'light'].index(scheme)}"]
    done = subprocess.run(
        [*command, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found
    return json.loads(unescape(found[1]))
