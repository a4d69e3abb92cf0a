"""grpcio as kube-apiserver of three eras: `:authority` is the socket's path, that path escaped, or localhost.

The messages are written by hand: each has fields 1, 2, 3… of strings or bytes, and v2 adds a map as its last.
"""

import json
import os
import sys

import grpc

SOCKET = sys.argv[1]
SEED = os.urandom(32)
V1, V2 = "/v1beta1.KeyManagementService/", "/v2.KeyManagementService/"


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def message(*fields):
    """Length-delimited fields 1, 2, …; None leaves one out; a dict becomes the entries of a map."""
    out = b""
    for number, field in enumerate(fields, start=1):
        if isinstance(field, dict):
            values = [message(key, value) for key, value in field.items()]
        else:
            values = [] if field is None else [field.encode() if isinstance(field, str) else field]
        out += b"".join(varint(number << 3 | 2) + varint(len(value)) + value for value in values)
    return out


def fields(encoded):
    """Number to the list of what stands under it."""
    found, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = encoded[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(encoded):
        tag = number()
        assert tag & 7 == 2, f"field {tag >> 3} is not of bytes"
        length = number()
        assert at + length <= len(encoded), "cut off"
        found.setdefault(tag >> 3, []).append(encoded[at : at + length])
        at += length
    return found


def run(authority):
    outcome = {}
    with grpc.insecure_channel(f"unix://{SOCKET}", options=[("grpc.default_authority", authority)]) as channel:

        def call(method, request):
            return fields(channel.unary_unary(method)(request, timeout=3, wait_for_ready=True))

        try:
            version = call(V1 + "Version", message("v1beta1"))
            outcome["version"] = version[1][0].decode()
            cipher = call(V1 + "Encrypt", message("v1beta1", SEED))[1][0]
            outcome["v1"] = call(V1 + "Decrypt", message("v1beta1", cipher))[1][0] == SEED
            status = call(V2 + "Status", b"")
            outcome["status"] = [status[1][0].decode(), status[2][0].decode()]
            made = call(V2 + "Encrypt", message(SEED, "a-uid"))
            outcome["same key_id"] = made[2] == status[3]
            notes = {entry[1][0]: entry[2][0] for entry in map(fields, made[3])}
            request = message(made[1][0], "a-uid", made[2][0], {key.decode(): value for key, value in notes.items()})
            outcome["v2"] = call(V2 + "Decrypt", request)[1][0] == SEED
        except grpc.RpcError as error:
            outcome["error"] = f"{error.code().name}: {error.details()}"
    return outcome


ERAS = {"path": SOCKET, "escaped path": SOCKET.replace("/", "%2F"), "localhost": "localhost"}
json.dump({era: run(authority) for era, authority in ERAS.items()}, sys.stdout)
