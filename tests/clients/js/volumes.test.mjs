// The released JavaScript client keeps files in volumes, and gives them to sandboxes.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, before, test } from 'node:test'

import { Sandbox, Volume, VolumeNotFoundError, VolumePathNotFoundError } from 'e2b'

let volume

before(async () => {
  volume = await Volume.create(`js-${randomUUID().slice(0, 8)}`)
})
after(async () => {
  assert.equal(await Volume.destroy(volume.volumeId), true)
  assert.equal(await Volume.destroy(volume.volumeId), false)
})

test('a volume is listed, found and connected to', async () => {
  const listed = await Volume.list()
  const info = await Volume.getInfo(volume.volumeId)
  const again = await Volume.connect(volume.volumeId)

  assert.ok(listed.some((one) => one.volumeId === volume.volumeId && one.name === volume.name))
  assert.equal(info.token, volume.token)
  assert.equal(again.name, volume.name)
})

test('text and bytes come back as they went', async () => {
  const bytes = new Uint8Array(300_000).map((_, index) => index % 251)
  await volume.writeFile('/text.txt', 'grüße')
  await volume.writeFile('/bytes', bytes.buffer)

  assert.equal(await volume.readFile('/text.txt'), 'grüße')
  assert.deepEqual(new Uint8Array(await volume.readFile('/bytes', { format: 'bytes' })), bytes)
})

test('a stream is written and read', async () => {
  const parts = ['one ', 'two ', 'three']
  const stream = new ReadableStream({
    pull(controller) {
      const part = parts.shift()
      part === undefined ? controller.close() : controller.enqueue(new TextEncoder().encode(part))
    },
  })
  await volume.writeFile('/stream', stream)

  let text = ''
  for await (const part of await volume.readFile('/stream', { format: 'stream' })) text += new TextDecoder().decode(part)
  assert.equal(text, 'one two three')
})

test('owner and mode are as asked for, and changed', async () => {
  const made = await volume.writeFile('/owned', 'x', { uid: 7, gid: 8, mode: 0o600 })
  const changed = await volume.updateMetadata('/owned', { mode: 0o644 })

  assert.deepEqual([made.uid, made.gid, made.mode], [7, 8, 0o600])
  assert.deepEqual([changed.uid, changed.mode], [7, 0o644])
})

test('directories are made and listed to a depth', async () => {
  await volume.makeDir('/a/b/c', { force: true })
  const near = await volume.list('/a')
  const deep = await volume.list('/a', { depth: 2 })

  assert.deepEqual(near.map((one) => one.path), ['/a/b'])
  assert.deepEqual(deep.map((one) => one.path).sort(), ['/a/b', '/a/b/c'])
})

test('what is removed is gone', async () => {
  await volume.writeFile('/gone', 'x')
  await volume.remove('/gone')

  assert.equal(await volume.exists('/gone'), false)
  await assert.rejects(volume.readFile('/gone'), VolumePathNotFoundError)
})

test('what is not there is said', async () => {
  await assert.rejects(volume.getInfo('/no'), VolumePathNotFoundError)
  await assert.rejects(volume.list('/no'), VolumePathNotFoundError)
  await assert.rejects(volume.remove('/no'), VolumePathNotFoundError)
  await assert.rejects(volume.writeFile('/no/x', ''), VolumePathNotFoundError)
  await assert.rejects(Volume.getInfo('v0123456789abcdefghij'), VolumeNotFoundError)
})

test('a sandbox sees it, and what it writes stays', async () => {
  await volume.writeFile('/hello', 'from outside')
  const sandbox = await Sandbox.create('minimal', { timeoutMs: 60_000, volumeMounts: { '/data': volume } })
  try {
    assert.equal(await sandbox.files.read('/data/hello'), 'from outside')
    await sandbox.files.write('/data/answer', 'from inside')
  } finally {
    await sandbox.kill()
  }
  assert.equal(await volume.readFile('/answer'), 'from inside')
})
