"""A server of Envoy's ext_authz (envoy.service.auth.v3.Authorization), by grpcio and protobuf, without generated code.

usage: authorizer.py   (at $PORT)

Whoever brings `x-user: ada` may enter, and is known to the application as `x-checked: ada@/PATH`; `x-user: sleepy` is not answered;
others get 401 and `come back as ada`. Each check is a line of JSON on stdout: source, destination, method, path, host and headers.
"""

import json
import os
import time
from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

STRING, INT32, INT64, BOOL, MESSAGE = 9, 5, 3, 8, 11
# Of each message its fields: name, number, type, of which message, whether there are several.
MESSAGES = {
    "Peer": [("principal", 4, STRING, None, False)],
    "HttpRequest": [
        ("method", 2, STRING, None, False),
        ("headers", 3, MESSAGE, "HeadersEntry", True),
        ("path", 4, STRING, None, False),
        ("host", 5, STRING, None, False),
    ],
    "HeadersEntry": [("key", 1, STRING, None, False), ("value", 2, STRING, None, False)],
    "Request": [("http", 2, MESSAGE, "HttpRequest", False)],
    "AttributeContext": [
        ("source", 1, MESSAGE, "Peer", False),
        ("destination", 2, MESSAGE, "Peer", False),
        ("request", 4, MESSAGE, "Request", False),
    ],
    "CheckRequest": [("attributes", 1, MESSAGE, "AttributeContext", False)],
    "Status": [("code", 1, INT32, None, False)],
    "HeaderValue": [("key", 1, STRING, None, False), ("value", 2, STRING, None, False)],
    "HeaderValueOption": [("header", 1, MESSAGE, "HeaderValue", False)],
    "DeniedHttpResponse": [
        ("status", 1, MESSAGE, "Status", False),
        ("headers", 2, MESSAGE, "HeaderValueOption", True),
        ("body", 3, STRING, None, False),
    ],
    "OkHttpResponse": [("headers", 2, MESSAGE, "HeaderValueOption", True)],
    "CheckResponse": [
        ("status", 1, MESSAGE, "Status", False),
        ("denied_response", 2, MESSAGE, "DeniedHttpResponse", False),
        ("ok_response", 3, MESSAGE, "OkHttpResponse", False),
    ],
}


def classes():
    file = descriptor_pb2.FileDescriptorProto(name="auth.proto", package="auth", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, of, several in fields:
            added = message.field.add(name=field, number=number, type=kind, label=3 if several else 1)
            if of:
                added.type_name = f".auth.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"auth.{name}")) for name in MESSAGES}


TYPES = classes()


def check(request, context):
    attributes = request.attributes
    http = attributes.request.http
    headers = {entry.key: entry.value for entry in http.headers}
    question = {
        "source": attributes.source.principal,
        "destination": attributes.destination.principal,
        "method": http.method,
        "path": http.path,
        "host": http.host,
        "headers": headers,
    }
    print(json.dumps(question), flush=True)
    user = headers.get("x-user")
    if user == "sleepy":
        time.sleep(5)
    response = TYPES["CheckResponse"]()
    if user == "ada":
        response.status.code = 0
        header = response.ok_response.headers.add().header
        header.key, header.value = "x-checked", f"ada@{http.path}"
    else:
        response.status.code = grpc.StatusCode.UNAUTHENTICATED.value[0]
        response.denied_response.status.code = 401
        header = response.denied_response.headers.add().header
        header.key, header.value = "www-authenticate", "Test"
        response.denied_response.body = "come back as ada"
    return response


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    handler = grpc.unary_unary_rpc_method_handler(
        check,
        request_deserializer=TYPES["CheckRequest"].FromString,
        response_serializer=TYPES["CheckResponse"].SerializeToString,
    )
    service = "envoy.service.auth.v3.Authorization"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Check": handler}),))
    if not server.add_insecure_port(f"127.0.0.1:{os.environ['PORT']}"):
        raise SystemExit(f"port {os.environ['PORT']} is taken")
    server.start()
    server.wait_for_termination()


main()
