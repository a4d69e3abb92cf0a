"""alibabacloud_kms20160120: Signature V3, action and version in headers."""

from alibabacloud_kms20160120 import models
from alibabacloud_kms20160120.client import Client
from alibabacloud_tea_openapi import models as openapi
from alibabacloud_tea_util import models as util

import target


class Operations:
    def __init__(self, access_key=target.ACCESS_KEY, secret=target.SECRET):
        self.client = Client(openapi.Config(
            access_key_id=access_key, access_key_secret=secret, region_id="cn-hangzhou",
            endpoint=target.TARGET["address"], protocol="https", ca=target.CA))
        self.options = util.RuntimeOptions()

    def with_secret(self, secret):
        return Operations(secret=secret)

    def with_access_key(self, access_key):
        return Operations(access_key=access_key)

    def encrypt(self, key, plaintext, context=None):
        request = models.EncryptRequest(key_id=key, plaintext=plaintext, encryption_context=context)
        return self.client.encrypt_with_options(request, self.options).body.to_map()

    def decrypt(self, blob, context=None):
        request = models.DecryptRequest(ciphertext_blob=blob, encryption_context=context)
        return self.client.decrypt_with_options(request, self.options).body.to_map()

    def generate(self, key):
        request = models.GenerateDataKeyRequest(key_id=key)
        return self.client.generate_data_key_with_options(request, self.options).body.to_map()

    def describe(self, key):
        request = models.DescribeKeyRequest(key_id=key)
        return self.client.describe_key_with_options(request, self.options).body.to_map()

    @staticmethod
    def refusal(error):
        if not hasattr(error, "code"):
            raise error
        return error.code, getattr(error, "status_code", None) or (error.data or {}).get("statusCode")


target.run(Operations())
