/** The README names everything that can be set or can happen; its code is compiled and run by `npm run readme`. */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import { describe, expect, it } from 'vitest'

const root = fileURLToPath(new URL('..', import.meta.url))
const read = (file: string) => readFileSync(`${root}/${file}`, 'utf8')
const readme = read('README.md')

describe('README', () => {
  it.each([
    ['src/vocabulary/queue.ts', 'QueueOptions'],
    ['src/vocabulary/retry.ts', 'Backoff'],
    ['src/vocabulary/task.ts', 'TaskOptions'],
    ['src/vocabulary/settings.ts', 'StorageConfig'],
    ['src/vocabulary/settings.ts', 'WorkerOptions'],
    ['src/processes/setup.ts', 'SetupOptions'],
  ])('names every option of %s: %s', (file, name) => {
    const options = membersOf(file, name)
    expect(options.length).toBeGreaterThan(0)
    expect(options.filter((option) => !new RegExp(`\\b${option}\\b`).test(readme))).toEqual([])
  })

  it('names every type of event', () => {
    const types = read('src/vocabulary/events.ts').match(/'(worker|listener|heartbeat|orphan|tasks?)\.\w+'/g) ?? []
    expect(types.length).toBeGreaterThan(10)
    expect(types.filter((type) => !readme.includes(`\`${type.slice(1, -1)}\``))).toEqual([])
  })

  it('has a heading or a word for every code of an error, and none for others', () => {
    const codes = Array.from(read('src/vocabulary/errors.ts').matchAll(/readonly code = '(\w+)'/g), ([, code]) => code)
    expect(codes.length).toBeGreaterThan(10)
    expect(codes.filter((code) => !readme.includes(`\`${code}\``))).toEqual([])
    const headings = Array.from(readme.matchAll(/^### `(\w+)`$/gm), ([, code]) => code)
    expect(headings.filter((code) => !codes.includes(code))).toEqual([])
  })

  it('names the two commands that run the demo and the tests', () => {
    expect(readme).toContain('npm ci && npm run demo\nnpm ci && npm test\n')
  })

  it('gives a reason for every dependency', () => {
    const manifest = JSON.parse(read('package.json')) as Record<string, Record<string, string>>
    const names = Object.keys({ ...manifest['dependencies'], ...manifest['peerDependencies'] })
    const [, table = ''] = readme.split('## Dependencies')
    expect(names.filter((name) => !table.includes(`\`${name}\``))).toEqual([])
  })

  it('links to nothing that does not exist', () => {
    const links = Array.from(readme.matchAll(/\]\(([^)#\s]+)\)/g), ([, link]) => link as string)
    expect(links.filter((link) => !ts.sys.fileExists(`${root}/${link}`))).toEqual([])
    const anchors = Array.from(readme.matchAll(/\]\(#([^)]+)\)/g), ([, anchor]) => anchor)
    const headings = Array.from(readme.matchAll(/^#+ (.+)$/gm), ([, heading = '']) => anchorOf(heading))
    expect(anchors.filter((anchor = '') => !headings.includes(anchor))).toEqual([])
  })
})

function membersOf(file: string, name: string): string[] {
  const source = ts.createSourceFile(file, read(file), ts.ScriptTarget.Latest)
  const declaration = source.statements.find((node) => ts.isInterfaceDeclaration(node) && node.name.text === name)
  if (declaration === undefined || !ts.isInterfaceDeclaration(declaration)) throw new Error(`${file} has no ${name}.`)
  return declaration.members.map((member) => (member.name as ts.Identifier).text)
}

/** As GitHub makes them. */
function anchorOf(heading: string): string {
  return heading
    .toLowerCase()
    .replaceAll(/[^\w\- ]/g, '')
    .replaceAll(' ', '-')
}
