// The released JavaScript client says what a sandbox reaches, and keeps secrets; tests/e2e/test_secrets.py makes the
// world for it and says where things are.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Sandbox, SandboxError, Secret, SecretNotFoundError } from 'e2b'

// This client cannot say who resolves names, so servers are asked by their address.
const { SERVER, PROXY, PROXY_USER, PROXY_PASSWORD } = process.env

/** Ask from inside; return what the server was sent, or what curl says instead. */
async function ask(sandbox, url) {
  const { stdout } = await sandbox.commands.run(`curl -sS --max-time 20 ${url} 2>&1 || true`)
  return stdout.startsWith('{') ? JSON.parse(stdout) : stdout
}

test('headers, secrets and a proxy', async () => {
  const made = await Secret.create('Js-Key', 'first', { metadata: { for: 'tests' } })
  const headers = { Authorization: `Bearer ${Secret.fill('js-key')}` }
  const rules = { 'allowed.example': [{ transform: { headers } }] }
  const sandbox = await Sandbox.create('base', {
    timeoutMs: 120_000,
    network: { rules, allowOut: ({ rules }) => [...rules.keys()], denyOut: ({ allTraffic }) => [allTraffic] },
  })
  try {
    const denied = await ask(sandbox, `http://${SERVER}:8080/`)
    const { network } = await sandbox.getInfo()
    const egressProxy = { address: `${PROXY}:1080`, username: PROXY_USER, password: PROXY_PASSWORD }
    await sandbox.updateNetwork({ rules, egressProxy })
    const tunnelled = await ask(sandbox, `http://${SERVER}:8080/`)
    const shown = (await sandbox.getInfo()).network.egressProxy

    assert.equal(typeof denied, 'string')
    assert.deepEqual(network.allowOut, ['allowed.example'])
    assert.deepEqual(network.rules, rules)
    assert.equal(tunnelled.from, PROXY, tunnelled)
    assert.equal(shown.address, `${PROXY}:1080`)
    assert.ok(!JSON.stringify(shown).includes(PROXY_PASSWORD))
  } finally {
    await sandbox.kill()
    assert.equal(await Secret.destroy(made.secretId), true)
  }
})

test('secrets are changed, listed and gone', async () => {
  const made = await Secret.create('one', 'first')
  const changed = await Secret.update('ONE', 'second', { metadata: { a: 'b' } })
  const listed = await Secret.list({ limit: 100 }).nextItems()

  assert.equal(changed.version, 2)
  assert.ok(listed.some((secret) => secret.secretId === made.secretId))
  assert.equal(await Secret.exists('one'), true)
  assert.equal(await Secret.destroy('one'), true)
  assert.equal(await Secret.exists('one'), false)
  await assert.rejects(Secret.getInfo('one'), SecretNotFoundError)
})

test('what cannot be is refused', async () => {
  const rules = { 'a.example': [{ transform: { headers: { Host: 'x' } } }] }
  await assert.rejects(Sandbox.create('base', { network: { rules } }), /cannot be set/)
  await assert.rejects(Sandbox.create('base', { network: { egressProxy: { address: '127.0.0.1:1' } } }), SandboxError)
})
