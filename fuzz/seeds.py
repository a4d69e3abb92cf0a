"""Inputs to begin with, made of the test vectors and of samples of what comes from outside: seeds.py DIRECTORY."""

import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
VECTORS = ROOT / "tests" / "vectors"
OUT = pathlib.Path(sys.argv[1])
CUT = b"\xff"


def seed(target, name, content):
    directory = OUT / target
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(content)


def vectors(name):
    return json.loads((VECTORS / "kubernetes" / f"{name}.json").read_text())


def requests():
    for path in sorted((VECTORS / "aliyun").iterdir()):
        _, request = path.read_text().split("\n\n", 1)
        head, _, body = request.partition("\n\n")
        line, _, headers = head.strip().partition("\n")
        method, target, *_ = line.split(" ")
        length = f"Content-Length: {len(body.encode())}\r\n\r\n"
        whole = "\r\n".join([line, *headers.splitlines(), length]) + body
        seed("brief_request", path.name, whole.encode())
        parts = ["G" if method == "GET" else "P", target.lstrip("/?"), headers, body.removesuffix("\n")]
        seed("aliyun_request", path.name, CUT.join(part.encode() for part in parts))
        for piece in (parts[1] + "&" + parts[3]).split("&"):
            name, _, value = piece.partition("=")
            if "%" in value or "+" in value:
                seed("aliyun_escape", f"{path.name}-{name}", value.encode())
    for action, form in FORMS.items():
        headers = f"x-acs-action: {action}\nx-acs-version: 2016-01-20\ncontent-type: application/x-www-form-urlencoded"
        seed("aliyun_request", f"form-{action}", CUT.join([b"P", b"", headers.encode(), form.encode()]))


def brief():
    plain = b"POST /?Action=Decrypt HTTP/1.1\r\nHost: kms\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nA=B%"
    chunked = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
    many = b"GET / HTTP/1.1\n" + b"a: b\n" * 32 + b"\n"
    samples = {"plain": plain, "pipelined": plain * 2, "chunked": chunked, "many": many, "more": many[:-1] + b"a: b\n\n"}
    for name, sample in samples.items():
        seed("brief_request", name, sample)
    for name, field in {"expect": b"Expect: 100-continue", "upgrade": b"Upgrade: h2c", "closing": b"Connection: close",
                        "twice": b"Content-Length: 4", "folded": b" folded", "spaced": b"a : b"}.items():
        seed("brief_request", name, plain.replace(b"Host: kms", field))


def signatures():
    for mode in range(8):
        for choices in (b"\0", b"\1\2\3", bytes(range(16))):
            parts = [bytes([mode]) + choices, b"secret", b"Action", b"Decrypt", b"a b", b"*~+/=%"]
            parts += ["Ns".encode(), "默认".encode(), b"CiphertextBlob", b"QUI="]
            seed("aliyun_signature", f"{mode}-{choices.hex()}", CUT.join(parts))


def answers():
    bodies = {
        0: '{"KeyVersionId":"v","KeyId":"k","RequestId":"r","Plaintext":"dGVzdA=="}',
        1: '{"KeyMetadata":{"KeyId":"k","KeyState":"Disabled"},"RequestId":"r"}',
        3: '{"KeyVersionId":"v","KeyId":"k","RequestId":"r","CiphertextBlob":"dGVzdA=="}',
        4: '{"KeyVersionId":"v","KeyId":"k","RequestId":"r","CiphertextBlob":"QQ==","Plaintext":"QUI="}',
        6: '{"Aliases":{"Alias":[]},"TotalCount":0,"RequestId":"r"}',
    }
    for action, body in bodies.items():
        seed("aliyun_answer", f"answer-{action}", bytes([action, 0, 0]) + body.encode())
    for code in CODES:
        body = {"HttpStatus": 403, "Code": code, "Message": "parameter CiphertextBlob.", "RequestId": "r"}
        body |= {"HostId": "h", "Recommend": None}
        seed("aliyun_answer", code, bytes([0, 4, 0]) + json.dumps(body).encode())


def contexts():
    for name, text in enumerate(['{}', '{ "b":"2", "a":"\\u9ed8" }', '{"a":"1","\\u0061":"2"}', '{"a":{"b":"c"}}']):
        seed("aliyun_context", f"json-{name}", b"\0" + text.encode())
    seed("aliyun_context", "pairs", b"\1" + CUT.join([b"b", b"2", b"a", b'"']))


