import type { PGlite } from '@electric-sql/pglite'
import { drizzle as nodePostgres } from 'drizzle-orm/node-postgres'
import { drizzle as pglite } from 'drizzle-orm/pglite'
import { drizzle as postgresJs } from 'drizzle-orm/postgres-js'
import { withReplicas } from 'drizzle-orm/pg-core'
import type { Pool } from 'pg'
import type { Sql } from 'postgres'
import { describe, expectTypeOf, it } from 'vitest'
import type { PgDb, PgTx, TxOf } from '../../src/vocabulary/db.js'

declare const sql: Sql
declare const pool: Pool
declare const lite: PGlite
declare function needsTx(tx: PgTx): void
declare function needsDb(db: PgDb): void

describe('a database is no transaction and a transaction no database', () => {
  it('with postgres.js', () => {
    const db = postgresJs({ client: sql })
    needsDb(db)
    // @ts-expect-error a database is no transaction
    needsTx(db)
    void db.transaction(async (tx) => {
      needsTx(tx)
      // @ts-expect-error a transaction is no database
      needsDb(tx)
      await tx.transaction(async (nested) => needsTx(nested))
      expectTypeOf(tx).toEqualTypeOf<TxOf<typeof db>>()
    })
  })

  it('with node-postgres', () => {
    const db = nodePostgres({ client: pool })
    needsDb(db)
    // @ts-expect-error a database is no transaction
    needsTx(db)
    void db.transaction(async (tx) => {
      needsTx(tx)
      // @ts-expect-error a transaction is no database
      needsDb(tx)
      await tx.transaction(async (nested) => needsTx(nested))
      expectTypeOf(tx).toEqualTypeOf<TxOf<typeof db>>()
    })
  })

  it('with PGlite', () => {
    const db = pglite({ client: lite })
    needsDb(db)
    // @ts-expect-error a database is no transaction
    needsTx(db)
    void db.transaction(async (tx) => {
      needsTx(tx)
      // @ts-expect-error a transaction is no database
      needsDb(tx)
      await tx.transaction(async (nested) => needsTx(nested))
      expectTypeOf(tx).toEqualTypeOf<TxOf<typeof db>>()
    })
  })

  it('with replicas', () => {
    const db = withReplicas(postgresJs({ client: sql }), [postgresJs({ client: sql })])
    needsDb(db)
    // @ts-expect-error a database is no transaction
    needsTx(db)
  })
})

describe('other things', () => {
  it('are neither', () => {
    // @ts-expect-error the driver's client
    needsDb(sql)
    // @ts-expect-error the driver's client
    needsTx(pool)
    expectTypeOf<PgTx>().not.toBeAny()
    expectTypeOf<PgDb>().not.toBeAny()
  })
})
