// The released JavaScript client creates, finds and ends real sandboxes.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'

import {
  AuthenticationError,
  NotFoundError,
  RateLimitError,
  Sandbox,
  SandboxError,
  SandboxNotFoundError,
} from 'e2b'

import { NOBODY, until } from './sandbox.mjs'

test('create, info, list and kill speak of the same sandbox', async () => {
  const metadata = { run: randomUUID(), 'k y': 'v&=%', ü: '日本' }
  const sandbox = await Sandbox.create('minimal', { timeoutMs: 60_000, metadata, envs: { GREETING: 'hi' } })
  try {
    const info = await sandbox.getInfo()
    const listed = await Sandbox.list({ query: { metadata } }).nextItems()
    const greeting = await sandbox.commands.run('echo $GREETING $E2B_SANDBOX_ID')

    assert.equal(info.sandboxId, sandbox.sandboxId)
    assert.deepEqual(info.metadata, metadata)
    assert.equal(info.state, 'running')
    assert.ok(info.endAt - info.startedAt <= 61_000)
    assert.deepEqual(listed.map((one) => one.sandboxId), [sandbox.sandboxId])
    assert.equal(greeting.stdout, `hi ${sandbox.sandboxId}\n`)
    assert.equal(await sandbox.isRunning(), true)
  } finally {
    assert.equal(await sandbox.kill(), true)
  }
  assert.equal(await Sandbox.kill(sandbox.sandboxId), false)
  assert.equal(await sandbox.isRunning(), false)
  await assert.rejects(sandbox.commands.run('true'), (error) => error.name === 'TimeoutError' || error instanceof SandboxError)
})

test('the list comes in pages, newest first, and in the other order when asked', async () => {
  const metadata = { run: randomUUID() }
  const made = []
  for (let n = 0; n < 3; n++) made.push(await Sandbox.create('minimal', { timeoutMs: 60_000, metadata }))
  try {
    for (const order of ['desc', 'asc']) {
      const pages = Sandbox.list({ query: { metadata }, limit: 2, order })
      const sizes = []
      const ids = []
      while (pages.hasNext) {
        const items = await pages.nextItems()
        sizes.push(items.length)
        ids.push(...items.map((one) => one.sandboxId))
      }
      const expected = made.map((one) => one.sandboxId)
      assert.deepEqual(ids, order === 'asc' ? expected : expected.reverse())
      assert.deepEqual(sizes, [2, 1])
    }
  } finally {
    await Promise.all(made.map((one) => one.kill()))
  }
})

test('connect finds the same machine from elsewhere and only adds time', async () => {
  const sandbox = await Sandbox.create('minimal', { timeoutMs: 300_000 })
  try {
    await sandbox.files.write('here', '1')
    const before = await sandbox.getInfo()

    const other = await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 10_000 })

    assert.equal(await other.files.read('here'), '1')
    assert.ok((await other.getInfo()).endAt >= before.endAt)
  } finally {
    await sandbox.kill()
  }
})

test('setTimeout moves the deadline both ways, and the reaper keeps it', async () => {
  const sandbox = await Sandbox.create('minimal', { timeoutMs: 60_000 })

  await sandbox.setTimeout(600_000)
  const info = await sandbox.getInfo()
  assert.ok(info.endAt - Date.now() > 500_000)
  await Sandbox.setTimeout(sandbox.sandboxId, 1000)

  await until(async () => !(await sandbox.isRunning()))
  await assert.rejects(Sandbox.getInfo(sandbox.sandboxId), SandboxNotFoundError)
})

test('errors have their classes and say what is wrong', async () => {
  await assert.rejects(Sandbox.create('no-such'), /template 'no-such' not found/)
  await assert.rejects(Sandbox.create('minimal', { timeoutMs: -1000 }), /Timeout must be greater than 0/)
  await assert.rejects(Sandbox.getInfo('no-sandbox'), (error) => error instanceof SandboxError && /Invalid sandbox ID/.test(error.message))
  await assert.rejects(Sandbox.connect(NOBODY), NotFoundError)
  await assert.rejects(Sandbox.create('minimal', { apiKey: 'e2b_' + '0'.repeat(40) }), AuthenticationError)
  await assert.rejects(Sandbox.setTimeout(NOBODY, 1000), SandboxNotFoundError)
})

test('a create that its caller aborts leaves nothing', async () => {
  const metadata = { run: randomUUID() }
  const origin = await Sandbox.create('minimal', { timeoutMs: 60_000 })
  const { snapshotId } = await origin.createSnapshot()
  await origin.kill()
  // Nothing waits to be claimed for a snapshot, and no restore is as fast: none is answered while its caller leaves.
  const impatient = AbortSignal.timeout(30)

  const tried = await Promise.allSettled(
    Array.from({ length: 12 }, () => Sandbox.create(snapshotId, { timeoutMs: 60_000, metadata, signal: impatient })),
  )
  assert.ok(tried.every((one) => one.status === 'rejected'))

  // Asked for later: by the time that it runs, the first one would too.
  const second = await Sandbox.create(snapshotId, { timeoutMs: 60_000, metadata })
  const listed = await Sandbox.list({ query: { metadata } }).nextItems()
  await second.kill()
  await Sandbox.deleteSnapshot(snapshotId)
  assert.deepEqual(listed.map((one) => one.sandboxId), [second.sandboxId])
})

test('ten sandboxes run at once', async () => {
  const outputs = await Promise.all(
    Array.from({ length: 10 }, async (_, n) => {
      const sandbox = await Sandbox.create('minimal', { timeoutMs: 120_000 })
      try {
        return (await sandbox.commands.run(`echo ${n}`)).stdout
      } finally {
        await sandbox.kill()
      }
    }),
  )
  assert.deepEqual(outputs, Array.from({ length: 10 }, (_, n) => `${n}\n`))
})

test('a snapshot is a template, and forks go on', async () => {
  const sandbox = await Sandbox.create('minimal', { timeoutMs: 60_000 })
  try {
    await sandbox.files.write('/tmp/kept', 'kept')
    const snapshot = await sandbox.createSnapshot({ name: 'from-js' })
    await sandbox.files.write('/tmp/kept', 'later')
    const listed = await Sandbox.listSnapshots({ sandboxId: sandbox.sandboxId }).nextItems()
    assert.deepEqual(listed.map((one) => one.snapshotId), [snapshot.snapshotId])
    const child = await Sandbox.create(snapshot.snapshotId, { timeoutMs: 60_000 })
    assert.equal(await child.files.read('/tmp/kept'), 'kept')
    await child.kill()
    const [fork] = await sandbox.fork({ count: 1, timeoutMs: 60_000 })
    assert.equal(await fork.files.read('/tmp/kept'), 'later')
    await fork.kill()
    assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), true)
    assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), false)
  } finally {
    await sandbox.kill()
  }
})

test('a paused sandbox goes on where it was, also with its client object', async () => {
  const sandbox = await Sandbox.create('minimal', { timeoutMs: 60_000 })
  try {
    const counting = await sandbox.commands.run('sleep 600', { background: true })
    assert.equal(await sandbox.pause(), true)
    assert.equal(await sandbox.pause(), false)
    assert.equal((await sandbox.getInfo()).state, 'paused')
    await sandbox.connect({ timeoutMs: 60_000 })
    const alive = await sandbox.commands.list()
    assert.ok(alive.some((one) => one.pid === counting.pid))
  } finally {
    await sandbox.kill()
  }
})
