// Calls of the released JavaScript client that no other file here makes.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { request } from 'node:http'
import { test } from 'node:test'

import {
  CommandExitError,
  FileNotFoundError,
  GitAuthError,
  GitUpstreamError,
  InvalidArgumentError,
  NotFoundError,
  Sandbox,
  SandboxError,
  SandboxNotFoundError,
  Template,
} from 'e2b'

import { NOBODY, sharedSandbox } from './sandbox.mjs'

const shared = sharedSandbox()

/** Start a program that says `ready` when it listens. */
async function serve(command) {
  await new Promise((ready, failed) => {
    const onStdout = (text) => text.includes('ready') && ready()
    shared.sandbox.commands.run(command, { background: true, timeoutMs: 0, onStdout }).catch(failed)
  })
}

/** Ask a port by its host name, on the home's own address. */
function ask(host) {
  return new Promise((answered, failed) => {
    request(process.env.E2B_SANDBOX_URL, { headers: { host } }, (answer) => {
      answer.setEncoding('utf8')
      let text = ''
      answer.on('data', (piece) => { text += piece })
      answer.on('end', () => answered([answer.statusCode, text]))
    }).on('error', failed).end()
  })
}

test('getHost leads to a port that is open', async () => {
  await shared.sandbox.files.write('/tmp/served/index.html', 'here')
  const program = "import functools, http.server as h; f = functools.partial(h.SimpleHTTPRequestHandler, directory='/tmp/served'); s = h.HTTPServer(('', 8103), f); print('ready', flush=True); s.serve_forever()"
  await serve(`python3 -c "${program}"`)

  assert.deepEqual(await ask(shared.sandbox.getHost(8103)), [200, 'here'])
  assert.equal((await ask(shared.sandbox.getHost(8104)))[0], 502)
})

test('signed URLs need nothing but themselves', async () => {
  const { sandbox } = shared
  const form = new FormData()
  form.append('file', new Blob(['by a stranger']))

  const up = await fetch(await sandbox.uploadUrl('/tmp/up', { useSignatureExpiration: 60 }), { method: 'POST', body: form })
  const down = await fetch(await sandbox.downloadUrl('/tmp/up'))
  const late = await fetch(await sandbox.downloadUrl('/tmp/up', { useSignatureExpiration: -10 }))

  assert.equal(up.status, 200)
  assert.equal(await down.text(), 'by a stranger')
  assert.equal(late.status, 401)
})

test('metrics and all that is known are those of one sandbox', async () => {
  const { sandbox } = shared
  const hour = 3_600_000

  const known = await Sandbox.getFullInfo(sandbox.sandboxId)
  const later = await sandbox.getMetrics({ start: new Date(Date.now() + hour), end: new Date(Date.now() + 2 * hour) })

  assert.equal(known.sandboxId, sandbox.sandboxId)
  assert.ok(Array.isArray(await sandbox.getMetrics()))
  assert.deepEqual(later, [])
  await assert.rejects(Sandbox.getMetrics(NOBODY), SandboxNotFoundError)
  await assert.rejects(Sandbox.getFullInfo(NOBODY), SandboxNotFoundError)
})

test('lists are filtered, and gone on with by another', async () => {
  const metadata = { run: randomUUID() }
  const made = []
  for (let n = 0; n < 3; n++) made.push(await Sandbox.create('minimal', { timeoutMs: 60_000, metadata }))
  const [one, two, three] = made.map((sandbox) => sandbox.sandboxId)
  const ids = async (query, more) => (await Sandbox.list({ query: { metadata, ...query }, order: 'asc', ...more }).nextItems()).map((item) => item.sandboxId)
  try {
    assert.equal(await made[1].betaPause(), true)
    assert.equal(await made[1].betaPause(), false)
    const { startedAt } = await made[2].getInfo()

    assert.deepEqual(await ids({ state: ['running'] }), [one, three])
    assert.deepEqual(await ids({ state: ['paused'] }), [two])
    assert.deepEqual(await ids({ template: 'minimal' }), [one, two, three])
    assert.deepEqual(await ids({ template: 'base' }), [])
    assert.deepEqual(await ids({ startedAfter: startedAt }), [three])
    const first = Sandbox.list({ query: { metadata }, order: 'asc', limit: 2 })
    await first.nextItems()
    assert.deepEqual(await ids({}, { nextToken: first.nextToken }), [three])
    await assert.rejects(ids({}, { nextToken: '%%' }), (error) => error instanceof SandboxError && /Invalid next token/.test(error.message))
    await assert.rejects(ids({}, { limit: 1000 }), /limit/)
    await assert.rejects(Sandbox.betaPause(NOBODY), SandboxNotFoundError)
  } finally {
    await Promise.all(made.map((sandbox) => sandbox.kill()))
  }
})

test('the gateway of MCP is asked for in vain', async () => {
  const { sandbox } = shared

  assert.ok(sandbox.getMcpUrl().includes(`50005-${sandbox.sandboxId}`))
  await assert.rejects(sandbox.getMcpToken(), FileNotFoundError)
  await sandbox.files.write('/etc/mcp-gateway/.token', 'token', { user: 'root' })
  assert.equal(await sandbox.getMcpToken(), 'token')
  await assert.rejects(Sandbox.create({ mcp: { 'github/a/b': { runCmd: 'x' } } }), /400: .*mcp-gateway/)
})

