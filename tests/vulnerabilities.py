"""`python -m tests.vulnerabilities`: known vulnerabilities of the pinned packages, where the registry answers that question."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parent.parent / "constraints.txt"
TIMEOUT_S = 120


def main() -> int:
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "-r",
        str(LOCK),
        "--no-deps",
        "--disable-pip",
        "--timeout",
        "5",
        "-f",
        "json",
    ]
    try:
        done = subprocess.run(
            [*command, "--progress-spinner", "off"], capture_output=True, text=True, timeout=TIMEOUT_S
        )
        packages = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        print("The registry does not answer: known vulnerabilities were not looked up.")
        return 0
    known = [package for package in packages if "vulns" in package]
    print(f"Known vulnerabilities were looked up for {len(known)} of {len(packages)} pinned packages.")
    bad = [(package["name"], package["version"], vuln) for package in known for vuln in package["vulns"]]
    for name, version, vuln in bad:
        print(f"{name} {version}: {vuln['id']}, mended in {', '.join(vuln['fix_versions']) or 'no release yet'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
