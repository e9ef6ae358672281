/**
 * `npm run --silent behaviours`: one line for each behaviour of test/behaviours.txt, `ID covered FILE`, `ID open` or
 * `ID none REASON`. An id counts when it stands as `[ID]` in a string of a test file: the name of a test or its table.
 */
import { readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

const root = fileURLToPath(new URL('..', import.meta.url))

const behaviours = await readBehaviours('test/behaviours.txt')
const covered = new Map<string, string>()
const unknown: string[] = []
for (const file of await testFiles()) {
  for (const id of idsIn(file, await readFile(path.join(root, file), 'utf8'))) {
    if (!behaviours.has(id)) unknown.push(`${file} names ${id}, which is not in test/behaviours.txt.`)
    if (!covered.has(id)) covered.set(id, file)
  }
}

for (const [id, none] of behaviours) console.log(stateOf(id, none))
for (const line of unknown) console.error(line)
if (unknown.length > 0) process.exitCode = 1

function stateOf(id: string, none: string | undefined): string {
  const file = covered.get(id)
  if (file !== undefined) return `${id} covered ${file}`
  return none === undefined ? `${id} open` : `${id} none ${none}`
}

/** The ids in order, each with the reason why it has no counterpart, if so. */
async function readBehaviours(file: string): Promise<Map<string, string | undefined>> {
  const behaviours = new Map<string, string | undefined>()
  let last = ''
  for (const line of (await readFile(path.join(root, file), 'utf8')).split('\n')) {
    const id = /^[A-Z]+-\d+(?= )/.exec(line)?.[0]
    const none = /^ {2}none: (.+)$/.exec(line)?.[1]
    if (id !== undefined) {
      if (behaviours.has(id)) throw new Error(`${file} has ${id} twice.`)
      behaviours.set((last = id), undefined)
    } else if (none !== undefined && behaviours.has(last)) {
      behaviours.set(last, none)
    } else if (line !== '' && !line.startsWith('#')) {
      throw new Error(`${file} has a line that is neither a behaviour nor a reason: ${line}`)
    }
  }
  return behaviours
}

async function testFiles(): Promise<string[]> {
  const files = await readdir(path.join(root, 'test'), { recursive: true })
  const tests = files.filter((file) => /\.(test|test-d)\.ts$/.test(file) && !file.includes('node_modules'))
  return tests.map((file) => path.posix.join('test', ...file.split(path.sep))).sort()
}

function idsIn(file: string, source: string): Set<string> {
  const ids = new Set<string>()
  const visit = (node: ts.Node): void => {
    if (ts.isLiteralExpression(node) || ts.isTemplateHead(node) || ts.isTemplateMiddleOrTemplateTail(node)) {
      for (const [, id] of node.text.matchAll(/\[([A-Z]{3,}-\d{2,})\]/g)) ids.add(id as string)
    }
    ts.forEachChild(node, visit)
  }
  visit(ts.createSourceFile(file, source, ts.ScriptTarget.Latest))
  return ids
}
