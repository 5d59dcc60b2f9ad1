"""The prototypes are the header's, and the library is found where the documentation says."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
from ctypes import POINTER, c_char, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

import pytest

import kit
from shellflip import Failure, Request, Shutdown, _ffi

HEADER = (kit.ROOT / "include" / "shellflip.h").read_text()
CODE = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)

TYPES: dict[str, Any] = {
    "void": None,
    "int": c_int,
    "unsigned int": c_uint,
    "uint64_t": c_uint64,
    "size_t": c_size_t,
    "const char*": c_char_p,
    "char*": POINTER(c_char),
    "const char*const*": c_void_p,
}
for handle in ("flip_t", "flip_config_t", "flip_event_t"):
    TYPES |= {f"{handle}*": c_void_p, f"const {handle}*": c_void_p, f"{handle}**": c_void_p}


def of(declaration: str) -> Any:
    """The ctypes type of `const char *name`, or of a result."""
    text = re.sub(r"\s+", " ", declaration.strip())
    text = re.sub(r"(?<=[\s*])[a-z_]+$", "", text) if text not in TYPES else text
    return TYPES[re.sub(r"\s*\*\s*", "*", text).strip()]


def declared() -> dict[str, tuple[Any, ...]]:
    found = {}
    for result, name, arguments in re.findall(r"^([a-z][\w\s]*?\**)(flip_\w+)\(([^)]*)\);", CODE, re.MULTILINE):
        words = [] if arguments.strip() == "void" else arguments.split(",")
        found[name] = (of(result.replace("*", " *").strip() + " "), *(of(word) for word in words))
    return found


def test_every_prototype_is_the_headers() -> None:
    header = declared()
    assert len(header) > 40
    for name, prototype in _ffi.PROTOTYPES.items():
        assert prototype == header[name], name


@pytest.mark.parametrize(
    ("prefix", "kind"), [("FLIP_FAILURE_", Failure), ("FLIP_REQUEST_", Request), ("FLIP_SHUTDOWN_", Shutdown)]
)
def test_every_enumeration_is_the_headers(prefix: str, kind: Any) -> None:
    assert {member.name: member.value for member in kind} == constants(prefix)


@pytest.mark.parametrize("prefix", ["REQUEST_", "EVENT_"])
def test_every_number_is_the_headers(prefix: str) -> None:
    numbers = {name.removeprefix(prefix): value for name, value in vars(_ffi).items() if name.startswith(prefix)}
    assert numbers
    assert numbers.items() <= constants(f"FLIP_{prefix}").items()


def constants(prefix: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(rf"#define {prefix}(\w+) (\d+)", HEADER)}


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=60 * kit.SCALE)


def test_one_variable_names_another_library(tmp_path: pathlib.Path) -> None:
    other = tmp_path / "other.so"
    shutil.copy(_ffi.library_path(), other)
    done = run("import shellflip; print(open('/proc/self/maps').read())", SHELLFLIP_LIBRARY=str(other))
    assert str(other) in done.stdout
    assert str(_ffi.BESIDE) not in done.stdout


def test_a_library_that_is_not_there_is_named(tmp_path: pathlib.Path) -> None:
    done = run("import shellflip", SHELLFLIP_LIBRARY=str(tmp_path / "none.so"))
    assert done.returncode == 1
    assert f"ImportError: cannot load {tmp_path}/none.so" in done.stderr


def test_importing_starts_no_thread() -> None:
    done = run("import os, shellflip, shellflip.asgi; print(len(os.listdir('/proc/self/task')))")
    assert done.stdout == "1\n", done.stderr
