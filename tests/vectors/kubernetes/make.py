"""Writes the vectors of this directory: see README.md."""

import base64
import hashlib
import importlib
import json
import pathlib
import struct
import sys
import tempfile
import urllib.parse

from grpc_tools import protoc

PROTOS = {
    "v1beta1": """
        syntax = "proto3"; package v1beta1;
        message VersionRequest { string version = 1; }
        message VersionResponse { string version = 1; string runtime_name = 2; string runtime_version = 3; }
        message DecryptRequest { string version = 1; bytes cipher = 2; }
        message DecryptResponse { bytes plain = 1; }
        message EncryptRequest { string version = 1; bytes plain = 2; }
        message EncryptResponse { bytes cipher = 1; }
    """,
    "v2": """
        syntax = "proto3"; package v2;
        message StatusRequest {}
        message StatusResponse { string version = 1; string healthz = 2; string key_id = 3; }
        message DecryptRequest {
            bytes ciphertext = 1; string uid = 2; string key_id = 3; map<string, bytes> annotations = 4;
        }
        message DecryptResponse { bytes plaintext = 1; }
        message EncryptRequest { bytes plaintext = 1; string uid = 2; }
        message EncryptResponse { bytes ciphertext = 1; string key_id = 2; map<string, bytes> annotations = 3; }
    """,
}

HERE = pathlib.Path(__file__).parent
UID = "6b8dd0a5-3a2e-4b52-9a57-2b1c3f1f6c0d"
SEED = bytes(range(32))
BLOB = b"\x00\x01blob\xff" * 9
KEY, VERSION = "key-hzz65f1a2b3c4d5e6f7g8", "1a2b3c4d-5e6f-7081-92a3-b4c5d6e7f809"


def compiled():
    with tempfile.TemporaryDirectory() as directory:
        for name, text in PROTOS.items():
            pathlib.Path(directory, f"{name}.proto").write_text(text)
            protoc.main(["", f"-I{directory}", f"--python_out={directory}", f"{name}.proto"])
        sys.path.insert(0, directory)
        return [importlib.import_module(f"{name}_pb2") for name in PROTOS]


v1, v2 = compiled()


def frame(message, flag=0, length=None):
    return struct.pack(">BI", flag, len(message) if length is None else length) + message


def body(message, **options):
    return frame(message.SerializeToString(deterministic=True), **options).hex()


def annotated(key=KEY, version=VERSION, suffix=""):
    annotations = {"key.kmsproxy.internal": key, "version.kmsproxy.internal": version}
    if suffix:
        annotations["suffix.kmsproxy.internal"] = suffix
    return {name: value.encode() for name, value in annotations.items()}


def key_id(key=KEY, version=VERSION, suffix=""):
    parts = [part.encode() for part in ("kmsproxy key_id v1", key, version, suffix)]
    return hashlib.sha256(b"".join(struct.pack(">Q", len(part)) + part for part in parts)).hexdigest()


def hexed(annotations):
    return {name: value.hex() for name, value in annotations.items()}


def holds(name, method, message, **fields):
    return {"name": name, "method": method, "body": message, "holds": fields}


def refused(name, method, message, kind):
    return {"name": name, "method": method, "body": message, "refused": kind}


def decrypt_v2(**fields):
    given = {"ciphertext": BLOB, "uid": UID, "key_id": key_id(), "annotations": annotated()}
    return v2.DecryptRequest(**(given | fields))


