"""grpcio as a client of every gRPC server of the mesh."""

import itertools
import json
import os
import queue

# The mesh's DNS answers, not the client library's own resolver.
os.environ.setdefault("GRPC_DNS_RESOLVER", "native")

import grpc

from cases import KILLS, eventually, place, run, same

SOON = 10
WHY = bytes([0, 1, 254, 255])


class Client:
    def __init__(self, service, **options):
        channel = grpc.insecure_channel(place(service), **options)
        name = lambda method: f"/test.Peer/{method}"
        self.echo = channel.unary_unary(name("Echo"))
        self.fail = channel.unary_stream(name("Fail"))
        self.count = channel.stream_unary(name("Count"))
        self.talk = channel.stream_stream(name("Talk"))
        self.wait = channel.unary_unary(name("Wait"))
        self.begun = channel.unary_unary(name("Begun"))
        self.gone = channel.unary_unary(name("Gone"))
        self.nothing = channel.unary_unary(name("Nothing"))
        self.reset = channel.unary_stream(name("Reset"))


def failure(ask):
    try:
        ask()
    except grpc.RpcError as error:
        return error
    raise AssertionError("it did not fail")


def collect(call):
    """The messages of a stream of answers; its status is the call's."""
    messages = []
    try:
        for message in call:
            messages.append(message)
    except grpc.RpcError:
        pass
    return messages


def conversation(client):
    """A call of Talk with what it is told, in turns with its answers."""
    words = queue.SimpleQueue()
    return words, client.talk(iter(words.get, None), timeout=SOON)


def of_server(service):
    client = Client(service)

    def metadata():
        sent = [("x-text", "one"), ("x-bytes-bin", b"\0\xff\r\n"), ("x-large", "m" * 6000)]
        answer, call = client.echo.with_call(b"hello", metadata=sent, timeout=SOON)
        same(answer, b"hello")
        for seen in (call.initial_metadata(), call.trailing_metadata()):
            same([(k, v) for k, v in sent if (k, v) in list(seen)], sent)

    def large():
        message = bytes(range(250)) * 10_000
        assert client.echo(message, timeout=SOON) == message

    def compressed():
        compressing = Client(service, compression=grpc.Compression.Gzip)
        same(compressing.echo(bytes(100_000), timeout=SOON), bytes(100_000))

    def many():
        calls = [client.echo.future(str(i).encode(), timeout=SOON) for i in range(100)]
        same([call.result() for call in calls], [str(i).encode() for i in range(100)])

    def status():
        for messages, code, details in [
            (0, 9, "as asked: 100 % ☃"),
            (3, 10, "later"),
            (0, 16, ""),
            (1, 14, "the application says so"),
        ]:
            wish = {"messages": messages, "code": code, "details": details}
            call = client.fail(json.dumps(wish).encode(), timeout=SOON)
            same(len(collect(call)), messages)
            same((call.code().value[0], call.details()), (code, details))
            same(dict(call.trailing_metadata())["x-why-bin"], WHY)

    def upload():
        same(client.count(itertools.repeat(bytes(10_000), 100), timeout=SOON), b"100 1000000")

    def talk():
        words, call = conversation(client)
        for word in (b"one", b"two", b""):
            words.put(word)
            same(next(call), word)
        words.put(None)
        same(list(call), [])
        same(call.code(), grpc.StatusCode.OK)

    def given_up():
        begun = lambda: int(client.begun(b"", timeout=SOON))
        gone = lambda: int(client.gone(b"", timeout=SOON))
        begun_before, gone_before = begun(), gone()
        # The deadline may pass before the server has looked at the call.
        while begun() == begun_before:
            same(failure(lambda: client.wait(b"", timeout=0.2)).code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        begun_by_then = begun()
        call = client.wait.future(b"", timeout=SOON)

        def there():
            assert begun() > begun_by_then

        def told():
            assert gone() >= gone_before + 2

        eventually(there)
        call.cancel()
        eventually(told)

    def unknown():
        same(failure(lambda: client.nothing(b"", timeout=SOON)).code(), grpc.StatusCode.UNIMPLEMENTED)

    return {
        "a message is answered, with metadata at both ends": metadata,
        "large messages": large,
        "a compressed message": compressed,
        "many calls at once": many,
        "the status of an application, before and after messages": status,
        "a stream of the client": upload,
        "a conversation": talk,
        "a deadline, and a call that is given up, reach the server": given_up,
        "a method that there is not": unknown,
    }


# The codes of HTTP/2 that an application resets with, and what gRPC makes of them.
RESETS = {2: 13, 8: 1, 11: 8, 12: 7}


def resets():
    client = Client("h2")
    for code, status in RESETS.items():
        call = client.reset(str(code).encode(), timeout=SOON)
        # grpcio may drop what came before a reset.
        assert collect(call) in ([b"one"], [])
        same((code, call.code().value[0]), (code, status), call.details())


def nobody():
    error = failure(lambda: Client("nobody").echo(b"", timeout=SOON))
    same(error.code(), grpc.StatusCode.UNAVAILABLE, error.details())


def killing(service):
    client = Client(service)
    there = lambda: eventually(lambda: client.echo(b"", timeout=1))

    def within():
        there()
        words, call = conversation(client)
        words.put(b"hello")
        same(next(call), b"hello")
        words.put(b"die")
        collect(call)
        words.put(None)
        same(call.code(), grpc.StatusCode.UNAVAILABLE, call.details())

    def before():
        there()
        words, call = conversation(client)
        words.put(b"die")
        collect(call)
        words.put(None)
        same(call.code(), grpc.StatusCode.UNAVAILABLE, call.details())

    return {
        "a server that dies within a stream is unavailable": within,
        "a server that dies before it answers is unavailable": before,
        "it is back": there,
    }


CASES = {} if KILLS else {"an application's resets keep their codes": resets, "nobody is there": nobody}
for service in ("grpc-js", "grpc-py"):
    checks = (killing if KILLS else of_server)(service)
    CASES.update({f"{service}: {name}": check for name, check in checks.items()})
run(CASES)
