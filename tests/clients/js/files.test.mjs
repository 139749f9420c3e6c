// The released JavaScript client moves files in and out of a real sandbox.

import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { test } from 'node:test'

import { FileNotFoundError, FilesystemEventType, InvalidArgumentError } from 'e2b'

import { collect, sharedSandbox, until } from './sandbox.mjs'

const shared = sharedSandbox()

function exact(buffer) {
  return buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.length)
}

test('text, bytes, blobs and streams come back as written', async () => {
  const { files, commands } = shared.sandbox
  const data = randomBytes(300_000)

  await files.write('notes/hello.txt', 'grüezi\n')
  await files.write('/tmp/bytes', exact(data))
  await files.write('/tmp/blob', new Blob([data]))
  await files.write('/tmp/stream', new Blob([data]).stream())

  assert.equal(await files.read('notes/hello.txt'), 'grüezi\n')
  assert.deepEqual(Buffer.from(await files.read('/tmp/bytes', { format: 'bytes' })), data)
  assert.deepEqual(Buffer.from(await (await files.read('/tmp/blob', { format: 'blob' })).arrayBuffer()), data)
  assert.deepEqual(await collect(await files.read('/tmp/stream', { format: 'stream' })), data)
  assert.equal((await commands.run("stat -c '%U %a' notes/hello.txt")).stdout, 'user 644\n')
})

test('a large stream goes up and down', async () => {
  const piece = randomBytes(1 << 20)
  const sent = createHash('sha256')
  const source = new ReadableStream({
    start() { this.left = 24 },
    pull(controller) {
      if (this.left-- === 0) return controller.close()
      sent.update(piece)
      controller.enqueue(new Uint8Array(piece))
    },
  })

  await shared.sandbox.files.write('/tmp/large', source, { useOctetStream: true })
  const back = createHash('sha256')
  for await (const part of await shared.sandbox.files.read('/tmp/large', { format: 'stream' })) back.update(part)

  assert.equal(back.digest('hex'), sent.digest('hex'))
})

test('a download that is given up half-way harms nothing', async () => {
  const { files, commands } = shared.sandbox
  await commands.run('head -c 50000000 /dev/zero > /tmp/given-up')

  const reader = (await files.read('/tmp/given-up', { format: 'stream' })).getReader()
  await reader.read()
  await reader.cancel()

  assert.equal((await commands.run('echo here')).stdout, 'here\n')
})

test('many files at once', async () => {
  const { files } = shared.sandbox
  const entries = Array.from({ length: 20 }, (_, n) => ({ path: `/tmp/many/${n}`, data: String(n) }))

  const written = await files.writeFiles(entries)

  assert.deepEqual(written.map((one) => one.path), entries.map((one) => one.path))
  assert.equal(await files.read('/tmp/many/7'), '7')
})

test('gzip both ways', async () => {
  const { files } = shared.sandbox

  await files.write('/tmp/z', 'z'.repeat(10_000), { gzip: true })

  assert.equal(await files.read('/tmp/z', { gzip: true }), 'z'.repeat(10_000))
  assert.equal((await files.getInfo('/tmp/z')).size, 10_000)
})

test('listing tells types, sizes and links', async () => {
  const { files, commands } = shared.sandbox
  await commands.run('mkdir -p d/sub && echo 12345 > d/file && ln -s file d/link && touch d/sub/deep')

  const flat = Object.fromEntries((await files.list('d')).map((one) => [one.name, one]))
  const deep = (await files.list('d', { depth: 2 })).map((one) => one.path)

  assert.deepEqual(Object.keys(flat).sort(), ['file', 'link', 'sub'])
  assert.deepEqual([flat.file.type, flat.file.size, flat.sub.type], ['file', 6, 'dir'])
  assert.ok(flat.link.symlinkTarget.endsWith('file'))
  assert.ok(deep.includes('/home/user/d/sub/deep'))
})

test('make, rename, remove and exists', async () => {
  const { files } = shared.sandbox
  await files.write('a', '1')

  assert.equal(await files.makeDir('x/y'), true)
  assert.equal(await files.makeDir('x/y'), false)
  await files.rename('a', 'x/y/b')

  assert.equal(await files.exists('a'), false)
  assert.equal(await files.exists('x/y/b'), true)
  await files.remove('x')
  assert.equal(await files.exists('x/y/b'), false)
})

test('metadata stays with the file', async () => {
  await shared.sandbox.files.write('tagged', 'x', { metadata: { origin: 'test' } })

  assert.deepEqual((await shared.sandbox.files.getInfo('tagged')).metadata, { origin: 'test' })
})

test('a watch reports what happens, in new directories too, until it is stopped', async () => {
  const { files } = shared.sandbox
  const seen = []
  let exited = false
  await files.makeDir('watched')
  const watch = await files.watchDir('watched', (event) => { seen.push(event) }, {
    recursive: true,
    includeEntry: true,
    onExit: () => { exited = true },
  })

  await files.write('watched/deep/new', '12')
  // What is written before a new directory can be watched is told of once, as there.
  await until(() => seen.some((one) => one.name === 'deep/new' && one.type === FilesystemEventType.CREATE))
  await files.write('watched/deep/new', '345')
  await until(() => seen.some((one) => one.name === 'deep/new' && one.type === FilesystemEventType.WRITE))
  const created = seen.find((one) => one.name === 'deep/new' && one.entry)
  await watch.stop()
  await until(() => exited)
  const before = seen.length
  await files.write('watched/late', '1')
  await shared.sandbox.commands.run('sync')

  assert.equal(created.entry.path, '/home/user/watched/deep/new')
  assert.equal(seen.length, before)
})

test('errors have their classes', async () => {
  const { files } = shared.sandbox

  await assert.rejects(files.read('no-such-file'), FileNotFoundError)
  await assert.rejects(files.list('no-such-dir'), FileNotFoundError)
  await assert.rejects(files.watchDir('no-such-dir', () => {}), FileNotFoundError)
  await assert.rejects(files.list('a\0b'), InvalidArgumentError)
  await files.write('plain', '1')
  await assert.rejects(files.list('plain'), InvalidArgumentError)
})