def kubernetes():
    methods = ["v1beta1/Decrypt", "v1beta1/Encrypt", "v1beta1/Version", "v2/Decrypt", "v2/Encrypt", "v2/Status"]
    for entry in vectors("requests"):
        body = bytes.fromhex(entry["body"])
        name = entry["method"].removeprefix("/").replace(".KeyManagementService", "")
        if len(body) <= 4096 and name in methods:
            number = methods.index(name) * 2
            seed("kubernetes_request", entry["name"], bytes([number + 1]) + body)
            seed("kubernetes_request", entry["name"] + "-message", bytes([number]) + body[5:])
    ciphertexts = vectors("ciphertexts")
    forms = {"kmsproxy": ciphertexts["kmsproxy"], "ack": ciphertexts["ack_kms_plugin"]} | ciphertexts["refused"]
    for name, form in forms.items():
        seed("kubernetes_ciphertext", name.replace("/", "-"), bytes.fromhex(form))
    for number, entry in enumerate(vectors("key_ids")):
        parts = [entry[name].encode() for name in ("key", "version", "suffix")]
        seed("kubernetes_key_id", str(number), b"\1" + CUT.join(parts))
        seed("kubernetes_key_id", f"{number}-twice", b"\0" + CUT.join(parts * 2))
    for number, entry in enumerate(vectors("messages")):
        seed("kubernetes_words", str(number), entry["text"].encode()[:1500])
    for number, text in enumerate(["1H", "99999999n", "0n", "123456789S", "/v2.KeyManagementService/Status", "€" * 400]):
        seed("kubernetes_words", f"timeout-{number}", text.encode())


