"""gRPC with all four kinds of streaming, without generated code: messages are plain bytes.

usage: grpc_peer.py server            (at $PORT)
       grpc_peer.py client HOST:PORT  (prints one JSON object)
"""

import json
import os
import sys
import threading
from concurrent import futures

import grpc

SERVICE = "test.Echo"


def serve():
    def unary(request, context):
        if request == b"fail":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked")
        context.set_trailing_metadata((("x-trailer", "kept"),))
        return request.upper()

    def server_stream(request, context):
        for i in range(5):
            yield request + str(i).encode()

    def client_stream(requests, context):
        return b",".join(requests)

    def both(requests, context):
        for request in requests:
            yield request[::-1]

    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "Both": grpc.stream_stream_rpc_method_handler(both),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{os.environ['PORT']}")
    server.start()
    server.wait_for_termination()


def call(target):
    # The mesh's DNS answers, not the client library's own resolver.
    os.environ.setdefault("GRPC_DNS_RESOLVER", "native")
    seen = {}
    with grpc.insecure_channel(target) as channel:
        name = lambda method: f"/{SERVICE}/{method}"
        answer, details = channel.unary_unary(name("Unary")).with_call(b"hello", timeout=10)
        seen["unary"] = answer.decode()
        seen["trailer"] = dict(details.trailing_metadata()).get("x-trailer")
        try:
            channel.unary_unary(name("Unary"))(b"fail", timeout=10)
        except grpc.RpcError as error:
            seen["error"] = [error.code().name, error.details()]
        seen["server_stream"] = [m.decode() for m in channel.unary_stream(name("ServerStream"))(b"n", timeout=10)]
        parts = (str(i).encode() for i in range(4))
        seen["client_stream"] = channel.stream_unary(name("ClientStream"))(parts, timeout=10).decode()
        # Each message is sent only after the answer to the one before has arrived.
        answers = []
        ready_now = threading.Event()

        def conversation():
            for i in range(3):
                yield f"ab{i}".encode()
                while len(answers) <= i:
                    ready_now.wait(10)
                    ready_now.clear()

        for message in channel.stream_stream(name("Both"))(conversation(), timeout=10):
            answers.append(message.decode())
            ready_now.set()
        seen["both"] = answers
    print(json.dumps(seen), flush=True)


if sys.argv[1] == "server":
    serve()
else:
    call(sys.argv[2])
