"""Find a Chromium for the browser tests, or install one.

    python -m tests.browser.install

As root on Debian or Ubuntu, it installs the distribution's package, otherwise Playwright's browser.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> str | None:
    """Return the path of a browser: on the PATH, or Playwright's own, or None."""
    for name in NAMES:
        if result := shutil.which(name):
            return result
    return playwrights_own()


def playwrights_own() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if path and Path(path).exists() else None


def install() -> None:
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("Installing Chromium with apt-get …", flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], env=environment, check=True)
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"],
            env=environment, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    else:
        print("Installing Chromium with playwright …", flush=True)
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=True)


def main() -> int:
    try:
        if not find_browser():
            install()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"Chromium could not be installed: {error}.", file=sys.stderr)
    if result := find_browser():
        print(f"The browser tests use {result}.")
        return 0
    print(
        "No Chromium was found, and the browser tests need one. Install the package `chromium`, or "
        "put a Chromium or Chrome on the PATH.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
