"""Known vulnerabilities of the pinned packages, by pip-audit. Fails when there is one; says how many could not be looked up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PINS = Path(__file__).parents[1] / "constraints.txt"


def main() -> int:
    # The pins are whole, so that nothing need be resolved or installed.
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(PINS), "--no-deps", "--disable-pip"]
    done = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        # Without a service there is nothing to fail for; the next run that has one tells.
        print(f"audit: nothing was looked up: {(done.stderr.strip().splitlines() or ['no answer'])[-1]}")
        return 0
    skipped = sum("skip_reason" in package for package in packages)
    found = [(package, problem) for package in packages for problem in package.get("vulns", [])]
    for package, problem in found:
        mended = ", ".join(problem["fix_versions"]) or "no version yet"
        print(f"audit: {package['name']} {package['version']}: {problem['id']}, mended in {mended}")
    print(f"audit: {len(packages) - skipped} of {len(packages)} packages looked up, {len(found)} known vulnerabilities")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
