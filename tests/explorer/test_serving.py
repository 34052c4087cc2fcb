"""`omnisky serve` and `omnisky demo` as processes: who may look, what is refused, and that stopping leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import psutil
import pytest
import small_sky
from bokeh.client import pull_session
from card_page import until, visit

import engine
from engine import jobs
from engine.embeddings import Embeddings
from engine.model_files import SHIPPED
from engine.objects import SkyObject
from engine.store import Store
from explorer import startup
from explorer.cli import done
from explorer.desk import Desk
from explorer.startup import Work, needs_work

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "explorer.cli"]


@dataclass
class Running:
    """A started command: its process and port, the first line it printed, and the file of what it complained about."""

    process: subprocess.Popen[str]
    port: int
    said: str
    errors: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(*arguments: str | Path) -> Iterator[Running]:
    """A verb of the command line on a free port, in a group of its own as in a terminal; ended however the test ends."""
    port = free_port()
    errors = Path(tempfile.mkdtemp()) / "errors.txt"
    with errors.open("w") as complaints:
        process = subprocess.Popen([*COMMAND, *map(str, arguments), "--no-browser", "--port", str(port)], cwd=ROOT, text=True,
                                   stdout=subprocess.PIPE, stderr=complaints, start_new_session=True,
                                   env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        made = Running(process, port, said, errors)
        until(lambda: answers(made.address), 30, "an answer")
        yield made
    finally:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            child.kill()
        process.kill()
        process.wait(10)


def answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5).status_code < 500
    except httpx.HTTPError:
        return False


def refused(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and words of a command that does not start."""
    done = subprocess.run([*COMMAND, *map(str, arguments), "--no-browser"], cwd=ROOT, capture_output=True, text=True,
                          timeout=60, check=False, env={**os.environ, "COLUMNS": "300"})
    return done.returncode, done.stderr


def alive(processes: list[psutil.Process]) -> bool:
    return any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = small_sky.build(tmp_path_factory.mktemp("serving") / "small.sky", 30)
    list(jobs.map(path))  # the one of positions
    return path


def test_serve_listens_on_this_machine_only_and_ends_with_ctrl_c(folder: Path) -> None:
    with running("serve", folder) as server:
        assert f"localhost:{server.port}" in server.said
        listening = [c.laddr.ip for c in psutil.Process(server.process.pid).net_connections() if c.status == psutil.CONN_LISTEN]
        assert listening == ["127.0.0.1"]
        page = httpx.get(server.address)
        assert page.status_code == 200 and "<title>Omnisky</title>" in page.text
        for icon in ("favicon.ico", "favicon.svg"):
            assert httpx.get(f"{server.address}/{icon}").raise_for_status().headers["content-type"].startswith("image/")
        code, words = refused("serve", folder, "--port", str(server.port))
        assert code in (1, 2) and str(server.port) in words and "--port" in words and "Traceback" not in words
        assert server.family() == [], "a complete sky needs no worker"
        os.killpg(server.process.pid, signal.SIGINT)
        server.process.wait(15)


def secret_of(server: Running) -> str:
    """Where the desk's answers are, as only the page's own connection tells."""
    from explorer.app import SkyView

    assert SkyView().base == ""  # makes known what the session is made of
    session = pull_session(url=server.address)
    try:
        return str(re.search(r"sky/[\w-]+/", json.dumps(session.document.to_json(), default=str))[0])  # type: ignore[index]
    finally:
        session.close()


