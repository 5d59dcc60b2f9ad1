"""The build hook: cargo builds the library, and the wheel carries it beside the package.

The sources are two directories up in the repository, and in `core/` of a source distribution. What comes out needs no
Python headers and no particular interpreter, hence a py3-none wheel for this platform.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import sysconfig
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = pathlib.Path(__file__).resolve().parent
#: What cargo needs of the repository, the workspace's other members not among it.
CORE = ("Cargo.lock", "build.rs", "src", "include", "LICENSE-MIT", "LICENSE-APACHE")


def core() -> pathlib.Path:
    """Where the library's Cargo.toml is."""
    for candidate in (HERE / "core", HERE.parent.parent):
        if (candidate / "Cargo.toml").is_file():
            return candidate
    raise FileNotFoundError(f"the sources of libshellflip are neither in {HERE / 'core'} nor two directories up")


def version() -> str:
    """The library's: the two are released together."""
    match = re.search(r'^version = "(.+)"$', (core() / "Cargo.toml").read_text(), re.MULTILINE)
    if match is None:
        raise ValueError("no version in Cargo.toml")
    return match[1]


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Called by hatchling, once for each wheel and each source distribution."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the library to a wheel, the library's sources to a source distribution."""
        if self.target_name == "sdist":
            build_data["force_include"].update(self._sources())
            return
        if version == "editable":
            shutil.copy2(built(), HERE / "src" / "shellflip" / "libshellflip.so")
        else:
            build_data["force_include"][str(built())] = "shellflip/libshellflip.so"
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"

    def _sources(self) -> dict[str, str]:
        # Without the members and the tests' dependencies, which are not there.
        manifest = (core() / "Cargo.toml").read_text()
        manifest = re.sub(r"^members = .*$", "members = []", manifest, flags=re.MULTILINE)
        manifest = re.sub(r"^\[dev-dependencies\]\n(?:.+\n)*", "", manifest, flags=re.MULTILINE)
        reduced = pathlib.Path(self.directory) / "Cargo.toml.sdist"
        reduced.parent.mkdir(parents=True, exist_ok=True)
        reduced.write_text(manifest)
        return {str(reduced): "core/Cargo.toml", **{str(core() / name): f"core/{name}" for name in CORE}}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Removes what only the source distribution needed."""
        (pathlib.Path(self.directory) / "Cargo.toml.sdist").unlink(missing_ok=True)


def built() -> pathlib.Path:
    """Builds the shared library; cargo itself says where it is, since CARGO_TARGET_DIR and configuration may move
    it."""
    home = pathlib.Path(os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo"))
    cargo = shutil.which("cargo") or shutil.which("cargo", path=home / "bin")
    if cargo is None:
        raise FileNotFoundError("cargo is needed to build libshellflip: https://rustup.rs")
    command = [cargo, "rustc", "--release", "--package", "libshellflip", "--crate-type", "cdylib"]
    command += ["--message-format=json-render-diagnostics", "--", "-C", "force-frame-pointers=yes"]
    done = subprocess.run(command, cwd=core(), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"cargo build failed with status {done.returncode}; its messages are above")
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["target"]["name"] == "shellflip":
            for name in message["filenames"]:
                if name.endswith(".so"):
                    return pathlib.Path(name)
    raise RuntimeError("cargo built no shared library")