def http2():
    raw = lambda text: bytes([len(text)]) + text
    coded = bytes.fromhex("8cf1e3c2e5f23a6ba0ab90f4ff")  # www.example.com, RFC 7541, C.4.1
    blocks = {
        "static-raw": b"\x82\x86\x41" + raw(b"/run/x.sock") + b"\x84",
        "static-coded": b"\x82\x41" + coded + b"\xbe",
        "literal-name": b"\x40" + raw(b":authority") + raw(b"%2Frun%2Fx.sock") + b"\xbe",
        "never-indexed": b"\x11" + raw(b"/x") + b"\x01" + raw(b"/y") + b"\x3f\xe1\x1f",
        "other": b"\x44" + raw(b"/v2") + b"\x5f\x10application/grpc",
    }
    for name, block in blocks.items():
        seed("http2_authority", name, bytes([len(block) // 2]) + block)
        seed("http2_authority", name + "-twice", bytes([len(block)]) + block * 2)
        frame = len(block).to_bytes(3) + b"\x01\x05\0\0\0\x01" + block
        seed("http2_frames", name, b"\0" + frame)
        seed("http2_frames", name + "-cut", b"\2\x20\x80" + b"\0\0\0\4\0\0\0\0\0" + frame + frame)
        padded = (len(block) + 8).to_bytes(3) + b"\x01\x2d\0\0\0\x03" + b"\x02\0\0\0\0\x07" + block + b"\0\0"
        seed("http2_frames", name + "-padded", b"\1\x80" + padded + frame)


def settings():
    for path in sorted(ROOT.glob("config/**/*.toml")):
        lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
        tables, table = [], []  # one at a time: what a text costs grows with the square of its length
        for line in lines + ["["]:
            if line.startswith("[") and table:
                tables, table = tables + [table], []
            table.append(line)
        for number, table in enumerate(tables):
            seed("configuration", f"{path.stem}-{number}", "\n".join(table).encode())
    seed("configuration", "set", CUT.join([b'[cache]\ncapacity = 5', b"cache.max_age=10m", b"admin.address=unix:/a"]))
    seed("configuration", "secret", b'[[caller]]\nname = "a"\naccess_key = { id = "i", secret = "CANARY" }')


def credentials():
    grant = '"AccessKeyId":"i","AccessKeySecret":"s","SecurityToken":"t","Expiration":"2026-01-02T03:04:05Z"'
    bodies = [
        '{"Credentials":{%s}}' % grant,
        '{"Code":"Success",%s}' % grant,
        '{%s}' % grant,
        '{"current":"a","profiles":[{"name":"a","mode":"AK","access_key_id":"i","access_key_secret":"s"}]}',
        "[default]\ntype = access_key\naccess_key_id = i\naccess_key_secret = s\n",
    ]
    for number, body in enumerate(bodies):
        seed("credentials", str(number), bytes([number, 0]) + body.encode())
    seed("credentials", "refused", bytes([0, 4]) + b'{"Code":"NoPermission","Message":"m"}')
    profile = '"name":"b","mode":"ChainableRamRoleArn","source_profile":"b","ram_role_arn":"acs:ram::1:role/r"'
    seed("credentials", "chain", bytes([3, 0]) + ('{"current":"b","profiles":[{%s}]}' % profile).encode())
    seed("credentials", "sts", bytes([4, 0]) + b"[default]\ntype=sts\naccess_key_id=i\naccess_key_secret=s\nsts_token=t\n")


def keyrings():
    version = {"id": "0" * 36, "created": "2026-01-02T03:04:05Z"}
    key = {"id": "key-a", "created": "2026-01-02T03:04:05Z", "description": "", "protection": "SOFTWARE"}
    key |= {"origin": "Aliyun_KMS", "life": "Enabled", "versions": [version]}
    whole = {"keys": [key], "aliases": {"alias/a": "key-a"}, "destroyed": ["1" * 36]}
    going = key | {"id": "key-b", "life": {"PendingDeletion": {"until": "2027-01-02T03:04:05Z"}}}
    for name, document, material in [("one", whole, 1), ("two", whole | {"keys": [key, going]}, 2), ("none", {"keys": [], "aliases": {}, "destroyed": []}, 0)]:
        text = json.dumps(document, separators=(",", ":")).encode()
        seed("local_keyring", name, bytes([1 + material]) + text)
        seed("local_keyring", name + "-whole", b"\0" + len(text).to_bytes(8) + text + b"m" * 32 * material)


def others():
    for number, length in enumerate([0, 1, 2, 3, 48, 100]):
        seed("wire_base64", str(number), b"QUJD" * (length // 3) + [b"", b"QQ==", b"QUI="][length % 3])
    ids = b"0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"
    for number, parent in enumerate([b"00-%s-01", b"00-%s-00", b"cc-%s-01-later", b"ff-%s-01", b"00-%s-01-more"]):
        seed("trace_context", str(number), CUT.join([parent % ids, b"rojo=00f067aa0ba902b7", b"congo=t61rcWkgMzE, a@b=1"]))
    parts = [b"up", b"caller", b"ciphertext", b"key-a", b'{"a":"1"}', b"a", b"1"]
    for kinds in (0, 1, 2, 7):
        seed("cache_fingerprint", f"twice-{kinds}", bytes([kinds * 17, 0, 0]) + CUT.join(parts * 2))
        for how in range(8):
            seed("cache_fingerprint", f"moved-{kinds}-{how}", bytes([kinds, how * 2 + 1, 2]) + CUT.join(parts))
    for bit in (0, 40, 70):
        seed("local_kms", str(bit), bytes([bit, bit]) + CUT.join([b"p" * 32, b"\1", b"a", b"1", b"\1", b"a", b"1"]))
    arn = b"acs:kms:cn-hangzhou:1:key/key-a"
    seed("names", "tcp", CUT.join([arn, b"key-a", b"[::1]:8443", b"30000000"]))
    seed("names", "unix", CUT.join([b"alias/a", b"alias/a", b"unix:/run/x.sock", b"0"]))
    seed("names", "abstract", CUT.join([b"*", b"key-a", b"unix:@kms", b"1"]))
    seed("names", "systemd", CUT.join([b"acs:kms:r:1:alias/a", b"k", b"systemd:kms", b""]))


FORMS = {
    "Decrypt": "CiphertextBlob=QUI%3D&EncryptionContext=%7B%22a%22%3A%221%22%7D&DryRun=true&New=1",
    "Encrypt": "KeyId=alias%2Fk&Plaintext=QUI%3D&EncryptionContext.b=2&EncryptionContext.a=1",
    "GenerateDataKey": "KeyId=k&KeySpec=AES_256&NumberOfBytes=64",
    "GenerateDataKeyWithoutPlaintext": "KeyId=k&KeySpec=AES_128",
    "DescribeKeyVersion": "KeyId=k&KeyVersionId=v",
    "ListKeys": "PageNumber=1&PageSize=10",
}
CODES = [
    "Rejected.Disabled",
    "Forbidden.KeyNotFound",
    "Forbidden.NoPermission",
    "SignatureDoesNotMatch",
    "InvalidParameter",
    "Throttling.User",
    "InternalFailure",
    "Unheard.Of",
]

for make in (requests, brief, signatures, answers, contexts, kubernetes, http2, settings, credentials, keyrings, others):
    make()
