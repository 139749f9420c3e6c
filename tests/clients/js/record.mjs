// Watches which calls of the clients the tests make, for docs/compatibility.md: loaded before them.
//
// Writes $ATOLL_CALLS.<pid>: for each package what there is, and what returned, was refused as not available, or failed.

import { writeFileSync } from 'node:fs'

import * as interpreter from '@e2b/code-interpreter'
import * as e2b from 'e2b'

// Their own, which their types hide from users.
const INTERNAL = new RegExp(
  [
    '^_|^constructor$|^resolve|^(create|connect|fork)Sandbox$|^fileUrl$|^getJupyterRequestUrl$|^handleRequestError$',
    '^start$|^flushDecoders$|^(handle|iterate)Events$|^updatePagination$',
    '^run(Git|Shell)$|^getRemoteUrl$|^hasUpstream$|^withRemoteCredentials$',
  ].join('|'),
)
// Of templates: they write down what a build would be, and ask no server.
const WRITTEN_DOWN = /^to/
// From the best.
const ENDS = ['works', 'refused', 'failed']
const E2B = { all: new Set(), seen: {} }
const INTERPRETER = { all: new Set(), seen: {} }

function ended({ seen }, call, failed, error) {
  const end = !failed ? 'works' : /501.*not available/.test(String(error)) ? 'refused' : 'failed'
  if (!(call in seen) || ENDS.indexOf(end) < ENDS.indexOf(seen[call])) seen[call] = end
}

function watch(client, owner, name, call) {
  const found = Object.getOwnPropertyDescriptor(owner, name)
  if (typeof found?.value !== 'function' || INTERNAL.test(name)) return
  client.all.add(call)
  const inner = found.value
  Object.defineProperty(owner, name, {
    ...found,
    value(...given) {
      let result
      try {
        result = inner.apply(this, given)
      } catch (error) {
        ended(client, call, true, error)
        throw error
      }
      if (typeof result?.then !== 'function') {
        ended(client, call, false)
        meet(result)
        return result
      }
      result.then(
        (value) => {
          ended(client, call, false)
          meet(value)
        },
        (error) => ended(client, call, true, error),
      )
      return result
    },
  })
}

// What calls return, of classes that users cannot name.
const MET = ['CommandHandle', 'WatchHandle', 'SandboxPaginator', 'SnapshotPaginator', 'SecretPaginator']
const met = new Set()

/** Watch a class, and those that it extends. */
function watchClass(noun, owner) {
  if (met.has(owner)) return
  met.add(owner)
  for (let level = owner; level && level !== Function.prototype; level = Object.getPrototypeOf(level))
    watchOwn(E2B, noun, level)
}

/** Watch what a class has of its own. */
function watchOwn(client, noun, owner) {
  const own = Object.getOwnPropertyNames(owner).filter((name) => !['length', 'name', 'prototype'].includes(name))
  for (const name of own) watch(client, owner, name, `${noun}.${name}`)
  const methods = Object.getOwnPropertyNames(owner.prototype ?? {})
  for (const name of methods) watch(client, owner.prototype, name, `${noun}.${name}`)
}

/** Watch what a call returned, if it is one of those. */
function meet(value) {
  const name = value?.constructor?.name
  if (MET.includes(name)) watchClass(name, value.constructor)
  if (!(value instanceof e2b.Sandbox)) return
  for (const part of ['commands', 'files', 'pty', 'git'])
    if (value[part]) watchClass(`Sandbox.${part}`, value[part].constructor)
}

for (const noun of ['Sandbox', 'Volume', 'Secret', 'SandboxPaginator'])
  if (e2b[noun]) watchClass(noun, e2b[noun])
for (const name of Object.getOwnPropertyNames(e2b.Template ?? {}))
  if (!WRITTEN_DOWN.test(name)) watch(E2B, e2b.Template, name, `Template.${name}`)
// The rest of it is inherited: e2b's.
watchOwn(INTERPRETER, 'Sandbox', interpreter.Sandbox)

process.on('exit', () => {
  if (!process.env.ATOLL_CALLS) return
  const told = ({ all, seen }) => ({ all: [...all], seen })
  const packages = { e2b: told(E2B), '@e2b/code-interpreter': told(INTERPRETER) }
  writeFileSync(`${process.env.ATOLL_CALLS}.${process.pid}`, JSON.stringify(packages))
})
