"""Models from a hub: a small server on 127.0.0.1 speaks its protocol, cuts connections, and counts what it serves."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

from engine import hub
from engine.steps import Step

REPO = "polymathic-ai/aion-small"
WEIGHTS = os.urandom(3_000_000)
CODEC = "codecs/tok_z/model.safetensors"
FILES = {
    "config.json": b'{"dim": 16}\n', "model.safetensors": WEIGHTS, "README.md": b"# A model\n", "LICENSE": b"MIT\n",
    "codecs/tok_z/config.json": b"{}\n", CODEC: os.urandom(5_000),
    "pytorch_model.bin": b"a pickle", "old/weights.pt": b"another", "figure.png": b"png", ".gitattributes": b"*.bin\n",
}
WANTED = {"config.json", "model.safetensors", "README.md", "LICENSE", "codecs/tok_z/config.json", CODEC}
LARGE = (".safetensors", ".bin", ".pt")


class Hub:
    """Repositories in memory, what shall go wrong, and what was asked."""

    def __init__(self) -> None:
        self.commits = {"main": "c" * 40, "v1": "a" * 40}  # revision -> commit -> files
        self.files = {"c" * 40: dict(FILES), "a" * 40: FILES | {"config.json": b'{"dim": 8}\n'}}
        self.token: str | None = None  # needed to read files
        self.gated = self.stall = False
        self.cut: dict[str, list[int]] = {}  # path -> after so many bytes, one a request
        self.wrong: dict[str, bytes] = {}  # path -> what is served instead
        self.status: dict[str, list[int]] = {}  # path -> answers, one a request
        self.ranges = True
        self.asked: list[SimpleNamespace] = []
        self.cdn = self.url = ""

    def served(self, path: str) -> int:
        return sum(a.sent for a in self.asked if a.file == path)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)  # of a proxy's request, too
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.note = SimpleNamespace(path=path, file="", headers=headers, sent=0, port=self.server.server_port)
        self.hub.asked.append(self.note)
        if path.startswith("/api/models/"):
            self.listing(path.removeprefix("/api/models/"))
        elif "/resolve/" in path:
            repo, _, rest = path[1:].partition("/resolve/")
            commit, _, name = rest.partition("/")
            self.resolve(repo, commit, name)
        elif path.startswith("/cdn/"):
            commit, _, name = path.removeprefix("/cdn/").partition("/")
            self.content(commit, name)
        else:
            self.answer(404, b"what is this")

    def may(self) -> bool:
        return self.hub.token is None or self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def listing(self, rest: str) -> None:
        repo, _, revision = rest.partition("/revision/")
        if repo != REPO or not (self.may() or self.hub.gated):
            return self.answer(401, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        commit = self.hub.commits.get(revision or "main", revision)
        if commit not in self.hub.files:
            return self.answer(404, b'{"error": "Invalid rev id"}', {"X-Error-Code": "RevisionNotFound"})
        siblings = [sibling(name, content) for name, content in self.hub.files[commit].items()]
        body = {"id": repo, "modelId": repo, "sha": commit, "private": False, "tags": [], "siblings": siblings}
        self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def resolve(self, repo: str, commit: str, name: str) -> None:
        if not self.may():
            return self.answer(401, b"", {"X-Error-Code": "GatedRepo" if self.hub.gated else "RepoNotFound"})
        if statuses := self.hub.status.get(name):
            return self.answer(statuses.pop(0), b"", {"Retry-After": "0"})
        if not name.endswith(LARGE):
            return self.content(commit, name)
        content = self.hub.files[commit][name]
        sha = hashlib.sha256(content).hexdigest()
        self.answer(302, b"", {"Location": f"{self.hub.cdn}/cdn/{commit}/{name}", "X-Repo-Commit": commit, "X-Linked-ETag": sha,
                               "X-Linked-Size": str(len(content)), "X-Xet-Hash": sha})

    def content(self, commit: str, name: str) -> None:
        content, start, status, more = self.hub.wrong.get(name, self.hub.files[commit][name]), 0, 200, {}
        self.note.file = name
        if self.hub.ranges and (asked := self.headers.get("Range")):
            start, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
            if start >= len(content):
                return self.answer(416, b"")
            more = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        cuts = self.hub.cut.get(name)
        self.answer(status, content[start:], more | {"Accept-Ranges": "bytes", "X-Repo-Commit": commit},
                    cuts.pop(0) if cuts else None)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(OSError):
                self.wfile.write(body[:cut])
                self.note.sent = len(body[:cut])
                self.wfile.flush()
        if cut is not None:
            while self.hub.stall:
                time.sleep(0.02)
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)


def sibling(name: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    lfs = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 130}
    return {"rfilename": name, "size": len(content), "blobId": blob} | ({"lfs": lfs} if name.endswith(LARGE) else {})


@pytest.fixture
def server() -> Iterator[Hub]:
    """The hub, and another origin where its large files lie."""
    state = Hub()
    handler = type("H", (Handler,), {"hub": state})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    state.url, state.cdn = (f"http://127.0.0.1:{s.server_port}" for s in servers)
    threads = [threading.Thread(target=s.serve_forever, args=(0.01,), daemon=True) for s in servers]
    for thread in threads:
        thread.start()
    yield state
    state.stall = False
    for s in servers:
        s.shutdown()
        s.server_close()


@pytest.fixture(autouse=True)
def only_here(server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The environment of somebody with nothing set but HF_ENDPOINT; any other address than 127.0.0.1 fails."""
    for name in os.environ:
        if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr(hub, "WAIT", 0.01)
    really = socket.getaddrinfo

    def guarded(host: Any, *more: Any, **named: Any) -> Any:
        assert host in ("127.0.0.1", b"127.0.0.1"), f"{host} was asked for"
        return really(host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", guarded)
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


def fetched(folder: Path | None, revision: str | None = None, repo: str = REPO) -> Step:
    steps = list(hub.download(repo, revision, folder))
    assert [s.fraction for s in steps] == sorted(s.fraction for s in steps) and steps[-1].fraction == 1
    return steps[-1]


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != hub.RECORD}


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "engine.cli", "download", *arguments], env=os.environ | variables,
                          capture_output=True, text=True, check=False)