def requests():
    v1d, v1e, v1v = (f"/v1beta1.KeyManagementService/{name}" for name in ("Decrypt", "Encrypt", "Version"))
    v2d, v2e, v2s = (f"/v2.KeyManagementService/{name}" for name in ("Decrypt", "Encrypt", "Status"))
    spoken = v1.VersionRequest(version="v1beta1")
    seed = v2.EncryptRequest(plaintext=SEED, uid=UID)
    raw = seed.SerializeToString(deterministic=True)
    unknown = b"\x7a\x03abc" + b"\xa0\x06\x96\x01" + b"\xa3\x06\x08\x01\xa4\x06"
    twice = v1.EncryptRequest(version="v1beta1", plain=b"first").SerializeToString() + b"\x12\x06second"
    backwards = b"\x12\x05plain" + b"\x0a\x07v1beta1"
    held = {"ciphertext": BLOB.hex(), "uid": UID, "key_id": key_id(), "annotations": hexed(annotated())}
    own, entry = decrypt_v2().SerializeToString(deterministic=True), b"\x22\x05\x0a\x03a.b"
    return [
        holds("version", v1v, body(spoken)),
        refused("version-none", v1v, body(v1.VersionRequest()), "invalid_parameter"),
        refused("version-other", v1v, body(v1.VersionRequest(version="v1beta2")), "invalid_parameter"),
        holds("v1-encrypt", v1e, body(v1.EncryptRequest(version="v1beta1", plain=SEED)), plaintext=SEED.hex()),
        holds("v1-encrypt-twice", v1e, frame(twice).hex(), plaintext=b"second".hex()),
        holds("v1-encrypt-backwards", v1e, frame(backwards).hex(), plaintext=b"plain".hex()),
        refused("v1-encrypt-empty", v1e, body(v1.EncryptRequest(version="v1beta1")), "missing_parameter"),
        refused("v1-encrypt-v2", v1e, body(v1.EncryptRequest(version="v2", plain=SEED)), "invalid_parameter"),
        holds("v1-decrypt", v1d, body(v1.DecryptRequest(version="v1beta1", cipher=BLOB)), ciphertext=BLOB.hex()),
        refused("v1-decrypt-empty", v1d, body(v1.DecryptRequest(version="v1beta1")), "missing_parameter"),
        refused("v1-decrypt-no-version", v1d, body(v1.DecryptRequest(cipher=BLOB)), "invalid_parameter"),
        holds("status", v2s, body(v2.StatusRequest())),
        holds("status-unknown-fields", v2s, frame(unknown).hex()),
        holds("v2-encrypt", v2e, body(seed), plaintext=SEED.hex(), uid=UID),
        holds("v2-encrypt-no-uid", v2e, body(v2.EncryptRequest(plaintext=SEED)), plaintext=SEED.hex(), uid=""),
        holds("v2-encrypt-unknown-fields", v2e, frame(raw + unknown).hex(), plaintext=SEED.hex(), uid=UID),
        refused("v2-encrypt-empty", v2e, body(v2.EncryptRequest(uid=UID)), "missing_parameter"),
        refused("v2-encrypt-long-uid", v2e, body(v2.EncryptRequest(plaintext=SEED, uid="u" * 1025)), "invalid_parameter"),
        holds("v2-decrypt", v2d, body(decrypt_v2()), **held),
        holds("v2-decrypt-bare", v2d, body(decrypt_v2(uid="", annotations={})), **held | {"uid": "", "annotations": {}}),
        holds(
            "v2-decrypt-empty-annotation",
            v2d,
            frame(own + entry).hex(),
            **held | {"annotations": hexed(annotated() | {"a.b": b""})},
        ),
        holds("v2-decrypt-full", v2d, body(decrypt_v2(ciphertext=b"x" * 1024)), **held | {"ciphertext": "78" * 1024}),
        refused("v2-decrypt-long", v2d, body(decrypt_v2(ciphertext=b"x" * 1025)), "invalid_parameter"),
        refused("v2-decrypt-empty", v2d, body(decrypt_v2(ciphertext=b"")), "missing_parameter"),
        refused("v2-decrypt-no-key-id", v2d, body(decrypt_v2(key_id="")), "missing_parameter"),
        refused("v2-decrypt-long-key-id", v2d, body(decrypt_v2(key_id="k" * 1025)), "invalid_parameter"),
        refused("nothing", v2s, "", "malformed"),
        refused("half-a-head", v2s, "00000000", "malformed"),
        refused("cut", v2e, body(seed, length=len(raw) + 1), "malformed"),
        refused("one-byte-more", v2e, body(seed, length=len(raw) - 1), "malformed"),
        refused("two-messages", v2s, body(v2.StatusRequest()) * 2, "malformed"),
        refused("compressed", v2e, body(seed, flag=1), "unsupported"),
        refused("flag-two", v2e, body(seed, flag=2), "malformed"),
        refused("four-gibibytes", v2e, body(seed, length=0xFFFFFFFF), "too_large"),
        refused("varint-for-bytes", v2e, frame(b"\x08\x01").hex(), "malformed"),
        refused("field-past-the-end", v2e, frame(b"\x0a\x21" + SEED).hex(), "malformed"),
        refused("field-zero", v2e, frame(b"\x02\x01a").hex(), "malformed"),
        refused("uid-not-text", v2e, frame(b"\x0a\x01a\x12\x01\xff").hex(), "malformed"),
        refused("endless-varint", v2e, frame(b"\x0a" + b"\xff" * 11).hex(), "malformed"),
        refused("open-group", v2e, frame(b"\xa3\x06\x08\x01").hex(), "malformed"),
        refused("text", v1e, frame(b'{"version":"v1beta1"}').hex(), "malformed"),
    ]


