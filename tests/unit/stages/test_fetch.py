"""Fetching: what comes is what the pin says, whatever happens on the way, and a start after any end goes on."""

import contextlib
import hashlib
import io
import logging
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tarfile
import threading
import time
import warnings
import zipfile
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import make_server

from minima import cli
from minima.errors import DataError, DiskFullError, LostPeerError, NotReadyError, StageError, UsageError
from minima.options import Fetch
from minima.sources import transfer
from minima.stages import fetch as stage
from minima.workspace import attempts
from minima.workspace.inputs import path_digest
from minima.workspace.marker import CHECKPOINTS, MARKER
from tests.unit import held
from tests.unit.sources.servers import COMMIT, GcsSite, HubSite, Proxy, Site, private_ca, proxying, serving

AWS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "us-east-1"}
BIN = Path(sys.executable).parent
ZEROS = "0" * 64
BIG = bytes(i * i % 251 for i in range(300_000))


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(transfer, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(stage, "POLL", 0.05)
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    for name in (
        "AWS_CA_BUNDLE",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "NETRC",
        "HF_TOKEN",
        "AWS_ENDPOINT_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    yield
    os.environ.pop("AWS_CA_BUNDLE", None)  # Set on the way.


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site(files={"/big.bin": BIG, "/dir/small.txt": b"small\n"})) as served:
        yield served


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubSite]:
    files = {"config.json": b"{}", "model-1.safetensors": BIG, "sub/notes.txt": b"notes", ".gitattributes": b"*"}
    with serving(HubSite(repository=files)) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        yield served  # type: ignore[misc]