# ----------------------------------------------------------------------------------------------------------- all is well


def test_a_whole_model(server: Hub, folder: Path) -> None:
    last = fetched(folder)
    assert content(folder) == {name: FILES[name] for name in WANTED}
    assert last.preview == {"repo": REPO, "commit": "c" * 40, "folder": str(folder),
                            "left_out": ["pytorch_model.bin", "old/weights.pt", "figure.png", ".gitattributes"]}
    assert last.note.endswith("because a pickle runs code: pytorch_model.bin, old/weights.pt")
    record = json.loads((folder / hub.RECORD).read_text())
    assert (record["repo"], record["revision"], record["commit"], record["endpoint"]) == (REPO, "main", "c" * 40, server.url)
    assert {f["path"]: f["size"] for f in record["files"]} == {name: len(FILES[name]) for name in WANTED}


def test_one_question_and_one_request_a_file(server: Hub, folder: Path) -> None:
    fetched(folder)
    small = {name for name in WANTED if not name.endswith(LARGE)}
    assert sorted(a.path for a in server.asked) == sorted(
        [f"/api/models/{REPO}", *(f"/{REPO}/resolve/{'c' * 40}/{name}" for name in WANTED),
         *(f"/cdn/{'c' * 40}/{name}" for name in WANTED - small)])
    for asked in server.asked:  # nothing about this machine or who works at it
        assert "authorization" not in asked.headers
        agent = asked.headers["user-agent"]
        assert agent.startswith("omnisky/") and "torch" not in agent and "agent/" not in agent
    assert "HF_HUB_DISABLE_TELEMETRY" not in os.environ and constants.HF_HUB_DISABLE_TELEMETRY is False


def test_again_is_a_look_only(server: Hub, folder: Path) -> None:
    fetched(folder)
    server.asked.clear()
    fetched(folder)
    assert [a.path for a in server.asked] == [f"/api/models/{REPO}"]


def test_without_a_folder_it_goes_among_the_users_data(tmp_path: Path) -> None:
    last = fetched(None)
    assert last.preview["folder"] == str(hub.default_folder(REPO))
    assert hub.default_folder(REPO).parts[-3:] == ("omnisky", "models", "polymathic-ai--aion-small")
    assert (hub.default_folder(REPO) / "config.json").is_file()


def test_a_damaged_file_is_fetched_anew(server: Hub, folder: Path) -> None:
    fetched(folder)
    (folder / CODEC).write_bytes(b"x" * 5_000)
    (folder / "config.json").unlink()
    server.asked.clear()
    fetched(folder)
    assert content(folder) == {name: FILES[name] for name in WANTED}
    assert {a.file for a in server.asked} - {""} == {CODEC, "config.json"}


