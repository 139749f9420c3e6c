// Watches which calls of the client the tests make, for docs/compatibility.md: loaded before them.
//
// Writes $ATOLL_CALLS.<pid>: what there is, and what returned or was refused as not available.

import { writeFileSync } from 'node:fs'

import * as e2b from 'e2b'

// Their own, which their types hide from users.
const INTERNAL = /^_|^constructor$|^resolve|^(create|connect|fork)Sandbox$|^fileUrl$/
const all = new Set()
const seen = {}

function ended(call, error) {
  if (!error) seen[call] = 'works'
  else if (/501.*not available/.test(String(error))) seen[call] ??= 'refused'
}

function watch(owner, name, call) {
  const found = Object.getOwnPropertyDescriptor(owner, name)
  if (typeof found?.value !== 'function' || INTERNAL.test(name)) return
  all.add(call)
  const inner = found.value
  Object.defineProperty(owner, name, {
    ...found,
    value(...given) {
      let result
      try {
        result = inner.apply(this, given)
      } catch (error) {
        ended(call, error)
        throw error
      }
      if (typeof result?.then !== 'function') {
        ended(call)
        meet(result)
        return result
      }
      result.then(
        (value) => {
          ended(call)
          meet(value)
        },
        (error) => ended(call, error),
      )
      return result
    },
  })
}

const met = new Set()

/** Watch a class, and those that it extends. */
function watchClass(noun, owner) {
  if (met.has(owner)) return
  met.add(owner)
  for (let level = owner; level && level !== Function.prototype; level = Object.getPrototypeOf(level)) {
    const own = Object.getOwnPropertyNames(level).filter((name) => !['length', 'name', 'prototype'].includes(name))
    for (const name of own) watch(level, name, `${noun}.${name}`)
    for (const name of Object.getOwnPropertyNames(level.prototype ?? {})) watch(level.prototype, name, `${noun}.${name}`)
  }
}

/** Watch what a call returned, if it is of a class that users hold and cannot name. */
function meet(value) {
  const name = value?.constructor?.name
  if (['CommandHandle', 'WatchHandle', 'SandboxPaginator'].includes(name)) watchClass(name, value.constructor)
  if (!(value instanceof e2b.Sandbox)) return
  for (const part of ['commands', 'files', 'pty', 'git'])
    if (value[part]) watchClass(`Sandbox.${part}`, value[part].constructor)
}

for (const noun of ['Sandbox', 'Volume', 'Secret', 'SandboxPaginator'])
  if (e2b[noun]) watchClass(noun, e2b[noun])

process.on('exit', () => {
  if (process.env.ATOLL_CALLS)
    writeFileSync(`${process.env.ATOLL_CALLS}.${process.pid}`, JSON.stringify({ all: [...all], seen }))
})
