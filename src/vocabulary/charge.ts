/**
 * What an execution costs. Written without `attempts + 1`, which exceeds the column's type at the largest budget, and
 * bounded, because another program may have left an owned task whose budget is used up.
 */
import { sql } from 'drizzle-orm'
import { jobs } from '../schema.js'

export const attemptsCharged = sql`least(${jobs.attempts}, ${jobs.maxAttempts} - 1) + 1`

/** Whether the execution that is charged uses the last attempt. */
export const budgetUsed = sql`${jobs.attempts} >= ${jobs.maxAttempts} - 1`
