"""What the browser asks by HTTP: what may be kept, what is refused and how, and that nothing answers without the secret."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import httpx
import pytest
import small_sky
from small_sky import COUNT
from tornado.web import Application

import engine
import explorer
from engine.objects import Scalar, SkyObject
from engine.store import Store
from explorer.desk import Desk
from explorer.notebook import listen
from explorer.routes import STATIC, routes

PREFIX = "/sky/secret/"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_sky.build(tmp_path_factory.mktemp("routes") / "small.sky", COUNT)


def asking(desk: Desk) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{listen(Application(routes(desk, PREFIX)))}", timeout=30)


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    with asking(Desk(folder)) as made:
        yield made


@pytest.mark.parametrize(("path", "kind", "kept"), [
    ("start.json", "application/json", False),
    ("state.json", "application/json", False),
    ("tile/umap-image/3/z/dark/2/1/2.png", "image/png", True),
    ("legend.json?map=umap-image&colour=z&theme=dark", "application/json", False),
    ("tap.json?map=umap-image&x=0&y=0&r=5", "application/json", False),
    ("where.json?map=umap-image&rows=1,2", "application/json", False),
    ("object/3.json", "application/json", False), ("picture/3/0.png", "image/png", True),
    ("spectrum/3/0.bin", "application/octet-stream", True), ("near/3.json", "application/json", False),
    ("find.json?q=s3", "application/json", False), ("surprise.json?seed=3", "application/json", False)])
def test_answers_have_their_kind_and_may_be_kept_where_they_cannot_change(client: httpx.Client, path: str, kind: str,
                                                                          kept: bool) -> None:
    answer = client.get(PREFIX + path)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith(kind)
    assert ("immutable" in answer.headers["cache-control"]) == kept and ("no-store" in answer.headers["cache-control"]) != kept
    assert client.get("/sky/guess/" + path).status_code == 404 and client.get("/" + path).status_code == 404


@pytest.mark.parametrize("path", [
    f"object/{COUNT}.json", "object/99999999999999999999.json", "picture/99999/0.png", "spectrum/3/9.bin", f"near/{COUNT}.json",
    "tile/nothing/1/z/dark/0/0/0.png", "tile/umap-image/1/nothing/dark/0/0/0.png", "tile/umap-image/1/z/pink/0/0/0.png",
    "legend.json?map=umap-image&colour=nothing&theme=dark", "legend.json", "tap.json?map=umap-image&x=a&y=0&r=5",
    "where.json?map=umap-image&rows=1,b", "where.json?map=nothing&rows=1", "near/3.json?map=nothing",
    "surprise.json?seed=-1", "near/3.json?k=x", "near/3.json?unknown=1"])
def test_what_is_not_there_is_404_with_a_sentence(client: httpx.Client, folder: Path, path: str) -> None:
    answer = client.get(PREFIX + path)
    assert answer.status_code == 404, answer.text
    assert set(answer.json()) == {"error"} and "Traceback" not in answer.text
    assert str(folder.parent) not in answer.text, "where the sky lies is no visitor's business"


@pytest.mark.parametrize("where", ["tile/umap-image/1/z/dark/0/7/7.png", "tile/umap-image/1/z/dark/40/1/1.png",
                                   "tile/umap-image/1/z/dark/2/9999999999/0.png"])
def test_tiles_outside_the_map_are_answered_not_failed(client: httpx.Client, where: str) -> None:
    answer = client.get(PREFIX + where)
    assert answer.status_code == 200 and answer.content.startswith(b"\x89PNG")


def test_static_files_end_at_their_folder(client: httpx.Client) -> None:
    """Asked for as no browser does, which would take the dots out of the path before it sends it."""
    def answer(path: str) -> tuple[int, bytes]:
        with closing(HTTPConnection("127.0.0.1", client.base_url.port)) as raw:
            raw.request("GET", PREFIX + path)
            got = raw.getresponse()
            return got.status, got.read()

    assert answer("static/desk.js") == answer("static/./desk.js") == (200, (STATIC / "desk.js").read_bytes())
    for path in ("static/../desk.py", "static/%2e%2e/desk.py", "static/..%2froutes.py", "static//etc/passwd",
                 "static/../../pyproject.toml", "static/%2e%2e%2f%2e%2e%2fREADME.md", "static/..", "static/"):
        assert answer(path)[0] == 403, f"{path}: 404 would mean that it was not tried"


def test_a_tile_is_coloured_by_a_column_of_any_name(tmp_path: Path) -> None:
    path = small_sky.build(tmp_path / "odd.sky", 20)
    columns = ["mag_r__mag(ST)", "it's (so*!)", "a/b c%2F.png", "χ²+1"]
    Store(path).append([SkyObject("odd", scalars=dict.fromkeys(columns, Scalar(1.0)))], ["odd"])
    desk = Desk(path)
    assert set(columns) < {c["name"] for c in desk.start()["columns"]}
    with asking(desk) as client:
        for name, status in [*((column, 200) for column in columns), ("mag_r__mag(AB)", 404)]:
            written = quote(name, safe="!'()*~")  # as encodeURIComponent leaves them
            assert client.get(f"{PREFIX}tile/umap-image/1/{written}/dark/0/0/0.png").status_code == status
            assert client.get(f"{PREFIX}legend.json?map=umap-image&theme=dark&colour={written}").status_code == status


def test_nonfinite_taps_find_nothing_and_break_nothing(client: httpx.Client) -> None:
    for x in ("nan", "inf", "1e300"):
        answer = client.get(PREFIX + f"tap.json?map=umap-image&x={x}&y=0&r=1")
        assert answer.status_code in (200, 404) and answer.json().get("row") is None


def test_many_at_once_get_each_their_own(client: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda row: client.get(f"{PREFIX}object/{row}.json").json(), [*range(COUNT)] * 2))
    assert [a["row"] for a in answers] == [*range(COUNT)] * 2


def test_in_a_notebook_no_script_comes_from_afar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr("panel.extension", lambda **options: asked.append(options))
    for shell, expected in ((None, []), (SimpleNamespace(kernel=object()), [{"inline": True}])):
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        explorer.view(folder)
        assert asked == expected


def test_a_notebook_view_answers_on_this_machine_only(folder: Path) -> None:
    first, second = explorer.view(engine.open(folder)), explorer.view(folder)
    assert first.base.startswith("http://127.0.0.1:") and first.base != second.base
    state = httpx.get(first.base + "state.json")
    assert state.json()["objects"] == COUNT and state.headers["access-control-allow-origin"] == "*"
    assert "start" in httpx.get(first.base + "static/desk.js").text
    assert first.get_root().data.base == first.base
    first.row = 4
    assert second.row is None, "two views are two choices"
