// The released JavaScript client of the code interpreter.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import { Sandbox } from '@e2b/code-interpreter'

let sandbox

before(async () => {
  sandbox = await Sandbox.create({ timeoutMs: 600_000, envs: { GIVEN: 'by create' } })
})
after(async () => {
  await sandbox?.kill()
})

test('a cell has a result, output and a number', async () => {
  const heard = []
  const execution = await sandbox.runCode("print('out'); 40 + 2", { onStdout: (message) => heard.push(message.line) })
  assert.equal(execution.text, '42')
  assert.deepEqual(execution.logs.stdout, ['out\n'])
  assert.deepEqual(heard, ['out\n'])
  assert.ok(execution.executionCount > 0)
})

test('an error has a name, a value and a traceback', async () => {
  const { error } = await sandbox.runCode("raise ValueError('no')")
  assert.equal(error.name, 'ValueError')
  assert.equal(error.value, 'no')
  assert.match(error.traceback, /Traceback/)
})

test('variables last for a cell', async () => {
  const show = "import os; [os.environ.get('GIVEN'), os.environ.get('MINE')]"
  assert.equal((await sandbox.runCode(show, { envs: { MINE: 'x' } })).text, "['by create', 'x']")
  assert.equal((await sandbox.runCode(show)).text, "['by create', None]")
})

test('contexts are made, listed, restarted and removed', async () => {
  const context = await sandbox.createCodeContext({ cwd: '/tmp' })
  assert.equal((await sandbox.runCode('import os; os.getcwd()', { context })).text, '/tmp')
  assert.ok((await sandbox.listCodeContexts()).some((one) => one.id === context.id))
  await sandbox.restartCodeContext(context)
  await sandbox.removeCodeContext(context)
  await assert.rejects(sandbox.runCode('1', { context }), /not found/)
})

test('a plot is a picture and data', async () => {
  const code = "import matplotlib.pyplot as plt\nplt.bar(['a', 'b'], [1, 2])\nplt.title('T')\nplt.show()"
  const { results } = await sandbox.runCode(code)
  assert.equal(results.length, 1)
  assert.ok(results[0].png)
  assert.equal(results[0].chart.type, 'bar')
  assert.deepEqual(results[0].chart.elements.map((bar) => [bar.label, bar.value]), [['a', 1], ['b', 2]])
})

test('other languages are spoken', async () => {
  assert.equal((await sandbox.runCode('[1, 2].map((n) => n * 2).length', { language: 'js' })).text, '2')
  assert.deepEqual((await sandbox.runCode('echo hi', { language: 'bash' })).logs.stdout.join(''), 'hi\n')
})

test('a timeout stops the cell and keeps the kernel', async () => {
  await sandbox.runCode('kept = 7')
  await assert.rejects(sandbox.runCode('import time\nwhile True: time.sleep(0.1)', { timeoutMs: 1000 }))
  assert.equal((await sandbox.runCode('kept')).text, '7')
})
