/** What printing a shared listener reveals. */
import { inspect } from 'node:util'
import { createNotifyListener } from 'apalis-drizzle'
import { drizzle } from 'drizzle-orm/postgres-js'
import { describe, expect, it } from 'vitest'

describe('a listener', () => {
  it('prints its type and not its connection [SHARED-14]', () => {
    const listener = createNotifyListener(drizzle('postgres://somebody:secret@127.0.0.1:5432/nothing'))
    const printed = inspect(listener, { depth: 9, showHidden: true })
    expect(printed).toContain('NotifyListener')
    expect(printed).not.toContain('secret')
    expect(JSON.stringify(listener)).not.toContain('secret')
  })
})
