"""Models from the Hugging Face hub into a plain folder: resumed, held against the hub's checksums, and never a pickle.

The library huggingface_hub finds out what there is, and with which token and proxy; the bytes are streamed here, because
its own download begins again after a stop. Files are gathered in FOLDER/.download and moved into place when all of them
are whole, so that a folder holds one revision: the former one until then.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

from engine import __version__
from engine.files import commit, only_writer, read_json, write_json
from engine.model_files import PICKLES
from engine.steps import Step

ENDPOINT = "https://huggingface.co"
RECORD, PARTS = "omnisky-download.json", ".download"
KINDS = (".safetensors", ".json", ".md")
LICENCES = ("license", "licence", "notice", "copying")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CHUNK = 1 << 20
PACE = 0.5  # seconds between two Steps
TRIES, WAIT, LONGEST = 5, 1.0, 60.0  # of connections that bring nothing; seconds before the second, doubled each time
AGAIN = "run the same again: what was fetched is kept"
TOKEN = "set HF_TOKEN to a token that may read it"


@dataclass(frozen=True)
class File:
    """A file as the hub declares it. kind: "sha256" of its content, or "git", the SHA-1 of git's blob (small files)."""

    path: str
    size: int
    kind: str
    digest: str

    def hasher(self) -> Any:
        if self.kind == "sha256":
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)


@dataclass(frozen=True)
class Listing:
    """What a repository holds at a commit, and the headers (token and all) to ask for it."""

    commit: str
    files: list[File]
    left_out: list[str]
    headers: dict[str, str]


def check(repo: str, revision: str | None = None) -> None:
    """Raises ValueError for what cannot be a repository or a revision."""
    if not re.fullmatch(r"(?!.*(--|\.\.))\w[\w.-]{0,95}/\w[\w.-]{0,95}", repo, re.ASCII) or repo.endswith((".", "-", ".git")):
        raise ValueError(f"{repo!r} is not a repository's name; give owner/name, such as polymathic-ai/aion-base")
    if revision is not None and not revision.strip():
        raise ValueError("the revision is empty; give a branch, a tag or a commit")


def default_folder(repo: str) -> Path:
    """Where a repository is kept if nothing else is said."""
    from platformdirs import user_data_path

    return user_data_path("omnisky") / "models" / repo.replace("/", "--")


def download(repo: str, revision: str | None = None, to: str | Path | None = None) -> Iterator[Step]:
    """Bring a model repository into a folder (`default_folder` if None); close to stop, run again to go on or to update.

    The last Step's preview holds "folder", "commit" and "left_out". With HF_HUB_OFFLINE, what is there is only verified.
    Raises ValueError for a name, a folder or a file that is not as it must be, ConnectionError if the hub does not answer.
    """
    check(repo, revision)
    folder = default_folder(repo) if to is None else Path(to).expanduser()
    known = _record(folder, repo)
    if _is_on("HF_HUB_OFFLINE") or _is_on("TRANSFORMERS_OFFLINE"):
        yield from _verified(folder, repo, revision or "main", known)
        return
    endpoint = _endpoint()
    with _explained(repo, revision, endpoint, folder):
        yield Step(0.0, f"asking {endpoint} for {repo}")
        listing = _listing(repo, revision, endpoint)
        (folder / PARTS).mkdir(parents=True, exist_ok=True)
        with only_writer(folder / PARTS / "lock", str(folder)):
            _make_sure_of_room(folder, listing.files)
            yield from _steps(listing.files, (_brought(folder, file, repo, listing, endpoint, known is not None)
                                              for file in listing.files))
            record = {"repo": repo, "revision": revision or "main", "commit": listing.commit, "endpoint": endpoint,
                      "files": [asdict(file) for file in listing.files], "left_out": listing.left_out}
            _settle(folder, listing.files, known, record)
        yield _last(folder, record)


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE")  # as the library reads it


def _endpoint() -> str:
    endpoint = (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
    if urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).hostname:
        raise ValueError(f"HF_ENDPOINT is {endpoint!r}; it must be an address such as {ENDPOINT}")
    return endpoint


# -- what there is --------------------------------------------------------------------------------------------------


