import pytest

from qprobe.dashboard import create_app


@pytest.fixture(scope="module")
def client(sweep):
    return create_app(sweep, allow_hosts=["bench.example"]).server.test_client()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8050", 200),
        ("localhost", 200),
        ("[::1]:8050", 200),
        ("BENCH.example:1", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("evil@127.0.0.1", 403),
        ("", 403),
    ],
)
def test_only_known_hosts_are_answered(client, host, status):
    assert client.get("/", headers={"Host": host}).status_code == status


def test_other_sites_may_not_post(client):
    headers = {"Host": "localhost", "Sec-Fetch-Site": "cross-site"}
    answer = client.post("/_dash-update-component", headers=headers, json={})
    assert answer.status_code == 403


def test_a_page_may_load_nothing_from_elsewhere(client):
    policy = client.get("/", headers={"Host": "localhost"}).headers["Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'self'"
    assert "unsafe" not in rules["script-src"]
    assert rules["object-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"
    assert "http" not in policy


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../../../etc/passwd",
        "/assets/%2e%2e/%2e%2e/pyproject.toml",
        "/_dash-component-suites/dash/../../../x.py",
        "/_dash-component-suites/os/path.py",
    ],
)
def test_paths_out_of_the_folder_are_not_found(client, path):
    answer = client.get(path, headers={"Host": "localhost"})
    assert answer.status_code == 404 or answer.data.startswith(b"<!DOCTYPE html>")
