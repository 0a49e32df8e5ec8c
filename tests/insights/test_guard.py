import socket

import pytest

from llm_attr.errors import InvalidValue
from llm_attr.insights import guard
from llm_attr.insights.server import check_exposure

TOKEN = "0123456789abcdef"
ASKED = {"prompt": "One.", "target": "x"}


def test_other_hosts_and_origins_are_refused(serve):
    _, client = serve()
    assert client.get("/", Host="evil.example")[0] == 421
    assert client.get("/", Host="evil.example:80")[0] == 421
    assert client.post("/api/explain", ASKED, Origin="http://evil.example")[0] == 403
    assert client.post("/api/explain", ASKED, Origin="null")[0] == 403
    assert client.post("/api/explain", ASKED, Content_Type="text/plain")[0] == 415
    assert client.get("/api/history")[2] == []
    assert client.post("/api/explain", ASKED, Origin=client.address.geturl())[0] == 202


def test_large_and_slow_bodies_are_refused(serve, monkeypatch):
    monkeypatch.setattr(guard, "BODY", 1000)
    monkeypatch.setattr(guard, "PATIENCE", 0.1)
    _, client = serve()
    assert client.post("/api/explain", {"prompt": "x" * 2000})[0] == 413
    head = f"POST /api/explain HTTP/1.1\r\nHost: {client.address.netloc}\r\nContent-Type: application/json\r\n"
    for end, status in (("Content-Length: 10\r\n\r\n{", b"408"), ("Transfer-Encoding: chunked\r\n\r\n", b"413")):
        with socket.create_connection((client.address.hostname, client.address.port), timeout=20) as it:
            it.sendall((head + end).encode())
            if status == b"413":
                it.sendall(b"7d0\r\n" + b"x" * 2000 + b"\r\n")
            assert it.recv(100).split()[1] == status


def test_a_token_opens_the_page_once_and_stays_in_a_cookie(serve):
    _, client = serve(token=TOKEN, hosts=frozenset())
    assert client.get("/")[0] == client.get("/api/about")[0] == client.get("/?token=wrong")[0] == 401
    status, headers, _ = client.get(f"/?token={TOKEN}")
    assert (status, headers["Location"]) == (303, "/")
    assert {"HttpOnly", "SameSite=Strict"} <= set(headers["Set-Cookie"].split("; "))
    cookie = headers["Set-Cookie"].partition(";")[0]
    assert client.get("/api/about", Cookie=cookie)[0] == 200
    assert client.get("/api/about", Cookie=cookie + "x")[0] == 401


def test_every_answer_has_the_policy(serve):
    _, client = serve()
    for path in ("/", "/api/about", "/api/results/" + "0" * 32, "/static/app.js", "/openapi.json"):
        policy = client.get(path)[1]["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy


@pytest.mark.parametrize(("host", "token"), [("0.0.0.0", None), ("example.org", None), ("127.0.0.1", "short")])
def test_nobody_is_exposed_without_a_token(host, token):
    with pytest.raises(InvalidValue, match="token"):
        check_exposure(host, token)


def test_what_is_accepted():
    check_exposure("127.0.0.1", None)
    check_exposure("::1", None)
    check_exposure("0.0.0.0", TOKEN)
