// The released JavaScript client gives sandboxes tokens; tests/e2e/test_workload_identity.py makes the world for it.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Sandbox, Secret } from 'e2b'

const iam = { tokens: { aws: Secret.iamToken({ audience: 'sts.example', tokenType: 'JWT-SVID' }) } }

test('tokens are given and named in rules; what requests carry, the Python clients show', async () => {
  const transform = ({ iam }) => ({ headers: { Authorization: `Bearer ${iam.tokens.aws}` } })
  const sandbox = await Sandbox.create('base', {
    timeoutMs: 120_000,
    iam,
    network: { rules: { 'allowed.example': [{ transform }] } },
  })
  try {
    const { network } = await sandbox.getInfo()
    assert.equal(
      network.rules['allowed.example'][0].transform.headers.Authorization,
      'Bearer ${e2b.identity.tokens.aws}',
    )
  } finally {
    await sandbox.kill()
  }
})

test('what cannot be is refused', async () => {
  const wrong = { tokens: { aws: { audience: 'sts.example', tokenType: 'X509-SVID' } } }
  await assert.rejects(Sandbox.create('base', { iam: wrong }), /unsupported tokenType/)
  const rules = { 'a.example': [{ transform: { headers: { X: '${e2b.identity.tokens.missing}' } } }] }
  await assert.rejects(Sandbox.create('base', { iam, network: { rules } }), /which the sandbox does not have/)
})