def test_every_start_has_another_secret(folder: Path) -> None:
    found = []
    for _ in range(2):
        with running("serve", folder) as server:
            found.append(secret_of(server))
            assert httpx.get(f"{server.address}/{found[-1]}state.json").json()["objects"] == 30
            assert httpx.get(f"{server.address}/{found[0][:-2]}/state.json").status_code == 404
    assert found[0] != found[1] and len(found[0]) > 20


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["--host", "0.0.0.0"], 2, "--login"), (["--login", "absent.json"], 2, "absent.json"), (["--port", "0"], 2, "--port")])
def test_what_would_be_unsafe_or_cannot_work_is_refused(folder: Path, arguments: list[str], code: int, words: str) -> None:
    got, said = refused("serve", folder, *arguments)
    assert got == code and words in said and "Traceback" not in said


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"ada": 3}', '{"ada": ""}', "\x00"])
def test_a_login_file_must_hold_names_and_passwords(folder: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "users.json").write_text(content)
    code, words = refused("serve", folder, "--login", tmp_path / "users.json")
    assert code == 2 and "users.json" in words and "Traceback" not in words


def test_a_folder_that_is_no_sky_is_one_sentence(tmp_path: Path) -> None:
    code, words = refused("serve", tmp_path)
    assert code == 1 and str(tmp_path) in words and "omnisky ingest" in words and "Traceback" not in words


def test_a_login_keeps_strangers_out(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "users.json").write_text(json.dumps({"ada": "secret"}))
    guarded = running("serve", folder, "--login", tmp_path / "users.json")
    with guarded as server, httpx.Client(base_url=server.address) as client:
        stranger = client.get("/", follow_redirects=True)
        assert stranger.url.path == "/login" and "sky/" not in stranger.text
        with pytest.raises(OSError, match="403"):
            secret_of(server)  # nor does the page's connection open without the page
        for password, welcome in (("wrong", False), ("secret", True)):
            client.post("/login", data={"username": "ada", "password": password})
            assert ("<title>Omnisky</title>" in client.get("/", follow_redirects=True).text) == welcome


@pytest.mark.parametrize("lost", ["embeddings", "maps/umap-spectrum", "maps/pca-image/xy.npy", "maps/sky", "index",
                                  "index/image.json"])
def test_what_a_sky_lacks_is_work(folder: Path, tmp_path: Path, lost: str) -> None:
    path = shutil.copytree(folder, tmp_path / "small.sky")
    assert not needs_work(Desk(path))
    if (path / lost).is_dir():
        shutil.rmtree(path / lost)
    else:
        (path / lost).unlink()
    assert needs_work(Desk(path))