def test_another_revision_takes_the_place_of_the_first(server: Hub, folder: Path) -> None:
    del server.files["a" * 40]["README.md"]
    fetched(folder)
    assert fetched(folder, "v1").preview["commit"] == "a" * 40
    assert (folder / "config.json").read_bytes() == b'{"dim": 8}\n' and not (folder / "README.md").exists()
    assert server.served("model.safetensors") == len(WEIGHTS)  # the same in both
    assert fetched(folder, "c" * 40).preview["commit"] == "c" * 40 and (folder / "README.md").exists()


def test_the_loaders_read_what_came(server: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.checkpoints import load_aion, load_codec, save_aion
    from engine.models.omni import Omni, OmniConfig

    monkeypatch.syspath_prepend(Path(__file__).parent / "codecs")
    from small_codecs import written

    config = OmniConfig(("tok_z",), ("tok_z",), norm_bias=False, act_layer="SiLU", dim=16, encoder_depth=1, decoder_depth=1,
                        num_heads=2, qkv_bias=False, proj_bias=False, mlp_bias=False, gated_mlp=True, qk_norm=True)
    save_aion(tmp_path / "made", Omni(config))
    written(tmp_path / "made" / "codecs", "Z")
    server.files["c" * 40] = content(tmp_path / "made")
    fetched(folder)
    assert load_aion(folder).config == config and load_codec(folder / "codecs" / "Z") is not None


def test_shards_and_their_index(server: Hub, folder: Path) -> None:
    shards = {f"model-0000{i}-of-00002.safetensors": os.urandom(100 + i) for i in (1, 2)}
    index = {"model.safetensors.index.json": json.dumps({"weight_map": dict.fromkeys("ab", "x")}).encode()}
    server.files["c" * 40] = shards | index | {"config.json": b"{}", "empty.json": b""}
    fetched(folder)
    assert content(folder) == server.files["c" * 40]


# ------------------------------------------------------------------------------------------------------ stops and goes on


def test_a_cut_connection_is_taken_up_within_the_run(server: Hub, folder: Path) -> None:
    server.cut["model.safetensors"] = [1_000_000, 500_000]
    fetched(folder)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert server.served("model.safetensors") == len(WEIGHTS)  # no byte twice
    assert sum(a.file == "model.safetensors" for a in server.asked) == 3


def test_the_next_run_goes_on(server: Hub, folder: Path) -> None:
    server.cut["model.safetensors"] = [1_000_000] + [0] * hub.TRIES
    with pytest.raises(ConnectionError, match=r"cannot be reached .*check network, proxy and HF_ENDPOINT"):
        fetched(folder)
    assert not (folder / "model.safetensors").exists() and not (folder / hub.RECORD).exists()
    server.cut.clear()
    server.asked.clear()
    fetched(folder)
    assert content(folder) == {name: FILES[name] for name in WANTED}
    assert server.served("model.safetensors") == len(WEIGHTS) - 1_000_000


def test_closing_the_generator_keeps_what_came(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "PACE", 0)
    steps = hub.download(REPO, to=folder)
    next(s for s in steps if s.fraction > 0.5)
    steps.close()  # type: ignore[attr-defined]
    kept = sum(p.stat().st_size for p in (folder / hub.PARTS).glob("model.safetensors.*"))
    assert kept > 0.4 * len(WEIGHTS)
    server.asked.clear()
    fetched(folder)
    assert server.served("model.safetensors") == len(WEIGHTS) - kept
    assert not (folder / hub.PARTS).exists()


def test_a_server_without_ranges_begins_again(server: Hub, folder: Path) -> None:
    server.cut["model.safetensors"], server.ranges = [1_000_000], False
    fetched(folder)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("statuses", [[503], [429, 500]])
def test_a_busy_server_is_asked_again(server: Hub, folder: Path, statuses: list[int]) -> None:
    server.status["config.json"] = list(statuses)
    fetched(folder)
    assert (folder / "config.json").read_bytes() == b'{"dim": 16}\n' and server.status["config.json"] == []
    assert sum("config.json" in str(asked) and "codecs" not in str(asked) for asked in server.asked) == len(statuses) + 1


def test_a_server_that_stays_busy(server: Hub, folder: Path) -> None:
    server.status["config.json"] = [503] * hub.TRIES
    with pytest.raises(ConnectionError, match=f"{server.url} answered 503 for /{REPO}/resolve/c+/config.json; run the same"):
        fetched(folder)


def test_an_interrupted_update_leaves_the_former_revision(server: Hub, folder: Path) -> None:
    fetched(folder)
    server.files["a" * 40]["model.safetensors"] = os.urandom(100_000)
    server.cut["model.safetensors"] = [10_000] + [0] * hub.TRIES
    with pytest.raises(ConnectionError):
        fetched(folder, "v1")
    assert json.loads((folder / hub.RECORD).read_text())["commit"] == "c" * 40
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS and (folder / "config.json").read_bytes() == b'{"dim": 16}\n'


def heed_ctrl_c() -> None:
    """A run started in the background is deaf to it, and so would be its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C of another process")
def test_ctrl_c(server: Hub, folder: Path) -> None:
    server.cut["model.safetensors"], server.stall = [1_000_000], True
    run = subprocess.Popen([sys.executable, "-m", "engine.cli", "download", REPO, "--to", str(folder)], stderr=subprocess.PIPE,
                           text=True, preexec_fn=heed_ctrl_c)
    while not any(p.stat().st_size > 900_000 for p in (folder / hub.PARTS).glob("model.safetensors.*")):
        assert run.poll() is None
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=30)
    assert run.returncode == 130 and "run the same command to go on" in said and "Traceback" not in said
    server.stall = False
    server.asked.clear()
    assert command(REPO, "--to", str(folder)).returncode == 0
    assert 0 < server.served("model.safetensors") < len(WEIGHTS) - 900_000


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("change", ["other", "longer", "shorter"])
def test_what_is_not_as_declared_is_removed(server: Hub, folder: Path, name: str, change: str) -> None:
    right = FILES[name]
    server.wrong[name] = {"other": b"?" + right[1:], "longer": right + b"?", "shorter": right[:-1]}[change]
    with pytest.raises(ValueError, match=f"{name} came with other content than the hub declares"):
        fetched(folder)
    assert not (folder / name).exists() and not list((folder / hub.PARTS).glob(f"{name}.*"))
    server.wrong.clear()
    fetched(folder)
    assert content(folder) == {name: FILES[name] for name in WANTED}


@pytest.mark.parametrize("repo", ["aion", "a/b/c", "https://huggingface.co/a/b", "a/..", "a/b.git", "a--b/c", "../b", "é/b"])
def test_names_that_cannot_be(repo: str, server: Hub, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give owner/name"):
        next(hub.download(repo, to=tmp_path))
    assert not server.asked


def test_unknown_repository_and_revision(server: Hub, folder: Path) -> None:
    with pytest.raises(ValueError, match=f"{server.url} has no model no/such, or it is private: check the name"):
        fetched(folder, repo="no/such")
    with pytest.raises(ValueError, match=f"{REPO} has no revision 'v9'"):
        fetched(folder, "v9")
    assert not folder.exists()


def test_a_gated_model(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.gated, server.token = True, "hf_secret"
    with pytest.raises(ValueError, match=f"{REPO} is gated: accept its conditions at {server.url}/{REPO} and set HF_TOKEN"):
        fetched(folder)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetched(folder)


def test_a_private_model_and_where_the_token_goes(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.token = "hf_secret"
    with pytest.raises(ValueError, match="or it is private"):
        fetched(folder)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.asked.clear()
    fetched(folder)
    for asked in server.asked:  # the hub sees it, the host that it sends us to does not
        assert ("authorization" in asked.headers) is not asked.path.startswith("/cdn/")


def test_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}/")
    with pytest.raises(ConnectionError, match=f"http://127.0.0.1:{port} cannot be reached"):
        fetched(folder)


@pytest.mark.parametrize("endpoint", ["huggingface.co", "ftp://127.0.0.1", "http://"])
def test_endpoints_that_cannot_be(folder: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(ValueError, match="HF_ENDPOINT is"):
        fetched(folder)


def test_something_that_is_no_hub(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "listing", lambda self, _: self.answer(200, b"<html>log in to the hotel's network</html>"))
    with pytest.raises(ValueError, match="does not answer like a Hugging Face hub"):
        fetched(folder)


def test_only_pickles(server: Hub, folder: Path) -> None:
    server.files["c" * 40] = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    with pytest.raises(ValueError, match=r"has no safetensors; left out, because a pickle runs code: pytorch_model.bin"):
        fetched(folder)


@pytest.mark.parametrize("name", ["../up.json", "/etc/x.json", "a/../../x.json", "C:\\x.json", "a//b.json"])
def test_paths_that_lead_out_of_the_folder(server: Hub, folder: Path, name: str) -> None:
    server.files["c" * 40][name] = b"{}"
    with pytest.raises(ValueError, match="outside of its folder; nothing was fetched"):
        fetched(folder)


def test_a_folder_of_something_else(server: Hub, folder: Path) -> None:
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    with pytest.raises(ValueError, match="choose another folder with --to"):
        fetched(folder)
    assert (folder / "README.md").read_text() == "mine"
    (folder / "README.md").write_bytes(FILES["README.md"])  # the very same is welcome
    fetched(folder)
    with pytest.raises(ValueError, match=f"{folder} holds {REPO}; choose another folder"):
        fetched(folder, repo="other/model")
    (folder / hub.RECORD).write_text("{}")
    with pytest.raises(ValueError, match="is damaged; delete it"):
        fetched(folder)


def test_no_room(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(ValueError, match=r"there is no room left to write .*3.0 MB are to be fetched, 1.0 MB are free"):
        fetched(folder)
    assert not server.served("model.safetensors")


@pytest.mark.skipif(os.name != "posix", reason="a limit on the size of files")
def test_no_room_on_the_way(server: Hub, folder: Path) -> None:
    line = f"ulimit -f 1000; exec '{sys.executable}' -m engine.cli download {REPO} --to '{folder}'"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Error: there is no room left to write" in done.stderr and "Traceback" not in done.stderr
    fetched(folder)
    assert content(folder) == {name: FILES[name] for name in WANTED}


def test_two_at_once(folder: Path) -> None:
    from filelock import FileLock

    (folder / hub.PARTS).mkdir(parents=True)
    with FileLock(folder / hub.PARTS / "lock"), pytest.raises(ValueError, match="another process is writing"):
        fetched(folder)


# ------------------------------------------------------------------------------------------------------------- offline


def test_offline(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"does not hold the whole of .*unset HF_HUB_OFFLINE"):
        fetched(folder)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    fetched(folder)
    server.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "verified offline" in fetched(folder).note and fetched(folder, "ccccccc").preview["commit"] == "c" * 40
    with pytest.raises(ValueError, match=r"holds revision main \(c+\), not v1"):
        fetched(folder, "v1")
    (folder / CODEC).unlink()
    (folder / "config.json").write_bytes(b'{"dim": 17}\n')
    with pytest.raises(ValueError, match=f"lacks config.json, {CODEC}, or they have changed|lacks {CODEC}, config.json"):
        fetched(folder)
    assert not server.asked


# ------------------------------------------------------------------------------------------------------ the command line


def test_the_verb(server: Hub, folder: Path) -> None:
    done = command(REPO, "--to", str(folder), "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and not done.stderr
    assert lines[-1]["fraction"] == 1 and lines[-1]["commit"] == "c" * 40 and lines[-1]["folder"] == str(folder)
    assert not any("harness" in a.path for a in server.asked)
    offline = command(REPO, "--to", str(folder), HF_HUB_OFFLINE="1")
    assert offline.returncode == 0 and "verified offline" in offline.stderr


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (("no/such",), 1, "Error: http://127.0.0.1:"),
    ((REPO, "--revision", "v9"), 1, "has no revision 'v9'"),
    (("aion-base",), 2, "give owner/name"),
    ((REPO, "--revision", ""), 2, "the revision is empty"),
    ((), 2, "Missing argument"),
])
def test_exit_codes(arguments: tuple[str, ...], code: int, said: str, folder: Path) -> None:
    done = command(*arguments, *(("--to", str(folder)) if arguments else ()), COLUMNS="300", NO_COLOR="1")
    assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr and not done.stdout


def test_through_a_proxy(server: Hub, folder: Path) -> None:
    done = command(REPO, "--to", str(folder), HF_ENDPOINT="http://hub.invalid", HTTP_PROXY=server.url)
    assert done.returncode == 0, done.stderr
    assert content(folder) == {name: FILES[name] for name in WANTED}
    assert {a.headers["host"] for a in server.asked} == {"hub.invalid", urlsplit(server.cdn).netloc}
    assert {f"http://127.0.0.1:{a.port}" for a in server.asked} == {server.url}


def test_the_library_is_loaded_by_the_verb_alone() -> None:
    code = "import sys, engine, engine.cli, engine.hub; print('huggingface_hub' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr
