"""The control socket, the status and the pid file, as Python sees them."""

from __future__ import annotations

import os
import pathlib

import pytest

import kit
from shellflip import Failure, Flip, FlipError, control


def test_the_status_is_a_dictionary() -> None:
    with Flip(signals=False) as flip, flip.listen("tcp://127.0.0.1:0?name=web") as listener:
        flip.ready()
        assert listener.fileno() > 2
        status = flip.status()
        assert (status["pid"], status["generation"]) == (os.getpid(), 0)
        assert "web" in str(status["listeners"])
        for number in range(200):  # longer than the first buffer
            flip.add(f"descriptor-{number:0100}", listener)
        assert len(str(flip.status())) > 4096


def test_an_operator_asks_from_python(family: kit.Family, tcp: str, tmp_path: pathlib.Path) -> None:
    address, pid_file = f"unix://{tmp_path}/ctl", tmp_path / "pid"
    app = ["-m", "shellflip", "--bind", tcp, "--control-socket", address, "--pid-file", str(pid_file)]
    family.python(*app, "waitress_app:app", cwd=kit.RECIPES)
    first = family.serving(tcp)
    assert pid_file.read_text() == f"{first}\n"
    with kit.Load(tcp) as load:
        second = control.upgrade(address, 20 * kit.SCALE)
        assert family.status(first) == 0
    load.nothing_failed(generations=2)
    assert kit.ask(tcp)["pid"] == second
    assert control.status(address)["generation"] == 1
    kit.wait_for("the pid file is the new one's", lambda: pid_file.read_text() == f"{second}\n")
    control.stop(address, 20 * kit.SCALE)
    assert family.status(second) == 0
    assert not pid_file.exists()
    family.no_complaints()


def test_nobody_listens_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        control.status(f"unix://{tmp_path}/none", 1)
    with pytest.raises(FileNotFoundError):
        control.upgrade(f"unix://{tmp_path}/none", 1)


def test_what_the_other_process_refuses_has_its_kind(tmp_path: pathlib.Path) -> None:
    address = f"unix://{tmp_path}/ctl"
    with Flip(signals=False, control_socket=address):
        with pytest.raises(FlipError) as caught:
            control.upgrade(address, 10)
        assert caught.value.kind is Failure.NOT_READY