@contextlib.contextmanager
def s3_serving(tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """moto's S3, with a bucket; gives its address."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in AWS.items():
            patch.setenv(name, value)
        app = DomainDispatcherApplication(create_backend_app)
        server = make_server("localhost", 0, app, threaded=True, ssl_context=tls)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        backend = s3_backends["123456789012"]["aws"]
        if "bucket" not in backend.buckets:
            backend.create_bucket("bucket", "us-east-1")
            for key, held_there in (("pre/a.bin", BIG), ("pre/sub/b c.txt", b"b"), ("prefix/other", b"x")):
                backend.put_object("bucket", key, held_there)
        yield f"{'https' if tls else 'http'}://localhost:{server.server_port}"
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_serving() as url:
        yield url


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def options(tmp_path: Path, *source: str, **more: Any) -> Fetch:
    return Fetch(source=source, output_dir=str(tmp_path / "work" / "p" / "s"), **more)


def fetched(tmp_path: Path, *source: str, **more: Any) -> dict[str, bytes]:
    """The files of the artifact that is made of these sources."""
    asked = options(tmp_path, *source, **more)
    assert not list(asked.problems())
    with held.output(asked) as output:
        output.commit(stage.run(asked, output))
    return content(Path(asked.output_dir))


def content(folder: Path) -> dict[str, bytes]:
    places = [place for place in folder.rglob("*") if place.is_file()]
    named = {place.relative_to(folder).as_posix(): place.read_bytes() for place in places}
    return {name: found for name, found in named.items() if not name.startswith(("_", "."))}


def said(tmp_path: Path, *source: str, kind: type[StageError], **more: Any) -> str:
    """What is said when these sources cannot be fetched."""
    with pytest.raises(kind) as error:
        fetched(tmp_path, *source, **more)
    folder = tmp_path / "work" / "p" / "s"
    assert not (folder / MARKER).exists()
    return str(error.value)


class TestFolder:
    def test_its_files_are_there_as_they_were(self, tmp_path: Path) -> None:
        there = tmp_path / "there"
        for name in ("a.txt", "sub/deep/b.txt", ".hidden/c.txt", "_d.txt"):
            (there / name).parent.mkdir(parents=True, exist_ok=True)
            (there / name).write_text(name)
        found = fetched(tmp_path, f"{there}@sha256:{path_digest(str(there))}")
        assert found == {"a.txt": b"a.txt", "sub/deep/b.txt": b"sub/deep/b.txt"}
        assert path_digest(str(tmp_path / "work" / "p" / "s")) == path_digest(str(there))

    def test_some_of_it_in_a_folder(self, tmp_path: Path) -> None:
        there = tmp_path / "there"
        there.mkdir()
        for name in ("a.txt", "b.json", "c.json"):
            (there / name).write_text(name)
        whole = f"{there}@sha256:{path_digest(f'{there}/b.json')}"
        told = said(tmp_path, f"x={whole}", kind=DataError, include=("x/*.json",), exclude=("x/c*",))
        digest = told.split("sha256:")[1].split(",")[0]  # Of the files that are asked for.
        found = fetched(tmp_path, f"x={there}@sha256:{digest}", include=("x/*.json",), exclude=("x/c*",))
        assert found == {"x/b.json": b"b.json"}

    def test_nothing_of_a_wrong_digest_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("a")
        told = said(tmp_path, f"{tmp_path}/a.txt@sha256:{'0' * 64}", kind=DataError)
        assert f"found {tmp_path}/a.txt@sha256:{sha(b'a')}" in told
        assert content(tmp_path / "work" / "p" / "s") == {}

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        told = said(tmp_path, f"/nowhere@sha256:{'0' * 64}", kind=NotReadyError)
        assert told == "nothing at /nowhere; check the path, and that the pod mounts it (`pod` of the stage)"

    def test_links_empty_files_and_any_name(self, tmp_path: Path) -> None:
        there = tmp_path / "there"
        (there / "sub").mkdir(parents=True)
        names = ("a b é.txt", "A B É.txt", "sub/empty", os.fsdecode(b"\xff.txt"))
        for name in names:
            (there / name).write_bytes(name.encode(errors="surrogateescape") if "empty" not in name else b"")
        (there / "sub/loop").symlink_to(there)
        (there / "link.txt").symlink_to(there / "A B É.txt")
        found = fetched(tmp_path, f"{there}@sha256:{path_digest(str(there))}")
        assert found == {**{name: (there / name).read_bytes() for name in names}, "link.txt": "A B É.txt".encode()}

    @pytest.mark.parametrize("kind", ["a link to nowhere", "a pipe"])
    def test_what_is_no_file(self, tmp_path: Path, kind: str) -> None:
        place = tmp_path / "there" / kind
        place.parent.mkdir()
        os.mkfifo(place) if kind == "a pipe" else place.symlink_to("/nowhere")
        told = said(tmp_path, f"{place.parent}@sha256:{'0' * 64}", kind=NotReadyError)
        assert told.startswith(f"{place} is no file, but a pipe" if kind == "a pipe" else f"{place}: No such file or directory")

    def test_names_that_cannot_be(self, tmp_path: Path) -> None:
        there = tmp_path / "there" / CHECKPOINTS
        there.mkdir(parents=True)
        (there / "a").write_text("a")
        pin = f"{tmp_path}/there@sha256:{'0' * 64}"
        assert f"--exclude: {CHECKPOINTS} is a name that" in said(tmp_path, pin, kind=UsageError)
        told = said(tmp_path, f"x={pin}", f"x={pin}", kind=UsageError)
        assert told == f"--source: several sources have x/{CHECKPOINTS}/a; put each into a folder of its own (NAME=…)"
        told = said(tmp_path, f"x={pin}", kind=UsageError, include=("x/*",))
        assert told.startswith(f"--include: no file of {tmp_path}/there is asked for; it has x/{CHECKPOINTS}/a")


class TestWeb:
    def test_a_file(self, tmp_path: Path, site: Site) -> None:
        found = fetched(
            tmp_path,
            f"{site.url}/dir/small.txt@sha256:{sha(b'small' + bytes([10]))}",
            f"b={site.url}/big.bin@sha256:{sha(BIG)}",
        )
        assert found == {"small.txt": b"small\n", "b/big.bin": BIG}

    @pytest.mark.parametrize("fault", [500, 503, (429, {"Retry-After": "0"}), ("cut", 0), ("cut", 200_000)], ids=str)
    def test_a_fault_that_passes(self, tmp_path: Path, site: Site, fault: object, capsys: pytest.CaptureFixture[str]) -> None:
        site.faults = deque([fault])
        assert fetched(tmp_path, f"{site.url}/big.bin@sha256:{sha(BIG)}") == {"big.bin": BIG}
        assert "asking again in" in capsys.readouterr().err
        if fault == ("cut", 200_000):
            assert [asked for _, asked in site.asked] == ["bytes=0-0", "bytes=0-299999", "bytes=200000-299999"]

    def test_what_fails_for_good_ends_the_waits_of_others(self, tmp_path: Path, site: Site) -> None:
        site.faults = deque([(429, {"Retry-After": "300"}), *[404] * 3])
        sources = [f"{name}={site.url}/big.bin@sha256:{sha(BIG)}" for name in ("a", "b")]
        since = time.monotonic()
        assert "answers 404" in said(tmp_path, *sources, kind=NotReadyError)
        assert time.monotonic() - since < transfer.LONGEST_WAIT / 2

    def test_a_fault_that_stays(self, tmp_path: Path, site: Site) -> None:
        site.faults = deque([503] * transfer.TRIES)
        told = said(tmp_path, f"{site.url}/big.bin@sha256:{sha(BIG)}", kind=LostPeerError)
        assert f" answers 503; asked {transfer.TRIES} times in vain, what is whole is kept" in told

    def test_without_ranges_it_comes_whole_or_again(self, tmp_path: Path, site: Site) -> None:
        site.ranges = False
        site.faults = deque([("cut", 200_000)])
        assert fetched(tmp_path, f"{site.url}/big.bin@sha256:{sha(BIG)}") == {"big.bin": BIG}
        site.faults = deque([("cut", 200_000)] * transfer.TRIES)
        shutil.rmtree(tmp_path / "work")
        assert "in vain" in said(tmp_path, f"{site.url}/big.bin@sha256:{sha(BIG)}", kind=LostPeerError)

    def test_of_unknown_length(self, tmp_path: Path, site: Site) -> None:
        site.ranges = site.lengths = False
        assert fetched(tmp_path, f"{site.url}/big.bin@sha256:{sha(BIG)}") == {"big.bin": BIG}
        site.faults = deque([("cut", 200_000)])  # Nothing says that it is not whole, but the digest.
        shutil.rmtree(tmp_path / "work")
        assert "has not the declared digest" in said(tmp_path, f"{site.url}/big.bin@sha256:{sha(BIG)}", kind=DataError)

    def test_a_large_one_goes_on_from_its_slices(self, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stage, "SLICE_BYTES", 100_000)
        site.faults = deque([("cut", 100_000), ("cut", 50_000), *[503] * (transfer.TRIES - 1)])
        source = f"{site.url}/big.bin@sha256:{sha(BIG)}"
        said(tmp_path, source, kind=LostPeerError)
        folder = tmp_path / "work" / "p" / "s"
        assert attempts._fetched_bytes(folder) == 100_000
        assert content(folder).keys() == {f"{CHECKPOINTS}/{place.name}" for place in (folder / CHECKPOINTS).iterdir()}
        site.asked.clear()
        assert fetched(tmp_path, source) == {"big.bin": BIG}
        assert [asked for _, asked in site.asked] == ["bytes=0-0", "bytes=100000-199999", "bytes=200000-299999"]

    def test_slices_of_another_content_are_not_used(self, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stage, "SLICE_BYTES", 100_000)
        site.faults = deque([("cut", 100_000), *[503] * transfer.TRIES])
        other = BIG[::-1]
        said(tmp_path, f"{site.url}/big.bin@sha256:{sha(other)}", kind=LostPeerError)
        site.files["/big.bin"] = other
        assert fetched(tmp_path, f"{site.url}/big.bin@sha256:{sha(other)}") == {"big.bin": other}

    def test_one_that_changes_meanwhile(self, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stage, "SLICE_BYTES", 100_000)
        answer = site.answer

        def changing(handler: Any) -> None:
            if len(site.asked) == 2:
                site.files["/big.bin"] = BIG[::-1]
            answer(handler)

        monkeypatch.setattr(site, "answer", changing)
        told = said(tmp_path, f"{site.url}/big.bin@sha256:{sha(BIG)}", kind=NotReadyError)
        assert told.endswith("big.bin changed while it was read; run again")

    @pytest.mark.parametrize(
        "number",
        [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.long)],  # Whose lease must become silent.
    )
    def test_stopped_at_any_moment_it_goes_on(self, tmp_path: Path, site: Site, number: signal.Signals) -> None:
        """A real process, a real end: what was whole is not asked for again, and nothing half is whole."""
        site.files = {f"/{n}.bin": BIG[n:] * 4 for n in range(6)}
        site.pace = 0.01
        sources = [f"{site.url}{path}@sha256:{sha(found)}" for path, found in site.files.items()]
        folder = tmp_path / "work" / "p" / "s"
        words = [str(BIN / "minima"), "fetch", "--source", *sources, "--output_dir", str(folder), "--num_connections", "2"]
        first = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(there := content(folder) if folder.exists() else {}) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        first.send_signal(number)
        first.wait()
        assert 2 <= len(there) < 6, there.keys()
        assert all(found == site.files[f"/{name}"] for name, found in there.items())
        assert not (folder / MARKER).exists()
        site.asked.clear()
        site.pace = 0
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert content(folder) == {path[1:]: found for path, found in site.files.items()}
        assert not {path for path, asked in site.asked if asked != "bytes=0-0"} & {f"/{name}" for name in there}

    def test_who_asks_has_no_right(self, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        site.login = "Basic am9lOmh1bnRlcjI="  # joe:hunter2
        source = f"{site.url}/dir/small.txt@sha256:{sha(b'small' + bytes([10]))}"
        told = said(tmp_path, source, kind=NotReadyError)
        assert told == (
            f"{site.url}/dir/small.txt: answers 401, who asks has no right to it; the file that NETRC names, from a Secret, "
            "says a login"
        )
        logins = tmp_path / "netrc"
        logins.write_text("machine 127.0.0.1 login joe password hunter2\n")
        monkeypatch.setenv("NETRC", str(logins))
        assert fetched(tmp_path, source) == {"small.txt": b"small\n"}
        marker = (tmp_path / "work" / "p" / "s" / MARKER).read_text()
        assert "hunter2" not in marker

    def test_nothing_there(self, tmp_path: Path, site: Site) -> None:
        told = said(tmp_path, f"{site.url}/none@sha256:{'0' * 64}", kind=NotReadyError)
        assert told == f"{site.url}/none: answers 404, there is nothing; correct the address"

    def test_no_server(self, tmp_path: Path) -> None:
        told = said(tmp_path, f"http://127.0.0.1:9/x@sha256:{'0' * 64}", kind=LostPeerError)
        assert told.startswith("127.0.0.1:9 cannot be reached (")
        assert "no proxy is set; a network policy or a firewall may forbid it" in told

    def test_an_empty_one(self, tmp_path: Path, site: Site) -> None:
        site.files["/empty"] = b""
        assert fetched(tmp_path, f"{site.url}/empty@sha256:{sha(b'')}") == {"empty": b""}

    def test_a_web_page_is_no_file(self, tmp_path: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
        """As GitHub's /blob/ answers, and whoever wants a login first; only what is called a page may be one."""
        site.headers = {"Content-Type": "text/html; charset=utf-8"}
        told = said(tmp_path, f"{site.url}/big.bin@sha256:{sha(BIG)}", kind=NotReadyError)
        assert told.startswith(f"{site.url}/big.bin: answers a web page, not big.bin; take the address of the file itself")
        assert cli.run(["digest", f"{site.url}/big.bin"]) == 75
        assert "answers a web page" in capsys.readouterr().err
        site.files["/a.html"] = b"<p>"
        assert fetched(tmp_path, f"{site.url}/a.html@sha256:{sha(b'<p>')}") == {"a.html": b"<p>"}

    def test_a_part_of_what_nobody_says_the_length_of(self, tmp_path: Path, site: Site) -> None:
        site.headers = {"Content-Range": "bytes 0-0/*"}
        assert fetched(tmp_path, f"{site.url}/big.bin@sha256:{sha(BIG)}") == {"big.bin": BIG}

    def test_a_pointer_of_git_lfs_is_no_content(self, tmp_path: Path, site: Site) -> None:
        pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 9\n" % 7
        site.files["/a.parquet"] = pointer
        told = said(tmp_path, f"{site.url}/a.parquet@sha256:{sha(pointer)}", kind=DataError)
        assert told.startswith("--source: a.parquet is a Git LFS pointer, not the file; `git lfs pull`")

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"Retry-After": "7"}, 7),
            ({"Retry-After": "DATE"}, 90),
            ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
            ({"RateLimit": '"resolvers";r=0;t=55'}, 55),
            ({"RateLimit": '"api";r=3;t=55'}, 0),
            ({"Retry-After": "soon"}, 0),
            ({}, 0),
        ],
    )
    def test_it_waits_as_long_as_a_server_says(
        self, tmp_path: Path, site: Site, headers: dict[str, str], seconds: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waited: list[float] = []
        monkeypatch.setattr(transfer, "time", SimpleNamespace(sleep=waited.append))
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
        site.faults = deque([(429, {name: value.replace("DATE", date) for name, value in headers.items()})])
        fetched(tmp_path, f"{site.url}/big.bin@sha256:{sha(BIG)}")
        assert sum(waited) == pytest.approx(seconds, abs=3)

    def test_no_name(self, tmp_path: Path, site: Site) -> None:
        assert "ends in no file's name" in said(tmp_path, f"{site.url}/@sha256:{'0' * 64}", kind=UsageError)

    def test_no_room(self, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 10**9, 1000))
        told = said(tmp_path, f"{site.url}/big.bin@sha256:{sha(BIG)}", kind=DiskFullError)
        assert "0.3 MB are to come, 0.0 are free; make room, the same command goes on" in told
        monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 10**9, 500_000))
        monkeypatch.setattr(stage, "SLICE_BYTES", 100_000)
        told = said(tmp_path, f"{site.url}/big.bin@sha256:{sha(BIG)}", kind=DiskFullError)
        assert "0.3 MB are to come and 0.3 of slices for a while, 0.5 are free" in told
        assert not any(asked != "bytes=0-0" for _, asked in site.asked)


