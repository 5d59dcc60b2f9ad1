"""However a server was started, its successor is the same command, and runs the program as it is then."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import venv
from collections.abc import Callable

import pytest

import kit
import shellflip

APP = textwrap.dedent("""
    import json, os, signal, subprocess, sys, time
    from shellflip import Flip

    VERSION = 1

    def main():
        with Flip() as flip:
            listener = flip.listen(os.environ["ADDRESS"])
            flip.ready()
            while client := flip.accept(listener):
                with client:
                    about = {
                        "pid": os.getpid(), "version": VERSION, "generation": flip.generation,
                        "orig_argv": sys.orig_argv[1:], "argv": sys.argv, "prefix": sys.prefix,
                        "dev": sys.flags.dev_mode, "utf8": sys.flags.utf8_mode,
                        "environ": sorted(os.environ), "cwd": os.getcwd(),
                    }
                    if "CHILD" in os.environ:
                        about["child"] = subprocess.run(
                            [sys.executable, "-c", "import os; print(*os.environ)"], env=dict(os.environ),
                            capture_output=True, text=True).stdout.split()
                    body = json.dumps(about).encode()
                    client.recv(4096)
                    client.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
            listener.close()
            flip.drain()

    if __name__ == "__main__":
        main()
""")


@pytest.fixture
def app(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


def console_script(app: pathlib.Path) -> list[str | pathlib.Path]:
    # As pip writes it: the interpreter by its path, the function from the package.
    script = app.parent / "bin" / "server"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom app import main\nsys.exit(main())\n")
    script.chmod(0o755)
    return [script, "--port", "1"]


def in_a_venv(app: pathlib.Path) -> list[str | pathlib.Path]:
    directory = app.parent / "venv"
    venv.create(directory, symlinks=True)
    site = next(directory.glob("lib/python*/site-packages"))
    (site / "shellflip.pth").write_text(str(pathlib.Path(shellflip.__file__).parent.parent))
    return [directory / "bin" / "python", "app.py"]


WAYS: dict[str, Callable[[pathlib.Path], list[str | pathlib.Path]]] = {
    "python app.py": lambda app: [sys.executable, "app.py", "a b", "--c"],
    "absolute path": lambda app: [sys.executable, app],
    "python -m app": lambda app: [sys.executable, "-m", "app", "x"],
    "-X and -W options": lambda app: [sys.executable, "-X", "dev", "-X", "utf8", "-W", "error", "app.py"],
    "-c": lambda app: [sys.executable, "-c", "import app; app.main()", "y"],
    "console script": console_script,
    "venv": in_a_venv,
    "through PATH": lambda app: ["python3", "app.py"],
}
ALIKE = ("orig_argv", "argv", "prefix", "dev", "utf8", "cwd")


@pytest.mark.parametrize("way", WAYS)
def test_the_successor_is_the_same_command(way: str, family: kit.Family, tcp: str, app: pathlib.Path) -> None:
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {"ADDRESS": tcp, "PYTHONPATH": str(app.parent), "PATH": path}
    family.start(WAYS[way](app), env)
    serving = family.serving(tcp)
    first = kit.ask(tcp)
    for generation in (1, 2):
        serving = family.upgrade(tcp, serving)
        later = kit.ask(tcp)
        assert later["generation"] == generation
        assert {key: later[key] for key in ALIKE} == {key: first[key] for key in ALIKE}
        assert later["environ"] == first["environ"]
    family.stop(serving)


def test_an_edited_program_takes_effect(family: kit.Family, tcp: str, app: pathlib.Path) -> None:
    family.python("app.py", env={"ADDRESS": tcp})
    serving = family.serving(tcp)
    for version in (2, 3):
        app.write_text(APP.replace("VERSION = 1", f"VERSION = {version}"))
        serving = family.upgrade(tcp, serving)
        assert kit.ask(tcp)["version"] == version
    app.write_text("this is no program")
    os.kill(serving, signal.SIGUSR1)
    kit.wait_for("the failure is logged", lambda: "upgrade failed" in family.log())
    assert kit.ask(tcp)["version"] == 3, "the old one serves on"
    assert "SyntaxError" in family.log()
    os.kill(serving, signal.SIGTERM)
    assert family.status(serving) == 0


def test_the_variables_of_one_process_reach_no_child(family: kit.Family, tcp: str, app: pathlib.Path) -> None:
    family.python("app.py", env={"ADDRESS": tcp, "CHILD": "1"})
    serving = family.upgrade(tcp, family.serving(tcp))
    about = kit.ask(tcp)
    assert about["generation"] == 1
    for environment in (about["environ"], about["child"]):
        assert "ADDRESS" in environment
        assert not [name for name in environment if name.startswith(("LISTEN_", "SHELLFLIP_CHANNEL"))]
    family.stop(serving)


def test_sockets_of_systemd_are_inherited_and_its_variables_go(
    family: kit.Family, tcp: str, app: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    # What systemd does for a .socket unit, with the pid filled in by the shell that becomes the program.
    port = int(tcp.rpartition(":")[2])
    starter = tmp_path / "starter.py"
    starter.write_text(
        "import os, socket, sys\n"
        "s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "if s.fileno() != 3: os.dup2(s.fileno(), 3)\n"
        "os.set_inheritable(3, True)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='web')\n"
        "os.execv(sys.executable, [sys.executable, 'app.py'])\n"
    )
    family.python(starter, str(port), env={"ADDRESS": f"{tcp}?name=web", "CHILD": "1"}, strict=False)
    serving = family.serving(tcp)
    for _ in range(2):
        about = kit.ask(tcp)
        assert not [name for name in about["environ"] + about["child"] if name.startswith("LISTEN_")]
        serving = family.upgrade(tcp, serving)
    family.stop(serving)


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--drain-timeout", "-1", "0 or more, not -1"),
        ("--upgrade-timeout", "nan", "0 or more, not nan"),
        ("--idle-grace", "-1", "0 or more, not -1"),
        ("--drain-timeout", "soon", "invalid seconds value"),
        ("--upgrade-timeout", "0", "between 1 ms and a year"),
        ("--threads", "0", "1 or more, not 0"),
        ("--control-socket", "nowhere", "an address begins with"),
        ("--bind", "nowhere", "an address begins with"),
    ],
)
def test_a_bad_option_is_one_sentence_and_status_2(option: str, value: str, why: str) -> None:
    command = [sys.executable, "-m", "shellflip", option, value, "no:app"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert why in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_wheel_and_nothing_else_is_needed() -> None:
    code = (
        "import shellflip, shellflip.asgi, sys; print(sorted(m for m in sys.modules if m in {'uvicorn', 'waitress'}))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
