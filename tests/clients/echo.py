"""Services that tell what they were asked, each at a port of its own.

usage: echo.py KIND:NAME:PORT…   (KIND: http, grpc, tls, tcp; for tls, $ECHO_PEM is the file of certificate and key)

An answer is an object of JSON with the service's `name`, and the `method`, `path` and `headers` (a list of pairs) of the request; of tls and
tcp its name alone, as that of a service that is asked for a line. Of HTTP, requests say what becomes of them:

x-answer: 503          this status, in place of 200
x-answer-set: a=b      a field of the answer (repeatable)
x-answer-after: 0.5    after so many seconds
x-id: ID               counted; with `x-fail: N` the first N of that ID are answered with 503
GET /_count/ID         how many of that ID there were, at this service
"""

import collections
import http.server
import json
import os
import socketserver
import ssl
import sys
import threading
import time

LOCK = threading.Lock()
COUNTS = collections.Counter()


class Http(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Heads and bodies in one segment: nobody waits for an acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True

    def read_body(self):
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                self.rfile.read(size + 2)
            while self.rfile.readline().strip():
                pass
        else:
            self.rfile.read(int(self.headers.get("content-length") or 0))

    def answer(self):
        self.read_body()
        name = self.server.name
        told = {"name": name, "method": self.command, "path": self.path, "headers": self.headers.items()}
        status = int(self.headers.get("x-answer", 200))
        if self.path.startswith("/_count/"):
            told["count"] = COUNTS[name, self.path.removeprefix("/_count/")]
        elif "x-id" in self.headers:
            with LOCK:
                COUNTS[name, self.headers["x-id"]] += 1
                count = COUNTS[name, self.headers["x-id"]]
            if count <= int(self.headers.get("x-fail", 0)):
                status = 503
        time.sleep(float(self.headers.get("x-answer-after", 0)))
        body = b"" if self.command == "HEAD" else json.dumps(told).encode()
        self.send_response(status)
        for field in self.headers.get_all("x-answer-set", []):
            self.send_header(*field.split("=", 1))
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = answer

    def log_message(self, *_):
        pass


class Line(socketserver.StreamRequestHandler):
    def handle(self):
        if self.rfile.readline():
            self.wfile.write(json.dumps({"name": self.server.name}).encode() + b"\n")


class Lines(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128
    context = None

    def finish_request(self, request, client_address):
        try:
            if self.context:
                request = self.context.wrap_socket(request, server_side=True)
            super().finish_request(request, client_address)
        except OSError:
            # A client that does not want this certificate, or only looks whether somebody listens.
            pass
        finally:
            request.close()


class Requests(http.server.ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request, client_address):
        # A client that did not wait for its answer.
        pass


def serve_grpc(name, port):
    from concurrent import futures

    import grpc

    class Any(grpc.GenericRpcHandler):
        def service(self, details):
            told = {"name": name, "method": "CALL", "path": details.method}
            told["headers"] = [[key, str(value)] for key, value in details.invocation_metadata]
            return grpc.unary_unary_rpc_method_handler(lambda *_: json.dumps(told).encode())

    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=(Any(),), options=(("grpc.so_reuseport", 0),))
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    server.start()
    return server


def main():
    running = []
    for argument in sys.argv[1:]:
        kind, name, port = argument.split(":")
        if kind == "grpc":
            running.append(serve_grpc(name, int(port)))
            continue
        server = Requests(("127.0.0.1", int(port)), Http) if kind == "http" else Lines(("127.0.0.1", int(port)), Line)
        server.name = name
        if kind == "tls":
            server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server.context.load_cert_chain(os.environ["ECHO_PEM"])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
    print("up", flush=True)
    threading.Event().wait()


main()