class TestHub:
    SOURCE = f"hf://org/name@{COMMIT}"

    def test_a_model_and_data(self, tmp_path: Path, hub: HubSite) -> None:
        found = fetched(tmp_path, self.SOURCE, f"data=hf://datasets/org/name@{COMMIT}")
        files = {name: what for name, what in hub.repository.items() if name != ".gitattributes"}
        assert found == {**files, **{f"data/{name}": what for name, what in files.items()}}

    def test_some_files(self, tmp_path: Path, hub: HubSite) -> None:
        assert fetched(tmp_path, self.SOURCE, include=("*.json", "**/*.txt")).keys() == {"config.json", "sub/notes.txt"}
        told = said(tmp_path / "other", self.SOURCE, kind=UsageError, include=("*.json", "*.bin"))
        assert told.startswith("--include: '*.bin' matches no file; there are config.json")

    @pytest.mark.parametrize("at", [0, 299_999])
    @pytest.mark.parametrize("name", ["model-1.safetensors", "sub/notes.txt"])
    def test_a_flipped_bit_comes_again(self, tmp_path: Path, hub: HubSite, name: str, at: int) -> None:
        at = min(at, len(hub.repository[name]) - 1)
        hub.faults = deque([("flip", at)])
        assert fetched(tmp_path, self.SOURCE, include=(name,))[name] == hub.repository[name]

    def test_what_stays_wrong(self, tmp_path: Path, hub: HubSite) -> None:
        hub.lies = "1" * 64
        told = said(tmp_path, self.SOURCE, kind=DataError)
        assert told == (
            f"--source: model-1.safetensors: SHA-256 {sha(BIG)}, the source says {'1' * 64}, also a second time; the source is "
            "damaged, or a proxy changes it"
        )

    def test_what_was_damaged_on_the_volume_comes_again(self, tmp_path: Path, hub: HubSite) -> None:
        hub.faults = deque([("cut", 2), *[503] * 20])
        said(tmp_path, self.SOURCE, kind=LostPeerError, num_connections=1)
        folder = tmp_path / "work" / "p" / "s"
        assert content(folder) == {"config.json": b"{}"}
        hub.faults.clear()
        (folder / "config.json").write_bytes(b"[]")
        assert fetched(tmp_path, self.SOURCE)["config.json"] == b"{}"

    def test_a_hub_that_always_begins_at_the_beginning(
        self, tmp_path: Path, hub: HubSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stage, "SLICE_BYTES", 100_000)
        hub.ranges = False
        hub.faults = deque([("cut", 1), ("cut", 50_000), ("cut", 150_000)])
        found = fetched(tmp_path, self.SOURCE, num_connections=1)
        assert found["model-1.safetensors"] == BIG
        assert found["config.json"] == b"{}"

    def test_gated(self, tmp_path: Path, hub: HubSite, monkeypatch: pytest.MonkeyPatch) -> None:
        hub.login = "Bearer hf_hunter2"
        told = said(tmp_path, self.SOURCE, kind=NotReadyError)
        assert told == (
            f"hf://org/name: one without a token may not read it; if it is gated, accept its terms on {hub.url}/org/name, and "
            "give that account's token from a Secret: `env: {HF_TOKEN: {secret: NAME, key: KEY}}`"
        )
        monkeypatch.setenv("HF_TOKEN", "hf_other")
        told = said(tmp_path, self.SOURCE, kind=NotReadyError)
        assert "the account of HF_TOKEN may not read it" in told
        assert "hf_other" not in told
        monkeypatch.setenv("HF_TOKEN", "hf_hunter2")
        assert fetched(tmp_path, self.SOURCE)["model-1.safetensors"] == BIG

    @pytest.mark.parametrize(
        ("refuses", "kind", "words"),
        [
            (
                (404, "RevisionNotFound"),
                NotReadyError,
                f"has no commit {COMMIT}; `minima digest hf://org/name` prints the newest",
            ),
            (
                (404, "RepoNotFound"),
                NotReadyError,
                "or not for one without a token to see; correct the name, or give a token from a Secret",
            ),
            (
                (401, ""),
                NotReadyError,
                "or not for one without a token to see; correct the name, or give a token from a Secret",
            ),
            ((403, ""), NotReadyError, "may not read it; if it is gated"),
            ((429, ""), LostPeerError, " answers 429; asked "),
            ((500, ""), LostPeerError, " answers 500; asked "),
        ],
        ids=str,
    )
    def test_refusals(self, tmp_path: Path, hub: HubSite, refuses: tuple[int, str], kind: type[StageError], words: str) -> None:
        hub.refuses = refuses
        assert words in said(tmp_path, self.SOURCE, kind=kind)

    def test_storage_that_it_sends_on_to(
        self, tmp_path: Path, hub: HubSite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As Xet's: who asks there shows no token, and a link that no longer holds is asked for again."""
        monkeypatch.setenv("HF_TOKEN", "hf_hunter2")
        with serving(Site(faults=deque([403, 403]))) as storage:
            hub.storage = storage
            found = fetched(tmp_path, self.SOURCE)
            assert found["model-1.safetensors"] == BIG
            assert set(storage.logins) == {None}
        host = storage.url.removeprefix("http://").partition(":")[0]
        assert f"fetch: {host}, to which the hub sends on, answers 403; asking again in" in capsys.readouterr().err

    def test_a_mirror_that_hands_on_the_hubs_links(self, tmp_path: Path, hub: HubSite) -> None:
        hub.mirrored = "https://huggingface.invalid"
        assert len(fetched(tmp_path, self.SOURCE)) == 3

    @pytest.mark.parametrize("answer", [b"<html>", b'{"error": "x"}', b"[1]", b'[{"type": "file"}]'])
    def test_what_is_no_hub(self, tmp_path: Path, site: Site, answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", site.url)
        site.files[f"/api/spaces/org/name/tree/{COMMIT}"] = answer
        told = said(tmp_path, f"hf://spaces/org/name@{COMMIT}", kind=NotReadyError)
        assert told.endswith("answers what is no hub's; correct HF_ENDPOINT")

    @pytest.mark.parametrize("name", ["a#b?.txt", "c%20d +&=.txt", "空/g'\"h.txt"])
    def test_names_of_any_letters(self, tmp_path: Path, hub: HubSite, name: str) -> None:
        hub.repository = {name: b"x"}
        assert fetched(tmp_path, self.SOURCE) == {name: b"x"}

    @pytest.mark.parametrize("name", ["/etc/x", "a//b", "a\nb", "n" * 256])
    def test_names_that_are_none(self, tmp_path: Path, hub: HubSite, name: str) -> None:
        hub.repository = {"fine": b"x", name: b"x"}
        told = said(tmp_path, self.SOURCE, kind=DataError)
        assert told.startswith(f"the source names a file {name!r}")

    @pytest.mark.parametrize("token", ["hf_é", "hf a"])
    def test_a_token_that_is_none(self, tmp_path: Path, hub: HubSite, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", token)
        told = said(tmp_path, self.SOURCE, kind=UsageError)
        assert told.startswith("HF_TOKEN: holds what is no token")
        assert token not in told

    def test_offline(self, tmp_path: Path, hub: HubSite, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "HF_HUB_OFFLINE is set" in said(tmp_path, self.SOURCE, kind=UsageError)

    def test_a_stated_shape_is_checked_before_the_weights_come(self, tmp_path: Path, hub: HubSite) -> None:
        hub.repository["config.json"] = (
            b'{"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 512}'
        )
        shape = {"layer": 3, "hidden": 64, "head": 4, "intermediate": 96, "vocab_size": 512}
        told = said(tmp_path, self.SOURCE, kind=DataError, num_connections=1, **shape)
        assert told == "--layer: config.json says layer 2, stated 3; state the shape that the model has"
        assert not any("safetensors" in path for path, _ in hub.asked)
        fetched(tmp_path, self.SOURCE, **{**shape, "layer": 2})


def test_two_pods_share_the_files(tmp_path: Path, hub: HubSite, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = options(tmp_path, TestHub.SOURCE)
    monkeypatch.setattr(stage.workers, "pod", lambda: (1, 2))
    with held.output(asked, "lease-1") as output:
        stage.run(asked, output)
    assert content(Path(asked.output_dir)).keys() == {"model-1.safetensors"}
    hub.asked.clear()
    monkeypatch.setattr(stage.workers, "pod", lambda: (0, 2))
    with held.output(asked) as output:
        output.commit(stage.run(asked, output))
    assert not any("safetensors" in path for path, _ in hub.asked)
    assert content(Path(asked.output_dir)).keys() == {"config.json", "model-1.safetensors", "sub/notes.txt"}


class TestGcs:
    @pytest.fixture
    def bucket(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[GcsSite]:
        files = {"pre/a.bin": BIG, "pre/sub/b c.txt": b"b", "pre/sub/": b"", "prefix/other": b"x"}
        with serving(GcsSite(files=files)) as served:
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", served.url)
            yield served  # type: ignore[misc]

    def test_a_prefix_and_an_object(self, tmp_path: Path, bucket: GcsSite, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.run(["digest", "gs://bucket/pre/"]) == 0
        whole = capsys.readouterr().out.strip()
        bucket.faults = deque([503, ("cut", 1000)])
        found = fetched(tmp_path, whole, f"one=gs://bucket/pre/a.bin@sha256:{sha(BIG)}")
        assert found == {"a.bin": BIG, "sub/b c.txt": b"b", "one/a.bin": BIG}

    @pytest.mark.parametrize(
        ("status", "kind", "words"),
        [
            (403, NotReadyError, "gs://bucket/pre: nobody in particular may not read it; give the pod's service account"),
            (401, NotReadyError, "the role of an object viewer"),
            (404, NotReadyError, "gs://bucket/pre: there is nothing; correct the address"),
            (500, LostPeerError, "answers 500; asked"),
        ],
    )
    def test_refusals(self, tmp_path: Path, bucket: GcsSite, status: int, kind: type[StageError], words: str) -> None:
        bucket.refuses = status
        assert words in said(tmp_path, f"gs://bucket/pre@sha256:{'0' * 64}", kind=kind)

    def test_an_account_whose_file_is_wrong(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
        told = said(tmp_path, f"gs://bucket/pre@sha256:{'0' * 64}", kind=NotReadyError)
        assert told.startswith("GOOGLE_APPLICATION_CREDENTIALS: ")


class TestS3:
    @pytest.fixture
    def bucket(self, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3)

    def test_a_prefix_and_an_object(self, tmp_path: Path, bucket: None, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.run(["digest", "s3://bucket/pre"]) == 0
        whole = capsys.readouterr().out.strip()
        found = fetched(tmp_path, whole, f"one=s3://bucket/pre/a.bin@sha256:{sha(BIG)}")
        assert found == {"a.bin": BIG, "sub/b c.txt": b"b", "one/a.bin": BIG}

    def test_a_large_one_in_slices(self, tmp_path: Path, bucket: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stage, "SLICE_BYTES", 70_000)
        assert fetched(tmp_path, f"s3://bucket/pre/a.bin@sha256:{sha(BIG)}") == {"a.bin": BIG}

    @pytest.mark.parametrize(
        ("where", "words"),
        [
            ("bucket/none", "no file at s3://bucket/none; correct the address"),
            ("nobucket/x", "no file at s3://nobucket/x; correct the address"),
        ],
    )
    def test_nothing_there(self, tmp_path: Path, bucket: None, where: str, words: str) -> None:
        assert words in said(tmp_path, f"s3://{where}@sha256:{'0' * 64}", kind=NotReadyError)

    @pytest.mark.parametrize(
        ("status", "kind", "words"),
        [
            (403, NotReadyError, "s3://bucket/pre: who asks has no right to it ("),
            (301, NotReadyError, "name it in AWS_REGION"),
            (503, LostPeerError, "asked 2 times in vain"),
        ],
    )
    def test_refusals(
        self, tmp_path: Path, status: int, kind: type[StageError], words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transfer, "TRIES", 2)  # The library itself asks three times.
        with serving(GcsSite(refuses=status)) as served:
            monkeypatch.setenv("AWS_ENDPOINT_URL", served.url)
            assert words in said(tmp_path, f"s3://bucket/pre@sha256:{'0' * 64}", kind=kind)


class TestNetwork:
    """Proxies and a private CA: each kind of source by the same three variables."""

    @pytest.mark.parametrize("value", ["minio:9000", "mirror.example.com", "ftp://x", "http://joe:hunter2@x", "https://"])
    @pytest.mark.parametrize(
        ("name", "source"), [("HF_ENDPOINT", TestHub.SOURCE), ("AWS_ENDPOINT_URL", f"s3://bucket@sha256:{ZEROS}")]
    )
    def test_a_mirror_that_is_none(
        self, tmp_path: Path, name: str, source: str, value: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not taken for none: Amazon would be asked, with the mirror's credentials."""
        monkeypatch.setenv(name, value)
        told = said(tmp_path, source, kind=UsageError)
        assert told.startswith(f"{name}: names no server; an address such as https://mirror.example.com")
        assert "hunter2" not in told

    @pytest.fixture
    def private(self, tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
        return private_ca(tmp_path)

    @pytest.mark.parametrize("kind", ["web", "hub", "gcs", "s3"])
    def test_by_a_proxy_with_a_private_ca(
        self, kind: str, tmp_path: Path, private: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bundle, tls = private
        source = {
            "web": f"a=URL/big.bin@sha256:{sha(BIG)}",
            "hub": f"a=hf://org/name@{COMMIT}",
            "gcs": f"a=gs://bucket/big.bin@sha256:{sha(BIG)}",
            "s3": f"a=s3://bucket/pre/a.bin@sha256:{sha(BIG)}",
        }[kind]
        site = {"hub": HubSite(repository={"big.bin": BIG}), "gcs": GcsSite(files={"big.bin": BIG})}.get(
            kind, Site(files={"/big.bin": BIG})
        )
        served = s3_serving(tls) if kind == "s3" else serving(site, tls)
        with served as there, proxying(Proxy()) as proxy:
            url = there if isinstance(there, str) else there.url
            source = source.replace("URL", url)
            monkeypatch.setattr(constants, "ENDPOINT", url)
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
            host = url.removeprefix("https://")
            told = said(tmp_path / "untrusted", source, kind=NotReadyError)
            assert "SSL_CERT_FILE" in told
            monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
            fetched(tmp_path / "direct", source)
            assert proxy.asked == []
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            fetched(tmp_path / "proxy", source)
            assert set(proxy.asked) == {f"CONNECT {host}"}
            proxy.asked.clear()
            monkeypatch.setenv("NO_PROXY", "localhost")
            fetched(tmp_path / "past", source)
            assert proxy.asked == []
            monkeypatch.delenv("NO_PROXY")
            monkeypatch.setattr(transfer, "TRIES", 2)
            proxy.login = "Basic eDp5"
            told = said(tmp_path / "refused", source, kind=StageError)
            assert "407" in told or "proxy" in told.lower(), told

    def test_a_bundle_that_is_none(self, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        source = f"{site.url}/big.bin@sha256:{sha(BIG)}"
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
        assert "name a file" in said(tmp_path, source, kind=UsageError)
        (tmp_path / "bad.pem").write_text("no certificate")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "bad.pem"))
        assert "a file of certificates is valid" in said(tmp_path, source, kind=UsageError)
        monkeypatch.delenv("SSL_CERT_FILE")
        monkeypatch.setenv("HTTP_PROXY", "socks9://x")
        assert "an address such as http://proxy:3128 is valid" in said(tmp_path, source, kind=UsageError)


def zipped(entries: dict[str, bytes], *, link: str = "") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # A name that comes twice.
        for name, what in entries.items():
            out.writestr(name.rstrip("*"), what)
        if link:
            entry = zipfile.ZipInfo(link)
            entry.external_attr = 0o120777 << 16
            out.writestr(entry, "/etc/passwd")
    return made.getvalue()


def tarred(entries: dict[str, bytes], kind: str = "w:gz", **special: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=kind) as out:  # type: ignore[call-overload]
        for name, what in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(what)
            out.addfile(entry, io.BytesIO(what))
        for name, form in special.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = form, "/etc/passwd"
            out.addfile(entry)
    return made.getvalue()


class TestArchives:
    FILES = {"data/a.csv": b"a", "b.txt": BIG, ".DS_Store": b"x", "__MACOSX/b.txt": b"x"}

    @pytest.mark.parametrize(
        ("name", "made"),
        [("x.zip", zipped(FILES)), ("x.tar.gz", tarred(FILES)), ("x.tgz", tarred(FILES)), ("x.tar", tarred(FILES, "w"))],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_its_files_take_its_place(self, tmp_path: Path, site: Site, name: str, made: bytes) -> None:
        site.files[f"/{name}"] = made
        found = fetched(tmp_path, f"a={site.url}/{name}@sha256:{sha(made)}", unpack=True)
        assert found == {"a/data/a.csv": b"a", "a/b.txt": BIG}
        assert fetched(tmp_path / "whole", f"{site.url}/{name}@sha256:{sha(made)}") == {name: made}

    def test_without_one_there_is_nothing_to_unpack(self, tmp_path: Path) -> None:
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "b.txt").write_bytes(BIG)
        found = said(tmp_path, f"{tmp_path}/there@sha256:{'0' * 64}", kind=UsageError, unpack=True)
        assert "--unpack: no archive among b.txt; take it out (an archive's name ends in .zip, .tar, .tar.gz" in found

    @pytest.mark.parametrize(
        ("name", "made", "words"),
        [
            ("x.zip", zipped({"a": b"", "../up": b"x"}), "holds '../up', which leads out of its folder; nothing of it is used"),
            ("x.zip", zipped({"/etc/cron": b"x"}), "holds '/etc/cron', which leads out"),
            ("x.zip", zipped({"a\\..\\b": b"x"}), "which leads out"),
            ("x.zip", zipped({"a": b"x", "a*": b"y"}), "holds 'a' twice"),
            ("x.zip", zipped({"a": b"x"}, link="l"), "holds 'l', which is no file and no folder"),
            ("x.zip", zipped({"a": b"x", "a/b": b"y"}), "x.zip holds a file and a folder of one name (a)"),
            ("x.zip", zipped({"a/b": b"x", "a": b"y"}), "x.zip holds a file and a folder of one name (a)"),
            ("x.zip", zipped({"a": BIG})[:-100], "x.zip cannot be unpacked"),
            ("x.zip", zipped({}), "x.zip holds no file"),
            ("x.tar.gz", tarred({"a/../../up": b"x"}), "which leads out"),
            ("x.tar.gz", tarred({"a": b"x"}, l=tarfile.SYMTYPE), "holds 'l', which is no file and no folder"),
            ("x.tar.gz", tarred({"a": b"x"}, l=tarfile.LNKTYPE), "holds 'l', which is no file and no folder"),
            ("x.tar.gz", tarred({"a": b"x"}, l=tarfile.CHRTYPE), "holds 'l', which is no file and no folder"),
            ("x.tar.gz", tarred({"a": BIG})[:500], "x.tar.gz cannot be unpacked"),
            ("x.tar.gz", b"no archive", "x.tar.gz cannot be unpacked"),
        ],
    )
    def test_one_that_is_wrong_leaves_nothing(self, tmp_path: Path, site: Site, name: str, made: bytes, words: str) -> None:
        site.files[f"/{name}"] = made
        assert words in said(tmp_path, f"{site.url}/{name}@sha256:{sha(made)}", kind=DataError, unpack=True)
        assert {part for part in content(tmp_path / "work" / "p" / "s") if not part.startswith(CHECKPOINTS)} == set()
        assert not (tmp_path / "work" / "p" / "up").exists()

    def test_a_name_that_is_taken(self, tmp_path: Path, site: Site) -> None:
        site.files |= {"/x.zip": (made := zipped({"small.txt": b"x"}))}
        sources = [
            f"{site.url}/dir/small.txt@sha256:{sha(site.files['/dir/small.txt'])}",
            f"{site.url}/x.zip@sha256:{sha(made)}",
        ]
        assert "several sources have small.txt" in said(tmp_path, *sources, kind=UsageError, unpack=True)

    def test_ended_while_it_is_unpacked_it_is_not_asked_for_again(
        self, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site.files["/x.zip"] = made = zipped(self.FILES)
        source = f"{site.url}/x.zip@sha256:{sha(made)}"
        sync = stage.sync
        monkeypatch.setattr(stage, "sync", lambda place: _fail(place.name == "a.csv"))
        with pytest.raises(OSError, match="ended"):
            fetched(tmp_path, source, unpack=True)
        monkeypatch.setattr(stage, "sync", sync)
        site.asked.clear()
        assert fetched(tmp_path, source, unpack=True) == {"data/a.csv": b"a", "b.txt": BIG}
        assert [asked for _, asked in site.asked] == ["bytes=0-0"]


def _fail(now: bool) -> None:
    if now:
        raise OSError("ended")


class TestDigest:
    """`minima digest` prints the pin that errors ask for."""

    def test_of_the_hub_a_commit(self, hub: HubSite, capsys: pytest.CaptureFixture[str]) -> None:
        for text in ("hf://org/name", "hf://org/name@v1", "hf://datasets/org/name@main", "hf://spaces/org/name"):
            assert cli.run(["digest", text]) == 0
            assert capsys.readouterr().out == f"{text.split('@')[0]}@{COMMIT}\n"
        assert cli.run(["digest", "hf://org/name@gone"]) == 75

    def test_of_the_rest_a_digest_that_fetch_accepts(
        self, tmp_path: Path, site: Site, hub: HubSite, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "there" / "sub").mkdir(parents=True)
        (tmp_path / "there" / "a.txt").write_text("a")
        (tmp_path / "there" / "sub" / "b.json").write_text("b")
        hub.faults = deque([("cut", 2)])
        for number, (source, more) in enumerate(
            [
                (f"{site.url}/big.bin", {}),
                (f"{tmp_path}/there", {}),
                (f"x={tmp_path}/there", {"include": ("x/**/*.json",)}),
                (f"hf://org/name@{COMMIT}", {"exclude": ("*.json",)}),
            ]
        ):
            words = [word for name, globs in more.items() for word in (f"--{name}", *globs)]
            assert cli.run(["digest", source, *words]) == 0
            assert fetched(tmp_path / str(number), capsys.readouterr().out.strip(), **more)

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ([], "usage: minima digest PATH | SOURCE [--include GLOB …] [--exclude GLOB …]"),
            (["ftp://x/y"], "found 'ftp://x/y'; valid: hf://ORG/NAME@COMMIT"),
            (["https://joe:hunter2@x/y"], "found a credential in https://x/…"),
            (["s3://x/y", "--incldue", "*.json"], "--incldue: no such option of fetch; did you mean 'include'?"),
            (["nowhere"], "nowhere: no file there; a file, a folder, a glob or an address such as hf://ORG/NAME is valid"),
        ],
    )
    def test_what_is_wrong(self, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.run(["digest", *words]) in (64, 75)
        assert said in capsys.readouterr().err
