// The released JavaScript client runs commands in a real sandbox.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'

import { AuthenticationError, CommandExitError, InvalidArgumentError, NotFoundError, TimeoutError } from 'e2b'

import { sharedSandbox, until } from './sandbox.mjs'

const shared = sharedSandbox()

test('a command returns its output and exit code', async () => {
  const result = await shared.sandbox.commands.run('echo out; echo err >&2')

  assert.deepEqual([result.stdout, result.stderr, result.exitCode], ['out\n', 'err\n', 0])
})

test('a failing command throws with its exit code', async () => {
  await assert.rejects(shared.sandbox.commands.run('echo before; exit 3'), (error) => {
    assert.ok(error instanceof CommandExitError)
    assert.deepEqual([error.exitCode, error.stdout], [3, 'before\n'])
    return true
  })
})

test('user, env and cwd reach the command', async () => {
  const { commands } = shared.sandbox

  const usual = await commands.run('id -un; pwd; echo $HOME')
  const root = await commands.run('id -u; pwd; echo $A', { user: 'root', cwd: '/tmp', envs: { A: 'b c' } })

  assert.equal(usual.stdout, 'user\n/home/user\n/home/user\n')
  assert.equal(root.stdout, '0\n/tmp\nb c\n')
  await assert.rejects(commands.run('true', { cwd: '/no/such' }), InvalidArgumentError)
  await assert.rejects(commands.run('true', { user: 'nobody-here' }), AuthenticationError)
})

test('output streams while the command runs', async () => {
  const came = []

  await shared.sandbox.commands.run('for i in 1 2 3; do echo $i; sleep 0.4; done', {
    onStdout: (text) => came.push([Date.now(), text]),
  })

  assert.equal(came.map(([, text]) => text).join(''), '1\n2\n3\n')
  assert.ok(came.at(-1)[0] - came[0][0] > 500, 'the lines came together')
})

test('a background command is listed, fed, and waited for', async () => {
  const { commands } = shared.sandbox
  const handle = await commands.run('cat; echo end', { background: true, stdin: true })

  const listed = (await commands.list()).map((one) => one.pid)
  await commands.sendStdin(handle.pid, 'hello\n')
  await handle.sendStdin('again\n')
  await commands.closeStdin(handle.pid)
  const result = await handle.wait()

  assert.ok(listed.includes(handle.pid))
  assert.equal(result.stdout, 'hello\nagain\nend\n')
  assert.ok(!(await commands.list()).some((one) => one.pid === handle.pid))
})

test('connect attaches to a running command', async () => {
  const { commands } = shared.sandbox
  const first = await commands.run('read line; echo got $line', { background: true, stdin: true })

  const second = await commands.connect(first.pid)
  await commands.sendStdin(first.pid, 'word\n')

  assert.equal((await second.wait()).stdout, 'got word\n')
  assert.equal((await first.wait()).stdout, 'got word\n')
  await assert.rejects(commands.connect(999_999), NotFoundError)
})

test('a timeout ends the command with all its descendants', async () => {
  const { commands } = shared.sandbox

  await assert.rejects(commands.run('setsid sleep 5711 & sleep 5712', { timeoutMs: 1000 }), TimeoutError)

  assert.equal((await commands.run("pgrep -fx 'sleep 571[12]' || echo none")).stdout, 'none\n')
})

test('kill ends the command with all its descendants', async () => {
  const { commands } = shared.sandbox
  const handle = await commands.run("setsid sleep 5721 & trap '' TERM; sleep 5722", { background: true })
  await commands.run("until pgrep -fx 'sleep 5722'; do sleep 0.05; done")

  assert.equal(await commands.kill(handle.pid), true)
  await assert.rejects(handle.wait(), CommandExitError)

  assert.equal((await commands.run("pgrep -fx 'sleep 572[12]' || echo none")).stdout, 'none\n')
  assert.equal(await handle.kill(), false)
})

test('a command lives on when its client lets go', async () => {
  const { commands } = shared.sandbox
  const handle = await commands.run('sleep 0.5; touch /tmp/lived-on', { background: true })

  await handle.disconnect()

  await until(() => shared.sandbox.files.exists('/tmp/lived-on'))
})

test('much output arrives whole, and so does what is not ASCII', async () => {
  const size = 20_000_000
  const hash = createHash('sha256')
  let came = 0

  await shared.sandbox.commands.run(`head -c ${size} /dev/zero | tr '\\0' x`, {
    onStdout: (text) => { came += text.length; hash.update(text) },
    timeoutMs: 120_000,
  })
  const split = await shared.sandbox.commands.run("for i in $(seq 20000); do printf 'grüezi日本'; done")

  assert.equal(came, size)
  assert.equal(hash.digest('hex'), createHash('sha256').update('x'.repeat(size)).digest('hex'))
  assert.equal(split.stdout, 'grüezi日本'.repeat(20_000))
})

test('a terminal speaks, resizes and is killed', async () => {
  const { pty } = shared.sandbox
  let seen = ''
  const terminal = await pty.create({ rows: 24, cols: 80, timeoutMs: 60_000, onData: (data) => { seen += Buffer.from(data).toString() } })
  const type = (text) => pty.sendInput(terminal.pid, new TextEncoder().encode(text))

  await type('stty size\n')
  await until(() => seen.includes('24 80'))
  await pty.resize(terminal.pid, { rows: 40, cols: 100 })
  await type('stty size\n')
  await until(() => seen.includes('40 100'))
  const second = await pty.connect(terminal.pid, { onData: () => {} })

  assert.equal(await pty.kill(terminal.pid), true)
  await assert.rejects(terminal.wait(), CommandExitError)
  await assert.rejects(second.wait(), CommandExitError)
  assert.equal(await pty.kill(terminal.pid), false)
})
