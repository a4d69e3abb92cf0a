"""aliyun-python-sdk-kms: Signature V1, everything in the query."""

import json

from aliyunsdkcore.acs_exception.exceptions import ServerException
from aliyunsdkcore.client import AcsClient
from aliyunsdkkms.request.v20160120.DecryptRequest import DecryptRequest
from aliyunsdkkms.request.v20160120.DescribeKeyRequest import DescribeKeyRequest
from aliyunsdkkms.request.v20160120.EncryptRequest import EncryptRequest
from aliyunsdkkms.request.v20160120.GenerateDataKeyRequest import GenerateDataKeyRequest

import target


class Operations:
    def __init__(self, access_key=target.ACCESS_KEY, secret=target.SECRET):
        self.client = AcsClient(access_key, secret, "cn-hangzhou", port=int(target.PORT), verify=target.CA, timeout=5)

    def with_secret(self, secret):
        return Operations(secret=secret)

    def with_access_key(self, access_key):
        return Operations(access_key=access_key)

    def ask(self, request, context=None):
        request.set_endpoint(target.HOST)
        request.set_protocol_type("https")
        request.set_accept_format("JSON")
        if context is not None:
            request.set_EncryptionContext(json.dumps(context))
        return json.loads(self.client.do_action_with_exception(request))

    def encrypt(self, key, plaintext, context=None):
        request = EncryptRequest()
        request.set_KeyId(key)
        request.set_Plaintext(plaintext)
        return self.ask(request, context)

    def decrypt(self, blob, context=None):
        request = DecryptRequest()
        request.set_CiphertextBlob(blob)
        return self.ask(request, context)

    def generate(self, key):
        request = GenerateDataKeyRequest()
        request.set_KeyId(key)
        return self.ask(request)

    def describe(self, key):
        request = DescribeKeyRequest()
        request.set_KeyId(key)
        return self.ask(request)

    @staticmethod
    def refusal(error):
        if not isinstance(error, ServerException):
            raise error
        return error.get_error_code(), error.get_http_status()


target.run(Operations())
