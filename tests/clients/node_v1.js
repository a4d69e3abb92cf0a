// @alicloud/kms20160120: Signature V1, flattened encryption contexts.
'use strict';
const fs = require('fs');
const http = require('http');
const kms = require('@alicloud/kms20160120');
const { Config } = require('@alicloud/rpc-client');

const target = JSON.parse(process.env.KMSPROXY_TARGET);
const secret = fs.readFileSync(target.secret_file, 'utf8').trim();
const plaintext = Buffer.from('a data encryption key of 32 byte').toString('base64');
const garbage = Buffer.alloc(96, 'x').toString('base64');
const key = target.key_id;

function client(accessKeyId, accessKeySecret) {
  return new kms.default(new Config({
    accessKeyId, accessKeySecret, regionId: 'cn-hangzhou', endpoint: target.address, protocol: 'https',
  }));
}

function steer(method, path, body) {
  return new Promise((resolve, reject) => {
    const socketPath = target.control_address.replace(/^unix:/, '');
    const request = http.request({ socketPath, path, method, headers: { 'Content-Type': 'application/json' } }, (response) => {
      response.resume();
      response.on('end', () => (response.statusCode < 300 ? resolve() : reject(new Error(path + response.statusCode))));
    });
    request.on('error', reject);
    request.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

const upper = (answer) => Object.fromEntries(
  Object.entries(answer).map(([name, value]) => [name[0].toUpperCase() + name.slice(1), value]));

async function main() {
  const outcomes = {};
  const sdk = client(target.access_key_id, secret);
  async function step(name, act, ...keep) {
    try {
      const answer = upper(await act());
      outcomes[name] = { fields: Object.keys(answer).sort() };
      for (const field of keep) outcomes[name][field] = answer[field];
      return answer;
    } catch (error) {
      if (!error.code) throw error;
      outcomes[name] = { code: error.code, status: error.data && error.data.statusCode || null };
      return null;
    }
  }
  const encrypt = (on, keyId, text, encryptionContext) =>
    on.encrypt(new kms.EncryptRequest({ keyId, plaintext: text, encryptionContext }));
  const decrypt = (ciphertextBlob, encryptionContext) =>
    sdk.decrypt(new kms.DecryptRequest({ ciphertextBlob, encryptionContext }));
  const context = { app: 'k8s *~', ns: '默认' };
  const blob = (await step('encrypt', () => encrypt(sdk, key, plaintext), 'KeyId')).CiphertextBlob;
  await step('decrypt', () => decrypt(blob), 'KeyId', 'Plaintext');
  await step('decrypt again', () => decrypt(blob), 'KeyId', 'Plaintext');
  const bound = (await step('encrypt with context', () => encrypt(sdk, key, plaintext, context), 'KeyId')).CiphertextBlob;
  await step('decrypt with context', () => decrypt(bound, context), 'Plaintext');
  await step('decrypt with another context', () => decrypt(bound, { app: 'other' }));
  await step('decrypt without its context', () => decrypt(bound));
  await step('generate a data key', () => sdk.generateDataKey(new kms.GenerateDataKeyRequest({ keyId: key })), 'KeyId');
  const describe = () => sdk.describeKey(new kms.DescribeKeyRequest({ keyId: key }));
  await step('describe the key', describe);
  await step('decrypt garbage', () => decrypt(garbage));
  await step('encrypt what is not base64', () => encrypt(sdk, key, 'not base64!'));
  await step('encrypt under no key', () => encrypt(sdk, 'key-that-is-not-there', plaintext));
  await step('another secret', () => encrypt(client(target.access_key_id, 'wrong'), key, plaintext));
  await step('another access key', () => encrypt(client('LTAIunknown', secret), key, plaintext));
  await steer('POST', `/keys/${key}/disable`);
  await step('encrypt under a disabled key', () => encrypt(sdk, key, plaintext));
  await steer('POST', `/keys/${key}/enable`);
  await steer('PUT', '/behaviour', { quota: 0 });
  await step('throttled', describe);
  await steer('PUT', '/behaviour', { error_rate: 1.0 });
  await step('failing', describe);
  await steer('PUT', '/behaviour', {});
  process.stdout.write(JSON.stringify(outcomes));
}

main().catch((error) => { console.error(error); process.exit(1); });
