/** Drops the databases of an interrupted test run. Started by global-setup.ts: drop-databases.ts PREFIX. */
import { dropDatabases } from './databases.js'

const [prefix] = process.argv.slice(2)
const url = process.env['DATABASE_URL']
if (!prefix || !url) throw new Error('drop-databases.ts needs a prefix and DATABASE_URL.')
await dropDatabases(url, prefix)
