"""The PyPI package websockets as a client of every WebSocket server of the mesh."""

import json

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from cases import KILLS, eventually, place, run, same


def opened(service, path="/", **options):
    return connect(f"ws://{place(service)}{path}", max_size=64 << 20, **options)


def ask(socket, message):
    socket.send(message)
    return socket.recv(10)


def closed(socket):
    try:
        socket.recv(10)
    except ConnectionClosed as error:
        return error.rcvd
    raise AssertionError("it is open")


def refused(service, path):
    try:
        opened(service, path)
    except InvalidStatus as error:
        return error.response
    raise AssertionError("it is open")


def of_server(service):
    def messages():
        for compression in ("deflate", None):
            with opened(service, compression=compression) as socket:
                same("Sec-WebSocket-Extensions" in socket.response.headers, compression is not None)
                same(ask(socket, "hällo"), "hällo")
                for length in (0, 125, 126, 65_536, 1_500_000):
                    message = (bytes(range(251)) * (length // 251 + 1))[:length]
                    assert ask(socket, message) == message, f"{length} bytes"

    def pieces():
        with opened(service, subprotocols=["one", "two"]) as socket:
            same(socket.subprotocol, "two")
            same(ask(socket, ["a", "b", "c" * 100_000]), "ab" + "c" * 100_000)
            assert socket.ping().wait(10)

    def greeting():
        with opened(service, "/greet") as socket:
            same(socket.recv(10), "welcome")

    def codes():
        with opened(service) as socket:
            socket.send("close 4001")
            seen = closed(socket)
            same((seen.code, seen.reason), (4001, "as asked"))
        with opened(service) as socket:
            socket.close(4003, "enough")

        # The application hears of it when the connection has ended, which this side does not wait for.
        def heard():
            with opened(service) as socket:
                seen = json.loads(ask(socket, "closes"))
                assert "4003 enough" in seen, seen

        eventually(heard)

    def refusals():
        for status in (401, 403, 503):
            answer = refused(service, f"/refuse/{status}")
            same((answer.status_code, answer.body), (status, b"refused"))
            same(answer.headers.get("tulle-reason"), None)
            if status == 401:
                same(answer.headers["WWW-Authenticate"], 'Basic realm="test"')

    return {
        "messages of text and bytes, small and large": messages,
        "fragments, pings, subprotocols": pieces,
        "a server that speaks first": greeting,
        "close codes both ways": codes,
        "a refused one has its status and body": refusals,
    }


def nobody():
    answer = refused("nobody", "/")
    same((answer.status_code, answer.headers.get("tulle-reason")), (503, "no-endpoints"))


def killing(service):
    def dies():
        socket = eventually(lambda: opened(service))
        socket.send("die")
        same(closed(socket), None)

    return {"a server that dies ends it": dies}


CASES = {} if KILLS else {"nobody is there": nobody}
for service in ("ws-js", "ws-py"):
    checks = (killing if KILLS else of_server)(service)
    CASES.update({f"{service}: {name}": check for name, check in checks.items()})
run(CASES)