def test_visitors_are_not_told_where_the_shipped_model_lies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the worker says of it, without one."""
    said = json.dumps({"error": f"{SHIPPED}/config.json is damaged; {folder}/maps is left as it was"})
    worker = SimpleNamespace(stdout=iter([said]), wait=lambda *_: 1, poll=lambda: 1)
    monkeypatch.setattr(startup.subprocess, "Popen", lambda *_, **__: worker)
    desk = Desk(folder)
    Work(desk, "prepare", model=None)
    until(lambda: "error" in desk.progress, 10, "the error")
    assert desk.progress["error"] == f"omnisky-demo/config.json is damaged; {folder.name}/maps is left as it was"


def test_a_newcomer_is_work_until_it_has_vectors_a_place_and_an_index(folder: Path, tmp_path: Path) -> None:
    path = shutil.copytree(folder, tmp_path / "small.sky")
    Store(path).append([SkyObject("late")], ["late"])  # the model finds nothing to read, and it has no position
    assert needs_work(Desk(path))
    for space in ("image", "spectrum"):
        Embeddings.open(path / "embeddings" / space).append(np.full((1, small_sky.DIM), np.nan))
    assert needs_work(Desk(path))
    list(jobs.index(path))
    assert needs_work(Desk(path))
    list(jobs.map(path))
    assert not needs_work(Desk(path)) and "arrival" in engine.open(path).maps


def test_a_demo_sky_of_another_model_is_not_done(tmp_path: Path) -> None:
    sky = tmp_path / "d.sky"
    list(jobs.demo(sky, 12))
    assert done(Desk(sky), 12, None) and not done(Desk(sky), 13, None)
    manifest = sky / "embeddings" / "image" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"checksum": "another"}))
    assert not done(Desk(sky), 12, None)
    list(jobs.demo(sky, 12))
    assert done(Desk(sky), 12, None)


@pytest.mark.browser
def test_demo_is_there_at_once_and_becomes_a_map_by_itself(tmp_path: Path) -> None:
    """From nothing to neighbours on one page that is never reloaded; the second start finds all done and starts no worker."""
    with running("demo", "--objects", "24", "--folder", tmp_path / "d.sky") as server:
        with visit(server.address) as seen:
            seen.page.goto(server.address)
            seen.page.wait_for_function("window.omnisky?.now")
            seen.page.evaluate("window.sameage = true")
            seen.page.wait_for_function("omnisky.answer && omnisky.map.sharp", timeout=120_000)
            seen.page.wait_for_function("omnisky.now.progress.fraction === 1", timeout=60_000)
            assert seen.page.evaluate("[window.sameage, omnisky.now.objects, omnisky.now.maps.length]") == [True, 24, 5]
            assert seen.page.locator(".neighbour").count() == 8 and seen.page.locator(".card figure").count() == 2
            assert seen.trouble == []
        until(lambda: not alive(server.family()), 20, "the worker's end")
    with running("demo", "--objects", "24", "--folder", tmp_path / "d.sky") as server, visit(server.address) as seen:
        seen.page.goto(server.address)
        seen.page.wait_for_function("window.omnisky?.answer && omnisky.map.sharp")
        assert server.family() == [] and seen.page.evaluate("omnisky.now.objects") == 24


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_stopped_leaves_no_process(tmp_path: Path, how: signal.Signals) -> None:
    """Ctrl-C goes to the whole group; the others to the server alone, which cannot even answer the last."""
    with running("demo", "--objects", "3000", "--folder", tmp_path / "d.sky") as server:
        until(lambda: bool(server.family()) and (tmp_path / "d.sky" / "sky.json").is_file(), 60, "a busy worker")
        family = server.family()
        if how is signal.SIGINT:
            os.killpg(server.process.pid, how)
        else:
            server.process.send_signal(how)
        server.process.wait(20)
        try:
            until(lambda: not alive(family), 25, f"the end of all processes after {how.name}")
            if how is signal.SIGINT:
                assert "Traceback" not in server.errors.read_text()
        finally:
            for process in family:
                if process.is_running():
                    process.kill()


@pytest.mark.browser
def test_a_table_of_positions_is_served_as_a_map_of_the_sky(tmp_path: Path) -> None:
    """No image, no spectrum, nothing that a model reads: still every object has a place, a card and an address."""
    lines = "".join(f"lens{i},{150 + 0.3 * i},{2 + 0.1 * i},{0.2 + 0.1 * i}\n" for i in range(5))
    (tmp_path / "lenses.csv").write_text("id,ra,dec,z\n" + lines)
    list(jobs.ingest(tmp_path / "l.sky", [tmp_path / "lenses.csv"]))
    with running("serve", tmp_path / "l.sky") as server, visit(server.address) as seen:
        page = seen.page
        page.goto(server.address)
        ready = "window.omnisky?.card.card && omnisky.map.sharp && !omnisky.now.progress.running"
        page.wait_for_function(ready, timeout=60_000)
        assert page.evaluate("omnisky.now.maps.map(m => [m.name, m.placed])") == [["sky", 5]]
        assert "north up, east left" in page.locator(".hint").inner_text()
        spots = page.evaluate("""async () => { const b = omnisky.map.canvas.getBoundingClientRect();
            const places = await omnisky.ask("where.json", { map: "sky", rows: "0,4" });
            return places.map(p => omnisky.map.toScreen(...p)).map(([x, y]) => [b.left + x, b.top + y]); }""")
        (west, south), (east, north) = spots
        assert east < west and north < south
        page.mouse.click(east, north)
        page.wait_for_function("omnisky.state.id === 'lens4'")
        assert "lens4" in page.locator(".card h2").inner_text() and "o=lens4" in page.url
        assert seen.trouble == []
