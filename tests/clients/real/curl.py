"""curl as a client of applications of HTTP/1 and HTTP/2."""

import json
import os
import subprocess
import tempfile

from cases import place, run, same

WEB, H2 = f"http://{place('web')}", f"http://{place('h2')}"
ODD = '/"<>{}|\\^`/a[b]?q="<>`{}'
BODY = bytes(range(250)) * 6_000


def curl(*arguments, body=None):
    """What curl prints, of heads too."""
    line = ["curl", "-sS", "-m", "10", "--path-as-is", "-g", "--noproxy", "*", *arguments]
    done = subprocess.run(line, input=body, capture_output=True)
    assert done.returncode == 0, f"{line}: {done.returncode}: {done.stderr.decode()}"
    return done.stdout


def told(*arguments, body=None):
    return json.loads(curl(*arguments, body=body))


def versions():
    same(told(f"{WEB}/a")["httpVersion"], "1.1")
    same(curl("-0", "-o", "/dev/null", "-w", "%{http_code}", WEB), b"200")
    # An upgrade that is not taken, and prior knowledge towards an application of HTTP/1.
    same(curl("--http2", "-o", "/dev/null", "-w", "%{http_code} %{http_version}", WEB), b"200 1.1")
    same(curl("--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_code} %{http_version}", WEB), b"200 2")
    for version in ("--http1.1", "--http2-prior-knowledge"):
        same(told(version, f"{H2}/a")["headers"][":path"], "/a")


def paths():
    same(told("--request-target", ODD, WEB)["url"], ODD)
    same(told("-X", "OPTIONS", "--request-target", "*", WEB)["url"], "*")
    for version in ("--http1.1", "--http2-prior-knowledge"):
        # As the bytes of UTF-8, which Node shows as Latin-1.
        seen = told(version, "--request-target", f"{ODD}é", H2)["headers"][":path"]
        same(seen, f"{ODD}é".encode().decode("latin-1"))


def uploads():
    with tempfile.NamedTemporaryFile() as file:
        file.write(BODY)
        file.flush()
        # curl sends Expect with such a body.
        for version in ("--http1.1", "--http2-prior-knowledge"):
            for url in (WEB, H2):
                assert curl(version, "-T", file.name, f"{url}/echo") == BODY, (version, url)
        assert curl("-X", "POST", "-T", "-", f"{WEB}/echo", body=BODY) == BODY, "in chunks"
        same(told("-F", f"file=@{file.name}", "-F", "a=b", WEB)["method"], "POST")


def expect():
    wait = ["-H", "Expect: 100-continue", "-d", "body"]
    assert curl("-i", *wait, f"{WEB}/echo").startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")
    same(told("--expect100-timeout", "0.1", *wait, f"{WEB}/silent")["length"], 4)
    # It is refused, and curl asks again without.
    seen = curl("-i", *wait, f"{WEB}/refuse")
    assert seen.startswith(b"HTTP/1.1 417 ") and b"100 Continue" not in seen, seen


def heads():
    seen = curl("-i", "-H", "X-CaSe: a", f"{WEB}/case").decode("latin-1")
    assert seen.startswith("HTTP/1.1 200 Fine Enough\r\nX-CaSe: a\r\nx-OTHER: b\r\nX-case: caf\xe9\r\n"), seen
    assert curl("-i", f"{WEB}/hints").startswith(b"HTTP/1.1 103 Early Hints\r\n")
    assert curl("-i", "--http2-prior-knowledge", f"{H2}/hints").startswith(b"HTTP/2 103 \r\n")
    for url in (WEB, H2):
        assert b" 200 " in curl("-I", url).splitlines()[0]
    for code in (204, 304):
        same(curl("-w", "%{http_code}", f"{WEB}/status?code={code}"), str(code).encode())
    same(curl(f"{WEB}/until-close"), b"until the end")


def connections():
    """Several requests on one connection."""
    urls = [f"{WEB}/status?code=200" for _ in range(3)]
    seen = curl("-w", "%{http_code} %{num_connects};", *urls)
    same(seen, b"200 1;200 0;200 0;")


def by_proxy():
    """By the names that only the proxy knows."""
    if "http_proxy" in os.environ:
        for more in ([], ["--proxytunnel"]):
            same(told("--noproxy", "", *more, "http://web:9461/a?b")["url"], "/a?b")
        same(curl("--noproxy", "", "-p", "--http2-prior-knowledge", "-w", "%{http_version}", "-I", "http://h2:9462")[-1:], b"2")


run(
    {
        "all versions, towards both": versions,
        "paths stay as they are": paths,
        "uploads": uploads,
        "100 Continue, and what does without": expect,
        "heads": heads,
        "connections are kept": connections,
        "by the HTTP proxy": by_proxy,
    }
)
