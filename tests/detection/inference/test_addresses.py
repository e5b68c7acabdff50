"""Images at addresses: the bytes of the file, or one sentence, whatever the server does."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import chordate
from detection.cli import main
from detection.inference import images
from detection.inference.addresses import downloaded, file_name, is_address, shown
from detection.inference.images import pictures_of, root_of
from shared.errors import DataError


def png() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 20, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


IMAGE = png()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    let_go = threading.Event()


class Answer(BaseHTTPRequestHandler):
    """What a path asks for."""

    def do_GET(self) -> None:
        kind, body, told = "image/png", IMAGE, None
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "/street.png")
            self.end_headers()
            return
        if self.path == "/gone.png":
            self.send_error(404, "Not Found")
            return
        if self.path == "/mine.png" and self.headers["Authorization"] != "Basic bWU6czpjcmV0":
            self.send_error(401, "Unauthorized")
            return
        if self.path == "/page.png":
            kind, body = "text/html; charset=utf-8", b"<html><body>log in</body></html>"
        if self.path == "/hidden.png":
            body = b"\n<!DOCTYPE HTML><html></html>"
        if self.path == "/text.png":
            body = b"no picture"
        if self.path == "/cut.png":
            told = len(body) + 100
        if self.path == "/large.png":
            body = b"x" * (3 << 20)
        if self.path == "/silent.png":
            self.server.let_go.wait(20)  # type: ignore[attr-defined]
            return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(told or len(body)))
        self.end_headers()
        try:
            if self.path == "/slow.png":
                for place in range(len(body)):
                    self.wfile.write(body[place : place + 1])
                    if self.server.let_go.wait(0.05):  # type: ignore[attr-defined]
                        return
                return
            self.wfile.write(body)
        except OSError:
            pass  # the client has gone, as it should

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    serving = Server(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.let_go.set()
    serving.shutdown()
    serving.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_the_bytes_at_an_address(server: str) -> None:
    assert downloaded(f"{server}/street.png") == IMAGE
    assert downloaded(f"{server}/moved") == IMAGE
    assert downloaded(f"{server}/mine.png".replace("//", "//me:s%3Acret@")) == IMAGE


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("gone.png", "answers 404 Not Found; check the address"),
        ("mine.png", "answers 401 Unauthorized; check the address"),
        ("page.png", "is a web page, not an image; give the address of the image itself"),
        ("hidden.png", "is a web page, not an image; give the address of the image itself"),
        ("large.png", "is larger than 1 MB; download it and give the file"),
        ("cut.png", f"ended after {len(IMAGE)} of {len(IMAGE) + 100} bytes; try again"),
        ("silent.png", "did not arrive within 0.5 seconds; try again, or download it and give the file"),
        ("slow.png", "did not arrive within 0.5 seconds; try again, or download it and give the file"),
    ],
)
def test_what_goes_wrong_is_one_sentence(path: str, says: str, server: str) -> None:
    with pytest.raises(DataError) as refused:
        downloaded(f"{server}/{path}", seconds=0.5 if path in ("silent.png", "slow.png") else 20, largest=1 << 20)
    assert str(refused.value) == f"{server}/{path} {says}"


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/a.png", "http://[::1/a.png", "http:///a.png", "http://host:port/a.png", "https://"]
)
def test_addresses_that_lead_nowhere_are_one_sentence(address: str) -> None:
    with pytest.raises(DataError, match=re.compile(r"\A[^\n]*; check the address( and the connection)?\Z")):
        downloaded(address, seconds=5)


def test_addresses_among_files_are_predicted_in_the_order_given(server: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.png"
    file.write_bytes(IMAGE)
    sources = [f"{server}/street.png?size=1", str(file), f"{server}/gone.png", f"{server}/text.png", f"{server}/moved"]
    seen = list(pictures_of(sources, None))
    assert [(one.image_id, one.path.name, bool(one.address)) for one in seen] == [
        (1, "street.png", True),
        (2, "mine.png", False),
        (5, "moved", True),
    ]
    assert all((one.pixels == seen[1].pixels).all() for one in seen)
    assert root_of(sources) == tmp_path


def test_an_address_alone_says_what_is_wrong_with_it(server: str) -> None:
    with pytest.raises(DataError, match="answers 404"):
        list(pictures_of([f"{server}/gone.png"], None))
    with pytest.raises(DataError, match=r"none of the 1 files can be read as an image; check http://127.*/text.png"):
        list(pictures_of([f"{server}/text.png"], None))


def test_files_are_read_without_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "downloaded", lambda address: pytest.fail(f"{address} was asked for"))
    (tmp_path / "a.png").write_bytes(IMAGE)
    assert len(list(pictures_of([str(tmp_path), str(tmp_path / "a.png")], None))) == 2


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://example.org/a/b%20c.jpg?x=/d.png#e", "b c.jpg"),
        ("https://example.org", "image"),
        ("https://example.org/a/..", "image"),
        ("https://example.org/%2e%2e%2f%2e%2e%2fetc", "etc"),
        ("https://example.org/a%5c..%5cb.jpg", "b.jpg"),
    ],
)
def test_names_of_files_hold_no_folder(address: str, name: str) -> None:
    assert file_name(address) == name


def test_passwords_are_not_shown_and_other_sources_are_no_addresses() -> None:
    assert shown("https://me:secret@example.org/a.jpg#x") == "https://example.org/a.jpg"
    assert is_address("HTTPS://example.org/a.jpg")
    assert not any(map(is_address, ("file:///etc/passwd", "ftp://example.org/a", "http.jpg", Path("http://x"), 3)))


def test_an_image_at_an_address_is_predicted_as_the_file(server: str, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "street.png").write_bytes(IMAGE)
    address = server.replace("//", "//me:secret@") + "/street.png"
    words = ["--weights", str(weights), "--device", "cpu", "--min-score", "0", "-o"]
    assert main(["predict", address, *words, str(tmp_path / "there")]) == 0
    assert main(["predict", str(tmp_path / "street.png"), *words, str(tmp_path / "here")]) == 0
    here, there = ((tmp_path / name) for name in ("here", "there"))
    assert (there / "results.json").read_bytes() == (here / "results.json").read_bytes()
    (listed,) = json.loads((there / "images.json").read_text())["images"]
    assert listed["file_name"] == "street.png" and listed["url"] == f"{server}/street.png"
    assert (there / "street.png.jpg").is_file()
    model = chordate.load(weights, device="cpu")
    found, file = model.predict([f"{server}/street.png", tmp_path / "street.png"], 0.0)
    assert found.path is None and len(found) == len(file) > 0 and (found.boxes == file.boxes).all()
    with pytest.raises(DataError, match="answers 404"):
        model.predict(f"{server}/gone.png")
