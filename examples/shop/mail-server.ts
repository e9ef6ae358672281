/**
 * The outside world: takes a mail and writes it to a file. Like real ones it has its moods, which here depend on the
 * domain of the recipient.
 */
import { writeFile } from 'node:fs/promises'
import path from 'node:path'

export interface Mail {
  readonly to: string
  /** A mail with the id of an earlier one replaces it: whoever sends at least once needs a receiver that can tell. */
  readonly id: string
  readonly text: string
}

export type Answer =
  | { readonly status: 'accepted'; readonly file: string }
  | { readonly status: 'no such mailbox' }
  | { readonly status: 'greylisted'; readonly retryAfterMs: number }
  | { readonly status: 'closed'; readonly opensInMs: number }

export class MailServer {
  readonly #seen = new Set<string>()

  constructor(readonly folder: string) {}

  /** @throws {Error} when the connection breaks. */
  async send(mail: Mail, signal: AbortSignal): Promise<Answer> {
    const isFirst = !this.#seen.has(mail.id)
    this.#seen.add(mail.id)
    switch (domainOf(mail.to)) {
      case 'unknown.example':
        return { status: 'no such mailbox' }
      case 'down.example':
        throw new Error('The mail server does not answer.')
      case 'flaky.example':
        if (isFirst) throw new Error('The mail server closed the connection.')
        break
      case 'greylist.example':
        if (isFirst) return { status: 'greylisted', retryAfterMs: 500 }
        break
      case 'weekdays.example':
        if (isFirst) return { status: 'closed', opensInMs: 1_500 }
    }
    const file = path.join(this.folder, `${mail.id}.txt`)
    await writeFile(file, `To: ${mail.to}\n\n${mail.text}\n`, { signal })
    return { status: 'accepted', file }
  }
}

function domainOf(address: string): string {
  return address.slice(address.indexOf('@') + 1)
}
