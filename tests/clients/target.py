"""What the scripts share: where to go, how to steer the embedded KMS, and how to write an outcome down."""

import base64
import http.client
import json
import os
import socket
import sys
import time

TARGET = json.loads(os.environ["KMSPROXY_TARGET"])
HOST, PORT = TARGET["address"].rsplit(":", 1)
SECRET = open(TARGET["secret_file"]).read().strip()
KEY, CA, ACCESS_KEY = TARGET["key_id"], TARGET["ca_file"], TARGET["access_key_id"]
PLAINTEXT = base64.b64encode(b"a data encryption key of 32 byte").decode()
GARBAGE = base64.b64encode(b"x" * 96).decode()


class Control(http.client.HTTPConnection):
    """HTTP over the control socket."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(TARGET["control_address"].removeprefix("unix:"))


def steer(method, path, body=None):
    control = Control("localhost")
    control.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
    response = control.getresponse()
    answer = response.read()
    assert response.status < 300, (path, response.status, answer)
    return json.loads(answer or b"null")


def run(operations):
    """Takes all steps with one SDK's operations: encrypt, decrypt, generate, describe; each returns a dict of the
    answer or raises with .code and .status."""
    outcomes = {}

    def step(name, act, *keep):
        try:
            answer = act()
            outcomes[name] = {field: answer[field] for field in keep} | {"fields": sorted(answer)}
            return answer
        except Exception as error:  # the SDKs share no base class
            code, status = operations.refusal(error)
            outcomes[name] = {"code": code, "status": status}
            return None

    op = operations
    context = {"app": "k8s *~", "ns": "默认"}
    blob = step("encrypt", lambda: op.encrypt(KEY, PLAINTEXT), "KeyId")["CiphertextBlob"]
    step("decrypt", lambda: op.decrypt(blob), "KeyId", "Plaintext")
    step("decrypt again", lambda: op.decrypt(blob), "KeyId", "Plaintext")
    bound = step("encrypt with context", lambda: op.encrypt(KEY, PLAINTEXT, context), "KeyId")["CiphertextBlob"]
    step("decrypt with context", lambda: op.decrypt(bound, context), "Plaintext")
    step("decrypt with another context", lambda: op.decrypt(bound, {"app": "other"}))
    step("decrypt without its context", lambda: op.decrypt(bound))
    step("generate a data key", lambda: op.generate(KEY), "KeyId")
    step("describe the key", lambda: op.describe(KEY))
    step("decrypt garbage", lambda: op.decrypt(GARBAGE))
    step("encrypt what is not base64", lambda: op.encrypt(KEY, "not base64!"))
    step("encrypt under no key", lambda: op.encrypt("key-that-is-not-there", PLAINTEXT))
    step("another secret", lambda: op.with_secret("wrong").encrypt(KEY, PLAINTEXT))
    step("another access key", lambda: op.with_access_key("LTAIunknown").encrypt(KEY, PLAINTEXT))
    steer("POST", f"/keys/{KEY}/disable")
    step("encrypt under a disabled key", lambda: op.encrypt(KEY, PLAINTEXT))
    steer("POST", f"/keys/{KEY}/enable")
    steer("POST", f"/keys/{KEY}/schedule-deletion?days=7")
    step("encrypt under a key that awaits deletion", lambda: op.encrypt(KEY, PLAINTEXT))
    steer("POST", f"/keys/{KEY}/cancel-deletion")
    steer("PUT", "/behaviour", {"quota": 0})
    step("throttled", lambda: op.describe(KEY))
    steer("PUT", "/behaviour", {"error_rate": 1.0})
    step("failing", lambda: op.describe(KEY))
    steer("PUT", "/behaviour", {})
    time.sleep(1.1)  # a key that was refused is tried again once a second
    old = op.generate(KEY)
    steer("POST", f"/keys/{KEY}/rotate")
    step("decrypt after rotation", lambda: op.decrypt(old["CiphertextBlob"]), "KeyId")
    json.dump(outcomes, sys.stdout, ensure_ascii=False, sort_keys=True)
