/** Every guard of the statements, and the tests of which one fails without it. */
export interface Mutant {
  readonly file: string
  /** What the guard asks. */
  readonly guard: string
  /** Its texts, each of which stands in the file once, and what remains of them. Two where it is asked twice. */
  readonly cuts: readonly Cut[]
  readonly tests: readonly string[]
}

/**
 * Not listed is what only spares the database work: the conditions by which a statement finds an index, and the first of
 * two looks at a row where the second decides. Nor are the conditions of lists and counts, which decide nothing.
 */
export const mutants: readonly Mutant[] = [
  ...of(
    'src/statements/ack.ts',
    ['test/ack.test.ts', 'test/ack-group.test.ts', 'test/two-sessions.test.ts', 'test/model.test.ts'],
    [
      ['the task is claimed', 'and(owned(table), sameClaim(table)', 'and(sameClaim(table)'],
      [
        'the claim is of this attempt',
        'sameClaim(table), sql`${table.attempts} = claim.attempts`)',
        'sameClaim(table))',
      ],
      ['the task is of the queue', "eq(table.jobType, sql.placeholder('queue')),", ''],
      ['the worker owns the task', "eq(table.lockBy, sql.placeholder('worker')),", ''],
      ['the claim is of this second', 'sql`${table.lockAt} = to_timestamp(claim.lock_at::float8)`,', ''],
      [
        'uncharged, the next claim is of another second',
        "greatest(coalesce(${due}, ${jobs.runAt}), ${jobs.lockAt} + interval '1 second')",
        'coalesce(${due}, ${jobs.runAt})',
      ],
      ['a locked task is passed over', '{ of: task, skipLocked: true }', '{ of: task }'],
      ['the history is of this outcome', 'and(asWritten, sql`${jobs.attempts}', 'and(sql`${jobs.attempts}'],
      [
        'the history is of this attempt',
        'asWritten, sql`${jobs.attempts} = claim.attempts + 1`, not(cancelled)',
        'asWritten, not(cancelled)',
      ],
      ['the history is no cancellation', 'claim.attempts + 1`, not(cancelled))', 'claim.attempts + 1`)'],
    ],
  ),
  ...of(
    'src/statements/claim.ts',
    ['test/claim.test.ts', 'test/claim-by-id.test.ts', 'test/pause.test.ts', 'test/model.test.ts'],
    [
      [
        'the worker has this name',
        "${workers.id} = ${sql.placeholder('worker')} and ${workers.workerType}",
        '${workers.workerType}',
      ],
      [
        'the worker is of the queue',
        "and ${workers.workerType} = ${sql.placeholder('queue')}\n      and ${workers.leaseToken}",
        'and ${workers.leaseToken}',
      ],
      ['the registration is of this process', "and ${workers.leaseToken} = ${sql.placeholder('leaseToken')}", ''],
      [
        'the heartbeat is fresh',
        "and ${workers.lastSeen} > now() - ${sql.placeholder('thresholdMs')}::float8 * interval '1 ms'",
        '',
      ],
      ['the queue is not paused', "and not ${isPaused(sql.placeholder('queue'))})`", ')`'],
      [
        'the task is due',
        '${jobs.priority} = level.priority and ${jobs.runAt} <= now()',
        '${jobs.priority} = level.priority',
      ],
      [
        'the task is due, beyond the levels',
        'and ${jobs.runAt} <= now() and ${mayClaim()}\n         order',
        'and ${mayClaim()}\n         order',
      ],
      [
        'a locked task is skipped',
        'order by ${jobs.runAt}, ${jobs.id} limit ${limit} for update skip locked',
        'order by ${jobs.runAt}, ${jobs.id} limit ${limit} for update',
      ],
      [
        'a locked task is skipped, beyond the levels',
        'order by ${jobs.priority} desc, ${jobs.runAt}, ${jobs.id} limit ${limit} for update skip locked',
        'order by ${jobs.priority} desc, ${jobs.runAt}, ${jobs.id} limit ${limit} for update',
      ],
      ['the worker may claim', 'task where ${mayClaim()} limit', 'task limit'],
      ['the worker may claim, beyond the levels', ' and ${mayClaim()}\n         order', '\n         order'],
      ['beyond the levels is what is not of a level', ' and ${jobs.priority} < ${lastLevel}', ''],
    ],
  ),
  ...of(
    'src/statements/lock-tasks.ts',
    ['test/lock-task.test.ts', 'test/claim-by-id.test.ts'],
    [
      ['the task is of the queue', 'guard(inQueue, free, sql', 'guard(free, sql'],
      ['the task may be claimed, or is the worker’s', 'guard(inQueue, free, sql', 'guard(inQueue, sql'],
      ['the task is due', 'guard(inQueue, free, sql`${jobs.runAt} <= ${now}`)', 'guard(inQueue, free)'],
      ['the queue is not paused', '(${claimable()} and not ${isPaused(jobs.jobType)})', '${claimable()}'],
      ['its own tasks only when it asks for them', "${sql.placeholder('again')}::boolean and ", ''],
      [
        'the worker is of the queue',
        "${workers.id} = ${sql.placeholder('worker')} and ${workers.workerType} = ${jobs.jobType}",
        "${workers.id} = ${sql.placeholder('worker')}",
      ],
      [
        'the registration is of this name',
        "${workers.id} = ${sql.placeholder('worker')} and ${workers.workerType}",
        '${workers.workerType}',
      ],
      ['the task is its own', "(${owned()} and ${jobs.lockBy} = ${sql.placeholder('worker')})", 'false'],
      ['no process has the name', 'sql`${workers.leaseToken} is null\n      and', 'sql`'],
      [
        'the registration is fresh',
        "and ${workers.lastSeen} > ${now} - ${sql.placeholder('thresholdMs')}::float8 * interval '1 ms'",
        '',
      ],
      ['a locked task is skipped', ' skip locked`', '`'],
    ],
  ),
  ...of(
    'src/vocabulary/claimable.ts',
    ['test/claim.test.ts', 'test/model.test.ts', 'test/sweep.test.ts'],
    [
      [
        'a Pending task has attempts left',
        "and(eq(table.status, 'Pending'), lt(table.attempts, table.maxAttempts))",
        "eq(table.status, 'Pending')",
      ],
      [
        'a Failed task has attempts left',
        "and(eq(table.status, 'Failed'), gt(table.maxAttempts, table.attempts))",
        "eq(table.status, 'Failed')",
      ],
    ],
  ),
  ...of(
    'src/vocabulary/priority-levels.ts',
    ['test/claim.test.ts', 'test/wake-up.test.ts'],
    [
      [
        'a waiting task is of the queue',
        "and(sql`${jobs.jobType} = ${sql.placeholder('queue')}`, claimable())!",
        'claimable()',
      ],
      [
        'a waiting task may be claimed',
        "and(sql`${jobs.jobType} = ${sql.placeholder('queue')}`, claimable())!",
        "sql`${jobs.jobType} = ${sql.placeholder('queue')}`",
      ],
    ],
  ),
  ...of(
    'src/statements/heartbeat.ts',
    ['test/register.test.ts', 'test/model.test.ts'],
    [
      ['the row is of this name', "eq(workers.id, sql.placeholder('worker')),", ''],
      ['the row is of the queue', "eq(workers.workerType, sql.placeholder('queue')),", ''],
      ['the row is of this process', "eq(workers.leaseToken, sql.placeholder('leaseToken')),", ''],
      ['the task is of the queue', "eq(jobs.jobType, sql.placeholder('queue')), ", ''],
      ['the task is of the worker', "eq(jobs.lockBy, sql.placeholder('worker')), ", ''],
      [
        'the task is claimed',
        "eq(jobs.lockBy, sql.placeholder('worker')), owned()",
        "eq(jobs.lockBy, sql.placeholder('worker'))",
      ],
    ],
  ),
  ...of(
    'src/statements/mark-running.ts',
    ['test/mark-running.test.ts', 'test/two-sessions.test.ts', 'test/model.test.ts'],
    [
      [
        'the task is claimed',
        "sql`${task.status} in ('Queued', 'Running')`,",
        '',
        "guard(sql`${jobs.status} in ('Queued', 'Running')`)",
        'sql`true`',
      ],
      ['the task is of the queue', "eq(task.jobType, sql.placeholder('queue')),", ''],
      ['the worker owns the task', "eq(task.lockBy, sql.placeholder('worker')),", ''],
      ['the claim is of this attempt', 'sql`${task.attempts} = claim.attempts`,', ''],
      ['the claim is of this second', 'sql`${task.lockAt} = to_timestamp(claim.lock_at::float8)`,', ''],
      ['a locked task is skipped', '{ of: task, skipLocked: true }', '{ of: task }'],
    ],
  ),
  ...of(
    'src/statements/sweep.ts',
    ['test/sweep.test.ts', 'test/two-sessions.test.ts', 'test/model.test.ts'],
    [
      [
        'the silent worker is of the queue',
        'and(eq(silent.workerType, queue), silentFor(silent))',
        'silentFor(silent)',
      ],
      ['the worker is silent', 'and(eq(silent.workerType, queue), silentFor(silent))', 'eq(silent.workerType, queue)'],
      ['a worker whose heartbeat is under way is skipped', '{ of: silent, skipLocked: true }', '{ of: silent }'],
      ['the orphan is of the queue', 'and(eq(task.jobType, queue), owned(task))', 'owned(task)'],
      ['the orphan is claimed', 'and(eq(task.jobType, queue), owned(task))', 'eq(task.jobType, queue)'],
      ['a task that is being acknowledged is skipped', '{ of: task, skipLocked: true }', '{ of: task }'],
      [
        'silence counts from the start of the server',
        'greatest(${table.lastSeen}, pg_postmaster_start_time())',
        '${table.lastSeen}',
      ],
    ],
  ),
  ...of(
    'src/vocabulary/orphan.ts',
    ['test/sweep.test.ts', 'test/model.test.ts'],
    [
      ['only what ran is charged', "sql`${jobs.status} = 'Running'`", 'sql`true`'],
      ['uncharged, the next claim is of another second', "${jobs.lockAt} + interval '1 second', ", ''],
    ],
  ),
  ...of(
    'src/statements/register.ts',
    ['test/register.test.ts', 'test/two-sessions.test.ts', 'test/model.test.ts'],
    [
      ['no other process is taking the name', '.where(sql`name.free`)', ''],
      [
        'the name is this process’s, or nobody’s',
        'setWhere: sql`${workers.leaseToken} = excluded.lease_token or ${stale()}`,',
        '',
      ],
      [
        'only with the name come its tasks',
        'and(exists(db.select({ worker: registered.worker }).from(registered)), ',
        'and(',
      ],
      ['a process keeps the tasks of a name that it keeps', 'notExists(renewed), ', ''],
      ['a task that is being acknowledged is skipped', "for('update', { skipLocked: true })", "for('update')"],
      [
        'the task is of the queue',
        'and(eq(jobs.jobType, queue), eq(jobs.lockBy, name), owned())',
        'and(eq(jobs.lockBy, name), owned())',
      ],
      [
        'the task is of the name',
        'and(eq(jobs.jobType, queue), eq(jobs.lockBy, name), owned())',
        'and(eq(jobs.jobType, queue), owned())',
      ],
      [
        'the task is claimed',
        'and(eq(jobs.jobType, queue), eq(jobs.lockBy, name), owned())',
        'and(eq(jobs.jobType, queue), eq(jobs.lockBy, name))',
      ],
      [
        'what a process keeps is of this name',
        'and(eq(workers.id, name), eq(workers.workerType, queue), eq(workers',
        'and(eq(workers.workerType, queue), eq(workers',
      ],
      [
        'what a process keeps is of the queue',
        'and(eq(workers.id, name), eq(workers.workerType, queue), eq(workers',
        'and(eq(workers.id, name), eq(workers',
      ],
      [
        'what a process keeps is its own',
        "eq(workers.workerType, queue), eq(workers.leaseToken, sql.placeholder('leaseToken'))",
        'eq(workers.workerType, queue)',
      ],
      [
        'silence counts from the start of the server',
        'greatest(${workers.lastSeen}, case when ${workers.leaseToken} is not null then pg_postmaster_start_time() end)',
        '${workers.lastSeen}',
      ],
      [
        'but not that of a released name',
        'case when ${workers.leaseToken} is not null then pg_postmaster_start_time() end',
        'pg_postmaster_start_time()',
      ],
      ['names are of the queue', "eq(workers.workerType, sql.placeholder('queue')), like(", 'like('],
      [
        'the released name is this one',
        "eq(workers.id, sql.placeholder('worker')),\n        eq(workers.workerType",
        'eq(workers.workerType',
      ],
      [
        'the released name is of the queue',
        "eq(workers.workerType, sql.placeholder('queue')),\n        eq(workers.leaseToken",
        'eq(workers.leaseToken',
      ],
      [
        'only the holder of the token releases the name',
        "eq(workers.workerType, sql.placeholder('queue')),\n        eq(workers.leaseToken, sql.placeholder('leaseToken')),",
        "eq(workers.workerType, sql.placeholder('queue')),",
      ],
    ],
  ),
  ...of(
    'src/statements/prune.ts',
    ['test/prune.test.ts', 'test/retention.test.ts', 'test/model.test.ts'],
    [
      ['the task is of the queue', 'eq(table.jobType, queue),', ''],
      ['the task has this status', 'sql`${table.status} = ${status}`.inlineParams(),', ''],
      [
        'a failed task has no attempt left',
        "status === 'Failed' ? sql`${table.attempts} >= ${table.maxAttempts}` : undefined,",
        '',
      ],
      ['the task is old', 'lt(task.doneAt, ago(olderThanMs)),', ''],
      [
        'the task has not been old for long, where told to',
        'newlyOldMs === undefined ? undefined : gte(task.doneAt, ago(olderThanMs + newlyOldMs)),',
        '',
      ],
      [
        'a batch goes on where the one before ended',
        'fromUs === undefined ? undefined : gte(task.doneAt, instant(fromUs)),',
        '',
      ],
      ['nobody else prunes the queue, where told to', 'alone === true', 'false'],
      [
        'a locked task is skipped',
        ".limit(limit)\n      .for('update', { skipLocked: true })",
        ".limit(limit)\n      .for('update')",
      ],
      [
        'the worker is silent',
        "sql`${table.lastSeen} < now() - ${sql.placeholder('staleForMs')}::float8 * interval '1 ms'`",
        "sql`${sql.placeholder('staleForMs')}::float8 is not null`",
      ],
      [
        'there is an index of the tasks of a worker',
        "sql`exists (select from pg_index where indexrelid = to_regclass('apalis.jobs_job_type_lock_by_idx') and indisvalid)`,",
        '',
      ],
      ['that index is complete', ' and indisvalid)`', ')`'],
      [
        'no task of the queue names the worker',
        '${jobs.jobType} = ${silent.workerType} and ${jobs.lockBy} = ${silent.id}',
        '${jobs.jobType} = ${silent.workerType} and false',
      ],
      [
        'tasks of other queues do not keep the worker',
        '${jobs.jobType} = ${silent.workerType} and ${jobs.lockBy} = ${silent.id}',
        '${jobs.lockBy} = ${silent.id}',
      ],
      [
        'tasks of other workers do not keep the worker',
        '${jobs.jobType} = ${silent.workerType} and ${jobs.lockBy} = ${silent.id}',
        '${jobs.jobType} = ${silent.workerType}',
      ],
      [
        'a locked worker is skipped',
        ".limit(WORKER_BATCH)\n      .for('update', { skipLocked: true })",
        ".limit(WORKER_BATCH)\n      .for('update')",
      ],
    ],
  ),
  ...of(
    'src/statements/register-by-admin.ts',
    ['test/admin.test.ts', 'test/lock-task.test.ts'],
    [
      ['the row of a worker is left alone', 'setWhere: isNull(workers.leaseToken),', ''],
      [
        'it waits for a worker that is taking the name',
        'select pg_advisory_xact_lock(hashtext(${name}), hashtext(${queue}))',
        'select 1',
      ],
    ],
  ),
  ...of(
    'src/statements/owner-standing.ts',
    ['test/lock-task.test.ts', 'test/claim-by-id.test.ts'],
    [
      ['the registration is that of a worker', "when ${workers.leaseToken} is not null then 'worker'", ''],
      [
        'the registration was not renewed',
        "when ${workers.lastSeen} <= statement_timestamp() - ${sql.placeholder('thresholdMs')}::float8 * interval '1 ms' then 'silent'",
        '',
      ],
      ['the registration is of this name', "eq(workers.id, sql.placeholder('worker')), ", ''],
      ['the registration is of the queue', ', sql`${workers.workerType} = asked.queue`', ''],
      ['the queue is that of the task', ' where ${jobs.id} = ${taskId}::text)`', ')`'],
    ],
  ),
  ...of(
    'src/vocabulary/paused-queues.ts',
    ['test/pause.test.ts'],
    [['the pause is of the queue', ' where ${pausedQueues.queue} = ${queue})`', ')`']],
  ),
  ...of(
    'src/statements/pause.ts',
    ['test/pause.test.ts'],
    [
      ['a pause that stands is left alone', '.onConflictDoNothing()', ''],
      ['what is resumed is the queue', ".where(eq(pausedQueues.queue, sql.placeholder('queue')))", ''],
    ],
  ),
  ...of(
    'src/statements/next-due.ts',
    ['test/pause.test.ts'],
    [['the queue is not paused', ".where(sql`not ${isPaused(sql.placeholder('queue'))}`)", '']],
  ),
  ...of(
    'src/vocabulary/steering.ts',
    ['test/steering.test.ts', 'test/two-sessions.test.ts'],
    [
      ['the task is of the queue', "and(eq(jobs.jobType, sql.placeholder('queue')), or(", 'and(or('],
      ['the task has the status', 'or(...chosen.map((status) => AS_INDEXED[status])), ', ''],
      ['only what may be changed is changed', 'select id from found where accepted', 'select id from found'],
      ['the task is locked before it is judged', "\n      .for('update'),", ','],
      ['tasks are locked in the order of their ids', '\n      .orderBy(jobs.id)', ''],
      ['a task that another transaction holds is not waited for too long', 'and(chosen, LOCK_TIMEOUT)', 'chosen'],
      [
        'in a transaction of the caller nothing is set',
        "case when ${sql.placeholder('lockTimeout')}::text = '' then ''",
        "case when ${sql.placeholder('lockTimeout')}::text = '-' then ''",
      ],
    ],
  ),
  ...of(
    'src/statements/cancel.ts',
    ['test/steering.test.ts', 'test/model.test.ts'],
    [
      ['the task has not ended', 'accepts: UNFINISHED', 'accepts: sql`true`'],
      [
        'a failed task has an attempt left',
        "${jobs.status} = 'Failed' and ${jobs.attempts} < ${jobs.maxAttempts}",
        "${jobs.status} = 'Failed'",
      ],
      [
        'only what ran is charged',
        "case when ${jobs.status} = 'Running' then ${attemptsCharged} else ${jobs.attempts} end",
        '${attemptsCharged}',
      ],
    ],
  ),
  ...of(
    'src/vocabulary/cancellation.ts',
    ['test/steering.test.ts'],
    [['only a worker that held the task is told', "${before.status} in ('Running', 'Queued')", 'true']],
  ),
  ...of(
    'src/statements/find-cancelled.ts',
    ['test/cancel.test.ts'],
    [
      ['the task has ended', "sql`${jobs.status} = 'Killed'`,", ''],
      ['the task is of the queue', "eq(jobs.jobType, sql.placeholder('queue')),", ''],
      ['the worker owned the task', "eq(jobs.lockBy, sql.placeholder('worker')),", ''],
      ['the claim is of this second', 'sql`${jobs.lockAt} = to_timestamp(claim.lock_at::float8)`,', ''],
      ['the end is a cancellation', 'sql`${jobs.lastResult} = ${CANCELLED}`,', ''],
    ],
  ),
  ...of(
    'src/statements/retry-now.ts',
    ['test/steering.test.ts', 'test/two-sessions.test.ts', 'test/model.test.ts'],
    [
      ['the task waits or was given up', "sql`${jobs.status} in ('Pending', 'Failed', 'Killed')`,", ''],
      ['the task is not due already', 'sql`not ${isDue}`,', ''],
      [
        'a task that is due may be claimed',
        '(${claimable()} and ${jobs.runAt} <= clock_timestamp())',
        '(${jobs.runAt} <= clock_timestamp())',
      ],
      [
        'a task that may be claimed is due',
        '(${claimable()} and ${jobs.runAt} <= clock_timestamp())',
        '${claimable()}',
      ],
      ['the attempts can be raised', 'sql`${jobs.attempts} < ${sql.raw(String(MAX_INT4))}`,', ''],
      ['of a queue, scheduled tasks are not meant', "unlessSaid: ['Failed', 'Killed'],", ''],
      ['the next claim is of another second', 'greatest(clock_timestamp(), ${earliestRunAt})', 'clock_timestamp()'],
      ['the history is that of a failed task', "case when ${jobs.status} = 'Failed' then ${column} end", '${column}'],
    ],
  ),
  ...of(
    'src/statements/reschedule.ts',
    ['test/steering.test.ts', 'test/two-sessions.test.ts', 'test/model.test.ts'],
    [
      ['the task waits', 'accepts: WAITING', 'accepts: sql`true`'],
      ['the next claim is of another second', 'greatest(${at}, ${earliestRunAt})', '${at}'],
      [
        'only what is due already may be due earlier',
        '${claimable()} and ${jobs.runAt} <= clock_timestamp()',
        '${claimable()}',
      ],
    ],
  ),
  ...of(
    'src/vocabulary/refence.ts',
    ['test/two-sessions.test.ts', 'test/model.test.ts'],
    [
      ['the next claim is of another second', " + interval '1 second'`", '`'],
      [
        'also after a claim whose lock time is not stored any more',
        "date_trunc('second', clock_timestamp()))",
        "'-infinity'::timestamptz)",
      ],
    ],
  ),
  ...of(
    'src/statements/set-priority.ts',
    ['test/steering.test.ts', 'test/model.test.ts'],
    [['the task waits', 'accepts: WAITING', 'accepts: sql`true`']],
  ),
  ...of(
    'src/statements/remove.ts',
    ['test/steering.test.ts', 'test/model.test.ts'],
    [
      ['the task has ended', 'accepts: FINISHED', 'accepts: sql`true`'],
      [
        'a failed task has no attempt left',
        "${jobs.status} = 'Failed' and ${jobs.attempts} >= ${jobs.maxAttempts}",
        "${jobs.status} = 'Failed'",
      ],
    ],
  ),
  ...of(
    'src/vocabulary/index-conditions.ts',
    ['test/steering.test.ts', 'test/model.test.ts'],
    [
      [
        'a failed task that waits has an attempt left',
        "(${jobs.status} = 'Failed' and ${jobs.attempts} < ${jobs.maxAttempts})",
        "${jobs.status} = 'Failed'",
      ],
    ],
  ),
  ...of(
    'src/vocabulary/charge.ts',
    ['test/sweep.test.ts', 'test/ack.test.ts', 'test/model.test.ts'],
    [
      [
        'no more is charged than there is',
        'least(${jobs.attempts}, ${jobs.maxAttempts} - 1) + 1',
        '${jobs.attempts} + 1',
      ],
      ['the last attempt is the last', '${jobs.attempts} >= ${jobs.maxAttempts} - 1', 'false'],
    ],
  ),
  ...of(
    'src/vocabulary/announce.ts',
    ['test/wake-up.test.ts', 'test/steering.test.ts'],
    [
      ['the task may be claimed', "${jobs.status} in ('Pending', 'Failed') and ", ''],
      ['the task is due soon', " and ${jobs.runAt} <= clock_timestamp() + interval '5 seconds'", ''],
    ],
  ),
  ...of(
    'src/statements/find-ended.ts',
    ['test/wait.test.ts'],
    [
      ['the task has ended', '.where(sql`${task.ended} is not false`)', ''],
      [
        'a failed task has no attempt left',
        "${jobs.status} = 'Failed' and ${jobs.attempts} >= ${jobs.maxAttempts}",
        "${jobs.status} = 'Failed'",
      ],
    ],
  ),
  ...of(
    'src/statements/insert-tasks.ts',
    ['test/push.test.ts', 'test/push-group.test.ts', 'test/outbox.test.ts', 'test/notify.test.ts'],
    [
      [
        'a push waits for no other session',
        "(select set_config('lock_timeout', '2s', true)) is not null and ${SWITCHED}",
        '${SWITCHED}',
      ],
    ],
  ),
  ...of(
    'src/vocabulary/new-jobs.ts',
    ['test/push.test.ts', 'test/push-group.test.ts', 'test/outbox.test.ts', 'test/notify.test.ts'],
    [
      [
        'in a transaction a taken key is no error',
        '.onConflictDoNothing({\n      target: [newJobs.jobType, newJobs.idempotencyKey],\n      where: isNotNull(newJobs.idempotencyKey),\n    })',
        '',
      ],
      ['what is not to be announced is not', "${sql.placeholder('notifyOnce')}", "''"],
    ],
  ),
  ...of(
    'src/vocabulary/taken-keys.ts',
    ['test/push.test.ts', 'test/push-group.test.ts', 'test/outbox.test.ts'],
    [
      ['the key is of the queue', 'eq(jobs.jobType, sql`pushed.job_type`),', ''],
      ['the key is this one', 'eq(jobs.idempotencyKey, sql`pushed.idempotency_key`),', ''],
      ['a task does not stand in its own way', 'ne(jobs.id, sql`pushed.id`),', ''],
    ],
  ),
]

type Cut = readonly [from: string, to: string]
type Removal = readonly [guard: string, from: string, to: string, secondFrom?: string, secondTo?: string]

function of(file: string, tests: readonly string[], removals: readonly Removal[]): Mutant[] {
  return removals.map(([guard, from, to, secondFrom, secondTo = '']) => ({
    file,
    guard,
    cuts: [[from, to], ...(secondFrom === undefined ? [] : [[secondFrom, secondTo] as const])],
    tests,
  }))
}