def _listing(repo: str, revision: str | None, endpoint: str) -> Listing:
    """Ask the hub. Raises ValueError for what cannot be taken from it."""
    with _no_telemetry():
        from huggingface_hub import HfApi, constants
        from huggingface_hub.utils import build_hf_headers

        try:
            info = HfApi(endpoint, library_name="omnisky", library_version=__version__).model_info(
                repo, revision=revision, files_metadata=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # not JSON, or not this JSON
            raise ValueError(f"{endpoint} does not answer like a Hugging Face hub ({error!r}); check HF_ENDPOINT") from error
        headers = build_hf_headers(library_name="omnisky", library_version=__version__)
    headers["Accept-Encoding"] = "identity"  # ranges are of the file, not of its compressed form
    files, left_out = [], []
    for sibling in info.siblings or []:
        path = sibling.rfilename
        if not _is_wanted(path):
            left_out.append(path)
            continue
        kind, digest = ("sha256", sibling.lfs.sha256) if sibling.lfs else ("git", sibling.blob_id)
        size = sibling.lfs.size if sibling.lfs else sibling.size
        if not _is_inside(path) or size is None or not re.fullmatch("[0-9a-f]{40,64}", digest or ""):
            raise ValueError(f"{endpoint} declares {path!r} of {repo} without size and checksum, or outside of its folder; "
                             "nothing was fetched")
        files.append(File(path, size, kind, str(digest)))
    if not any(file.path.endswith(".safetensors") for file in files):
        raise ValueError(f"{repo} has no safetensors" + _pickles(left_out, "; left out, because a pickle runs code: "))
    if not re.fullmatch("[0-9a-f]{7,64}", info.sha or ""):
        raise ValueError(f"{endpoint} does not say which commit {repo} is at; nothing was fetched")
    return Listing(str(info.sha), files, left_out, headers)


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Keep the library from telling the hub what else is installed, and from asking it for a list of agents to look for."""
    name = "HF_HUB_DISABLE_TELEMETRY"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        from huggingface_hub import constants

        was, constants.HF_HUB_DISABLE_TELEMETRY = constants.HF_HUB_DISABLE_TELEMETRY, True  # if it was imported earlier
        try:
            yield
        finally:
            constants.HF_HUB_DISABLE_TELEMETRY = was
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


def _is_wanted(path: str) -> bool:
    name = PurePosixPath(path)
    if any(part.startswith(".") and part != ".." for part in name.parts) or name.name == RECORD:
        return False
    return name.suffix in KINDS or (name.suffix in ("", ".txt") and name.name.lower().startswith(LICENCES))


def _is_inside(path: str) -> bool:
    """Whether a path that others chose stays in the folder, on any system."""
    return not re.search(r"[\\:\0]", path) and all(part not in ("", ".", "..") for part in path.split("/"))


def _pickles(paths: list[str], before: str) -> str:
    names = [path for path in paths if path.endswith(PICKLES)]
    return before + ", ".join(names) if names else ""


# -- the bytes ------------------------------------------------------------------------------------------------------


def _steps(files: list[File], works: Iterator[Iterator[tuple[int, str]]]) -> Iterator[Step]:
    """Bytes of one file after the other as Steps, not more of them than anyone reads."""
    total, before, told = sum(file.size for file in files) or 1, 0, -PACE
    for file, work in zip(files, works, strict=True):
        for got, doing in work:
            if time.monotonic() - told >= PACE:
                told = time.monotonic()
                yield Step((before + got) / total, f"{doing} {file.path}: {_mb(before + got)} of {_mb(total)}")
        before += file.size


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _part(folder: Path, file: File) -> Path:
    """Where a file is gathered; its name holds the checksum, so that no other revision's bytes are mixed in."""
    return folder / PARTS / f"{quote(file.path, safe='')}.{file.digest[:16]}"


def _brought(folder: Path, file: File, repo: str, listing: Listing, endpoint: str, ours: bool) -> Iterator[tuple[int, str]]:
    """One file, whole, in its place or as a part. ours: whether what is in its place may be replaced."""
    from huggingface_hub import hf_hub_url

    place, part = folder / file.path, _part(folder, file)
    right = yield from _matches(place, file)
    if right:
        part.unlink(missing_ok=True)
    elif os.path.lexists(place) and not ours:
        raise ValueError(f"{place} is another file than that of {repo}, and was not put there by this command; choose another "
                         "folder with --to")
    else:
        url = hf_hub_url(repo, file.path, revision=listing.commit, endpoint=endpoint)
        yield from _fetched(part, file, url, listing.headers)


def _matches(path: Path, file: File) -> Generator[tuple[int, str], None, bool]:
    """Read a file; the generator's result is whether it is what was declared."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    hasher, got = file.hasher(), 0
    with path.open("rb") as content:
        while chunk := content.read(CHUNK):
            hasher.update(chunk)
            got += len(chunk)
            yield got, "checking"
    return bool(hasher.hexdigest() == file.digest)


def _fetched(part: Path, file: File, url: str, headers: dict[str, str]) -> Iterator[tuple[int, str]]:
    """Go on with a part to its end, over lost connections. Raises ValueError, and removes the part, if it is not right."""
    from huggingface_hub.errors import HTTPError

    with part.open("a+b") as out:
        hasher, got = file.hasher(), 0
        out.seek(0)
        while chunk := out.read(CHUNK):
            hasher.update(chunk)
            got += len(chunk)
            yield got, "going on with"
        tries = 0
        while got < file.size:
            start, lost = got, None
            try:
                for restarted, chunk in _streamed(url, headers, got):
                    if restarted:
                        out.truncate(0)
                        hasher, got = file.hasher(), 0
                    out.write(chunk)
                    hasher.update(chunk)
                    got += len(chunk)
                    if got > file.size:
                        break
                    yield got, "fetching"
            except HTTPError as error:
                if _status(error) == 416:  # the file is shorter than declared
                    break
                lost = error
            if got < file.size:
                tries = tries + 1 if got <= start else 1
                yield got, "waiting for"
                _wait(tries, lost, f"the connection ended after {got:,} of the {file.size:,} bytes of {file.path}; {AGAIN}")
        out.flush()
        os.fsync(out.fileno())
    if got != file.size or hasher.hexdigest() != file.digest:
        part.unlink()
        raise ValueError(f"{file.path} came with other content than the hub declares ({file.kind} {file.digest[:12]}…, "
                         f"{file.size:,} bytes) and was removed; run the same again, and if it comes so again, do not use it")


def _streamed(url: str, headers: dict[str, str], start: int) -> Iterator[tuple[bool, bytes]]:
    """The bytes of a file from `start` on; with the first of them, whether the server began at 0 instead."""
    from huggingface_hub import constants, get_session, hf_raise_for_status

    wanted = headers | ({"Range": f"bytes={start}-"} if start else {})
    with get_session().stream("GET", url, headers=wanted, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as answer:
        hf_raise_for_status(answer)
        restarted = start > 0 and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        for chunk in answer.iter_bytes():  # as they come: nothing that arrived is lost with the connection
            yield restarted, chunk
            restarted = False


def _wait(tries: int, lost: Exception | None, ended: str) -> None:
    """Before the next try; raises what was lost if there shall be none."""
    if tries >= TRIES or not (_status(lost) is None or _is_passing(_status(lost))):
        raise lost or ConnectionError(ended)
    asked = "" if _status(lost) is None else lost.response.headers.get("Retry-After", "")  # type: ignore[union-attr]
    time.sleep(min(float(asked) if asked.isdecimal() else WAIT * 2 ** (tries - 1), LONGEST))


def _status(error: Exception | None) -> int | None:
    """What the server answered, None if it did not."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_passing(status: int | None) -> bool:
    return status is not None and (status >= 500 or status in (408, 429))


# -- the folder -----------------------------------------------------------------------------------------------------


def _record(folder: Path, repo: str) -> dict[str, Any] | None:
    """What was fetched into a folder, its files as `File`s. Raises ValueError if it is another repository's."""
    path = folder / RECORD
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder")
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        files = [File(**file) for file in content["files"]]
        record = {name: str(content[name]) for name in ("repo", "revision", "commit", "endpoint")}
        if not all(_is_inside(file.path) for file in files):
            raise ValueError("a path leads out of the folder")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged; delete it and run the same again: whole files are kept") from error
    if record["repo"] != repo:
        raise ValueError(f"{folder} holds {record['repo']}; choose another folder with --to")
    return record | {"files": files, "left_out": list(content.get("left_out", []))}


def _make_sure_of_room(folder: Path, files: list[File]) -> None:
    missing = 0
    for file in files:
        place, part = folder / file.path, _part(folder, file)
        if not place.is_file() or place.stat().st_size != file.size:
            missing += file.size - (part.stat().st_size if part.is_file() else 0)
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise OSError(errno.ENOSPC, f"{_mb(missing)} are to be fetched, {_mb(free)} are free")


def _settle(folder: Path, files: list[File], known: dict[str, Any] | None, record: dict[str, Any]) -> None:
    """Move the parts into place, remove what the former revision had and this one has not, and write down what this is."""
    for file in files:
        if (part := _part(folder, file)).is_file():
            (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
            commit(part, folder / file.path)
    for path in {file.path for file in (known or {}).get("files", [])} - {file.path for file in files}:
        (folder / path).unlink(missing_ok=True)
    write_json(folder / RECORD, record)
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def _verified(folder: Path, repo: str, revision: str, known: dict[str, Any] | None) -> Iterator[Step]:
    """Without the network: whether the folder is what was asked for, and whole."""
    online = "unset HF_HUB_OFFLINE and run the same again"
    if known is None:
        raise ValueError(f"{folder} does not hold the whole of {repo}, and offline the rest cannot be fetched; {online}")
    if known["revision"] != revision and not (len(revision) >= 7 and known["commit"].startswith(revision)):
        raise ValueError(f"{folder} holds revision {known['revision']} ({known['commit'][:12]}), not {revision}; {online}")
    wrong: list[str] = []

    def looked_at(file: File) -> Iterator[tuple[int, str]]:
        if not (yield from _matches(folder / file.path, file)):
            wrong.append(file.path)

    yield from _steps(known["files"], (looked_at(file) for file in known["files"]))
    if wrong:
        raise ValueError(f"{folder} lacks {', '.join(wrong)}, or they have changed since they were fetched; {online}")
    yield _last(folder, known, ", verified offline")


def _last(folder: Path, record: dict[str, Any], how: str = "") -> Step:
    note = f"{record['repo']} ({record['commit'][:12]}) is in {folder}: {len(record['files'])} files{how}"
    preview = {name: record[name] for name in ("repo", "commit", "left_out")} | {"folder": str(folder)}
    return Step(1.0, note + _pickles(record["left_out"], "; left out, because a pickle runs code: "), preview)


# -- what went wrong ------------------------------------------------------------------------------------------------


@contextmanager
def _explained(repo: str, revision: str | None, endpoint: str, folder: Path) -> Iterator[None]:
    """Turn the library's errors, and a full disk, into one sentence each."""
    try:
        yield
    except Exception as error:
        if (told := _told(error, repo, revision, endpoint, folder)) is None:
            raise
        raise told from error


def _told(error: Exception, repo: str, revision: str | None, endpoint: str, folder: Path) -> Exception | None:
    """The sentence for a full disk, a network that fails or an answer of the hub; None for anything else."""
    from huggingface_hub import errors

    if isinstance(error, OSError) and error.errno in FULL:
        return ValueError(f"there is no room left to write {folder} ({error.strerror}); free some and {AGAIN}")
    if isinstance(error, errors.GatedRepoError):
        return ValueError(f"{repo} is gated: accept its conditions at {endpoint}/{repo} and {TOKEN}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ValueError(f"{endpoint} has no model {repo}, or it is private: check the name, or {TOKEN}")
    if isinstance(error, errors.RevisionNotFoundError):
        return ValueError(f"{repo} has no revision {revision!r}; give a branch, a tag or a commit that {endpoint} has")
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return ValueError(f"{endpoint} does not let us read {repo} ({status}): it is private or gated, or the token is not "
                              f"valid; {TOKEN}")
        kind = ConnectionError if _is_passing(status) else ValueError
        return kind(f"{endpoint} answered {status} for {urlsplit(str(error.response.url)).path}; {AGAIN}")
    if isinstance(error, errors.HTTPError):
        why = str(error) or type(error).__name__
        return ConnectionError(f"{endpoint} cannot be reached ({why}); check network, proxy and HF_ENDPOINT, and {AGAIN}")
    return None
