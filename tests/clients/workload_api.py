"""The SPIFFE Workload API by the real Python client: what a workload gets, and what others do not."""

import sys
import threading

import grpc
from spiffe import JwtSvid, SpiffeId, WorkloadApiClient

HEADER = (("workload.spiffe.io", "true"),)
SOON = 20


def say(*words):
    """A line at once: updates come on threads of their own."""
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


def code(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def failure(call):
    try:
        call()
    except Exception as error:
        return str(error)
    raise AssertionError("it did not fail")


def channel(client):
    return grpc.insecure_channel(client.get_spiffe_endpoint_socket())


def ask(client, method, metadata=HEADER, message=b""):
    """A call without the client's help, until its first message."""
    raw = channel(client).unary_stream(f"/SpiffeWorkloadAPI/{method}")
    return lambda: next(raw(message, metadata=metadata, timeout=SOON))


def fetch(client):
    svid = client.fetch_x509_svid()
    bundles = client.fetch_x509_bundles()
    domain = svid.spiffe_id.trust_domain
    roots = bundles.get_bundle_for_trust_domain(domain).x509_authorities
    leaf, issuer = svid.cert_chain[:2]
    leaf.verify_directly_issued_by(issuer)
    assert len(roots) == 1
    issuer.verify_directly_issued_by(next(iter(roots)))
    assert leaf.public_key() == svid.private_key.public_key()

    token = client.fetch_jwt_svid(audience={"them"})
    assert token.spiffe_id == svid.spiffe_id, token.spiffe_id
    assert client.fetch_jwt_svid(audience={"them"}).token == token.token, "it is signed anew"
    keys = client.fetch_jwt_bundles().get_bundle_for_trust_domain(domain)
    checked = JwtSvid.parse_and_validate(token.token, keys, {"them"})
    assert checked.spiffe_id == svid.spiffe_id
    assert client.validate_jwt_svid(token.token, "them").spiffe_id == svid.spiffe_id
    why = failure(lambda: client.validate_jwt_svid(token.token, "others"))
    assert "another audience" in why, why
    head, body, signature = token.token.split(".")
    why = failure(lambda: client.validate_jwt_svid(f"{head}.{body}.{signature[::-1]}", "them"))
    assert "refused" in why, why
    other = SpiffeId(f"spiffe://{domain}/ns/default/sa/somebody-else")
    why = failure(lambda: client.fetch_jwt_svid(audience={"them"}, subject=other))
    assert f"this process is `{svid.spiffe_id}`" in why, why

    for metadata in [(), (("workload.spiffe.io", "false"),)]:
        assert code(ask(client, "FetchX509SVID", metadata)) == "INVALID_ARGUMENT"
    for method in ["FetchWITSVID", "FetchWITBundles"]:
        assert code(ask(client, method)) == "UNIMPLEMENTED", method
    say("identity", svid.spiffe_id)


def denied(client):
    # The audience "them", and a token "x".
    calls = {
        "FetchX509SVID": b"",
        "FetchX509Bundles": b"",
        "FetchJWTBundles": b"",
        "FetchJWTSVID": b"\x0a\x04them",
        "ValidateJWTSVID": b"\x0a\x04them\x12\x01x",
    }
    codes = [code(ask(client, method, message=message)) for method, message in calls.items()]
    assert set(codes) == {"PERMISSION_DENIED"}, codes
    say("denied")


def token(client):
    say("token", client.fetch_jwt_svid(audience={"them"}).spiffe_id)


def watch(client):
    """Tells of every certificate and every set of keys that comes on its streams."""
    failed = lambda error: say("failed", error)

    def certificate(context):
        svid = context.default_svid
        say("certificate", svid.spiffe_id, svid.leaf.serial_number)

    def keys(bundles):
        for bundle in bundles.bundles:
            say("keys", len(bundle.jwt_authorities))

    client.stream_x509_contexts(certificate, failed, retry_connect=False)
    client.stream_jwt_bundles(keys, failed, retry_connect=False)
    threading.Event().wait()


{"fetch": fetch, "denied": denied, "token": token, "watch": watch}[sys.argv[1]](WorkloadApiClient())
