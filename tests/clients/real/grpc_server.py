"""grpcio as a server, at $PORT: what grpc_methods.js says."""

import json
import os
import signal
from concurrent import futures

import grpc

begun = 0
gone = 0


def echo(request, context):
    kept = [(k, v) for k, v in context.invocation_metadata() if k in ("x-text", "x-bytes-bin", "x-large")]
    context.send_initial_metadata(kept)
    context.set_trailing_metadata(kept)
    return request


def fail(request, context):
    wish = json.loads(request)
    for i in range(wish["messages"]):
        yield str(i).encode()
    context.set_trailing_metadata((("x-why-bin", bytes([0, 1, 254, 255])),))
    codes = {code.value[0]: code for code in grpc.StatusCode}
    context.abort(codes[wish["code"]], wish["details"])


def count(requests, context):
    lengths = [len(message) for message in requests]
    return f"{len(lengths)} {sum(lengths)}".encode()


def talk(requests, context):
    for message in requests:
        if message == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        yield message


def wait(request, context):
    global begun, gone
    begun += 1
    over = futures.Future()
    # It may be over already.
    if context.add_callback(lambda: over.set_result(None)):
        over.result()
    gone += 1
    return b""


METHODS = {
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Fail": grpc.unary_stream_rpc_method_handler(fail),
    "Count": grpc.stream_unary_rpc_method_handler(count),
    "Talk": grpc.stream_stream_rpc_method_handler(talk),
    "Wait": grpc.unary_unary_rpc_method_handler(wait),
    "Begun": grpc.unary_unary_rpc_method_handler(lambda request, context: str(begun).encode()),
    "Gone": grpc.unary_unary_rpc_method_handler(lambda request, context: str(gone).encode()),
}

server = grpc.server(futures.ThreadPoolExecutor(16))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Peer", METHODS),))
server.add_insecure_port(f"127.0.0.1:{os.environ['PORT']}")
server.start()
server.wait_for_termination()
