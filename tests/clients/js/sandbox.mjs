// One sandbox for each file of tests, and what they share.

import { after, before } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { Sandbox } from 'e2b'

export const NOBODY = 'i' + '0'.repeat(20)

/** A sandbox that lives as long as the file's tests; use it inside of tests only. */
export function sharedSandbox(template = 'base') {
  const shared = {}
  before(async () => {
    shared.sandbox = await Sandbox.create(template, { timeoutMs: 600_000 })
  })
  after(async () => {
    await shared.sandbox?.kill()
  })
  return shared
}

/** Wait until something is so, for a bounded time. */
export async function until(isSo, seconds = 20) {
  const end = Date.now() + seconds * 1000
  while (!(await isSo())) {
    if (Date.now() > end) throw new Error(`not so within ${seconds} s: ${isSo}`)
    await sleep(50)
  }
}

export async function collect(stream) {
  const pieces = []
  for await (const piece of stream) pieces.push(piece)
  return Buffer.concat(pieces)
}