test('a handle is typed to until its input is closed', async () => {
  const { commands } = shared.sandbox
  const command = await commands.run('cat', { background: true, stdin: true })
  const deaf = await commands.run('sleep 60', { background: true })

  await command.sendStdin('typed\n')
  await command.closeStdin()

  assert.equal((await command.wait()).stdout, 'typed\n')
  await assert.rejects(command.sendStdin('late'), NotFoundError)
  await assert.rejects(deaf.sendStdin('x'), SandboxError)
  assert.equal(await deaf.kill(), true)
})

test('templates are found by name', async () => {
  for (const exists of [(name) => Template.exists(name), (name) => Template.aliasExists(name)]) {
    assert.equal(await exists('base'), true)
    assert.equal(await exists('base:default'), true)
    assert.equal(await exists('no-such'), false)
  }
})

test('builds and tags of templates are refused by name', async () => {
  const recipe = () => Template().fromImage('debian')
  const build = { templateId: 'x', buildId: randomUUID() }
  const calls = [
    () => Template.build(recipe(), 'x'),
    () => Template.buildInBackground(recipe(), 'x'),
    () => Template.getBuildStatus(build),
    () => Template.getTags('base'),
    () => Template.assignTags('base', 'new'),
    () => Template.removeTags('base', 'new'),
  ]
  for (const call of calls) await assert.rejects(call(), /501: .* not available/)
})

test('git clones, pushes and pulls what a server guards', async () => {
  const { git, commands, files } = shared.sandbox
  const url = 'http://127.0.0.1:8419/one'
  const ada = { username: 'ada', password: 'secret' }
  await files.write('/tmp/git_server.py', await readFile(new URL('../git_server.py', import.meta.url), 'utf8'))
  await git.init('/home/user/served/one', { bare: true, initialBranch: 'main' })
  await commands.run('git -C /home/user/served/one config http.receivepack true')
  await serve('python3 /tmp/git_server.py 8419 /home/user/served')

  await assert.rejects(git.clone(url, { path: '/tmp/none' }), GitAuthError)
  await assert.rejects(git.clone(url, { password: 'secret' }), InvalidArgumentError)
  await git.clone(url, { path: '/tmp/one', ...ada })
  await git.configureUser('Ada', 'ada@example.com', { scope: 'local', path: '/tmp/one' })
  await files.write('/tmp/one/a.txt', 'a')
  await git.add('/tmp/one', { files: ['a.txt'] })
  await git.commit('/tmp/one', 'first')
  await git.push('/tmp/one', { remote: 'origin', branch: 'main', ...ada })
  await git.clone(url, { path: '/tmp/two', branch: 'main', depth: 1, ...ada })
  await git.commit('/tmp/one', 'second', { allowEmpty: true })
  await git.push('/tmp/one', ada)
  await git.pull('/tmp/two', ada)

  assert.equal(await files.read('/tmp/two/a.txt'), 'a')
  assert.match((await commands.run('git -C /tmp/two log --oneline')).stdout, /second/)
  assert.equal(await git.remoteGet('/tmp/two', 'origin'), url)
  assert.equal(await git.remoteGet('/tmp/two', 'none'), undefined)
  await git.createBranch('/tmp/two', 'mine')
  await assert.rejects(git.push('/tmp/two', { setUpstream: false }), GitUpstreamError)
  await assert.rejects(git.pull('/tmp/two'), GitUpstreamError)
})

test('git stages, takes back, and changes branches and settings', async () => {
  const { git, files } = shared.sandbox
  const path = '/tmp/plain'
  const grace = { authorName: 'Grace', authorEmail: 'grace@example.com' }
  await git.init(path, { initialBranch: 'trunk' })
  await files.write(`${path}/a.txt`, 'first')
  await git.add(path)
  await git.commit(path, 'first', grace)
  await files.write(`${path}/a.txt`, 'second')
  await git.add(path)

  assert.equal((await git.status(path)).hasStaged, true)
  await git.reset(path)
  assert.equal((await git.status(path)).hasStaged, false)
  await git.restore(path, { paths: ['a.txt'] })
  assert.equal((await git.status(path)).isClean, true)
  await assert.rejects(git.reset(path, { target: 'none' }), CommandExitError)
  await git.createBranch(path, 'mine')
  await git.checkoutBranch(path, 'trunk')
  assert.deepEqual((await git.branches(path)).branches.sort(), ['mine', 'trunk'])
  await git.deleteBranch(path, 'mine')
  await assert.rejects(git.checkoutBranch(path, 'mine'), CommandExitError)
  await git.remoteAdd(path, 'origin', 'http://127.0.0.1:1/none')
  await assert.rejects(git.remoteAdd(path, 'origin', 'http://127.0.0.1:1/none'), CommandExitError)
  const local = { scope: 'local', path }
  await git.setConfig('pull.rebase', 'true', local)
  assert.equal(await git.getConfig('pull.rebase', local), 'true')
  assert.equal(await git.getConfig('pull.none', local), undefined)
  const host = { host: '127.0.0.1:8419', protocol: 'http', envs: { HOME: '/tmp/plain' } }
  await git.dangerouslyAuthenticate({ username: 'ada', password: 'secret', ...host })
  assert.match(await files.read(`${path}/.git-credentials`), /ada:secret/)
  await assert.rejects(git.dangerouslyAuthenticate({ username: 'ada', password: '', ...host }), InvalidArgumentError)
})