def answers():
    given = {"key": KEY, "version": VERSION, "suffix": "x"}
    encrypted = v2.EncryptResponse(ciphertext=BLOB, key_id=key_id(**given), annotations=annotated(**given))
    status = {"healthz": "ok", "key_id": key_id()}
    return {
        "version": body(v1.VersionResponse(version="v1beta1", runtime_name="kmsproxy", runtime_version="RUNTIME")),
        "status_v2": body(v2.StatusResponse(version="v2", **status)),
        "status_v2beta1": body(v2.StatusResponse(version="v2beta1", **status)),
        "plaintext": SEED.hex(),
        "decrypted_v1": body(v1.DecryptResponse(plain=SEED)),
        "decrypted_v2": body(v2.DecryptResponse(plaintext=SEED)),
        "ciphertext": BLOB.hex(),
        "encrypted_v1": body(v1.EncryptResponse(cipher=BLOB)),
        "encrypted_v2": body(encrypted),
        "key": given,
    }


def ciphertexts():
    head = bytes([1, len(KEY)]) + KEY.encode()
    text = base64.b64encode
    return {
        "key": KEY,
        "blob": BLOB.hex(),
        "kmsproxy": (head + BLOB).hex(),
        "ack_kms_plugin": text(BLOB).hex(),
        "refused": {
            "nothing": "",
            "version byte alone": "01",
            "no blob": head.hex(),
            "cut in the key": head[:9].hex(),
            "no key": (b"\x01\x00" + BLOB).hex(),
            "an alias": (b"\x01\x07alias/a" + BLOB).hex(),
            "an ARN": (b"\x01\x15acs:kms:r:1:key/key-a" + BLOB).hex(),
            "key not text": (b"\x01\x01\xff" + BLOB).hex(),
            "another version byte": (b"\x02" + (head + BLOB)[1:]).hex(),
            "the blob itself": BLOB.hex(),
            "without padding": text(b"1234").rstrip(b"=").hex(),
            "with a line break": (text(BLOB) + b"\n").hex(),
            "of the URL alphabet": base64.urlsafe_b64encode(b"\xfb\xff\xfe").hex(),
            "two texts": (text(b"1234") * 2).hex(),
        },
    }


def ack_kms_plugin():
    # plugin/kms.go, Encrypt: `[]byte(response.CiphertextBlob)`, `kc.keyID`, and these of the answer and of the region.
    annotations = {
        "x-acs-request-id.ack.alibabacloud.com": "207596a2-36d3-4840-b1bd-f87044699bd7",
        "x-acs-kms-key-version-id.ack.alibabacloud.com": VERSION,
        "x-acs-kms-region-id.ack.alibabacloud.com": "cn-hangzhou",
    }
    text = base64.b64encode(BLOB)
    return {
        "key_id": KEY,
        "annotations": hexed({name: value.encode() for name, value in annotations.items()}),
        "blob": BLOB.hex(),
        "ciphertext": text.hex(),
        "refused": {
            "nothing": "",
            "the blob itself": BLOB.hex(),
            "without padding": base64.b64encode(b"1234").rstrip(b"=").hex(),
            "with a line break": (text + b"\n").hex(),
            "of the URL alphabet": base64.urlsafe_b64encode(b"\xfb\xff\xfe").hex(),
        },
    }


def key_ids():
    triples = [
        (KEY, VERSION, ""),
        (KEY, VERSION, "2"),
        (KEY, VERSION + "2", ""),
        (KEY + VERSION[:1], VERSION[1:], ""),
        (KEY, "", VERSION),
        ("k", "", ""),
        ("schlüssel", "版本", "ß"),
    ]
    return [
        {"key": triple[0], "version": triple[1], "suffix": triple[2], "key_id": key_id(*triple)}
        | {"annotations": hexed(annotated(*triple))}
        for triple in triples
    ]


def messages():
    safe = "".join(chr(code) for code in range(0x20, 0x7F) if code != 0x25)
    texts = ["", "key alias/k8s is disabled", "100 %", "%41", "a\nb\r\0\x7f", "Schlüssel 默认 🔑", "~ !\"#$&'()"]
    return [{"text": text, "encoded": urllib.parse.quote(text, safe=safe)} for text in texts]


for make in (requests, answers, ciphertexts, ack_kms_plugin, key_ids, messages):
    text = json.dumps(make(), indent=1, ensure_ascii=False)
    (HERE / f"{make.__name__}.json").write_text(text + "\n")
