"""Asks what it is told to, as any program would, and tells what came of it.

usage: asker.py   (an object of JSON a line on stdin: `to`, a URL, and what goes with it; on stdout a list of answers, a line each)

http://HOST:PORT/PATH       `method`, `headers` (a list of pairs, of which `host` is the Host), `body`
grpc://HOST:PORT/SVC/METHOD `headers`; the answer's `status` is gRPC's code
tls://HOST:PORT             `name`: the server that is named
tcp://HOST:PORT

`times` has it asked so often. An answer has `status`, `headers`, `body`; or `error`.
"""

import http.client
import json
import os
import socket
import ssl
import sys
from urllib.parse import urlsplit

PATIENCE = 10
# The mesh's DNS answers, not the client library's own resolver.
os.environ.setdefault("GRPC_DNS_RESOLVER", "native")


def by_http(url, question, kept):
    target = (url.path or "/") + ("?" + url.query if url.query else "")
    headers = question.get("headers", [])
    proxy = os.environ.get("http_proxy")
    to = (url.hostname, url.port or 80)
    if proxy and not url.hostname.startswith("127."):
        target = f"http://{url.netloc}{target}"
        to = (urlsplit(proxy).hostname, urlsplit(proxy).port)
    connection = kept.get("http") or http.client.HTTPConnection(*to, timeout=PATIENCE)
    names = [name.lower() for name, _ in headers]
    connection.putrequest(question.get("method", "GET"), target, skip_host=True, skip_accept_encoding=True)
    if "host" not in names:
        connection.putheader("host", url.netloc)
    for name, value in headers:
        connection.putheader(name, value)
    body = question.get("body", "").encode()
    if body:
        connection.putheader("content-length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    # Where the other side closes it, it opens another one by itself.
    kept["http"] = connection
    return {"status": answer.status, "headers": answer.getheaders(), "body": text}


def by_grpc(url, question, kept):
    import grpc

    metadata = [(name.lower(), value) for name, value in question.get("headers", [])]
    channel = kept["grpc"] = kept.get("grpc") or grpc.insecure_channel(url.netloc)
    # Messages are bytes: an empty one is one of any type.
    call = channel.unary_unary(url.path)
    try:
        body, done = call.with_call(b"", metadata=metadata, timeout=PATIENCE)
        code = 0
    except grpc.RpcError as error:
        body, done, code = b"", error, error.code().value[0]
    if body.startswith(b"\n"):
        # A fake service's message: its first field is its name.
        body = json.dumps({"name": body[2 : 2 + body[1]].decode()}).encode()
    headers = [[name, str(value)] for name, value in done.initial_metadata() or ()]
    headers += [[name, str(value)] for name, value in done.trailing_metadata() or ()]
    return {"status": code, "headers": headers, "body": body.decode(errors="replace"), "said": done.details()}


def by_bytes(url, question, _):
    connection = socket.create_connection((url.hostname, url.port), timeout=PATIENCE)
    if url.scheme == "tls":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = context.wrap_socket(connection, server_hostname=question.get("name"))
    with connection:
        connection.sendall(b"who?\n")
        body = b""
        while not body.endswith(b"\n"):
            chunk = connection.recv(4096)
            if not chunk:
                raise ConnectionError("closed without an answer")
            body += chunk
    return {"status": 0, "headers": [], "body": body.decode()}


KINDS = {"http": by_http, "grpc": by_grpc, "tls": by_bytes, "tcp": by_bytes}


def ask(question, kept):
    url = urlsplit(question["to"])
    try:
        return KINDS[url.scheme](url, question, kept)
    except (OSError, http.client.HTTPException) as error:
        kept.clear()
        return {"error": f"{type(error).__name__}: {error}"}


for line in sys.stdin:
    # What one question opens, all of its times use.
    question, kept = json.loads(line), {}
    print(json.dumps([ask(question, kept) for _ in range(question.get("times", 1))]), flush=True)
    for connection in kept.values():
        connection.close()
