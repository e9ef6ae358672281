/** Ends the output of a test run with a plain line, `12 passed, 0 failed`, for scripts and people in a hurry. */
import type { Reporter, SerializedError, TestModule } from 'vitest/node'

export default class ClosingLine implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly SerializedError[]): void {
    const tests = modules.flatMap((module) => [...module.children.allTests()])
    const count = (state: string) => tests.filter((test) => test.result().state === state).length
    // Tests that could not be loaded or lost their hook did not run, and some errors belong to no test.
    const suites = modules.flatMap((module) => [module, ...module.children.allSuites()])
    const broken = suites.filter((suite) => suite.errors().length > 0).length
    const failed = count('failed') + broken + unhandledErrors.length
    const notRun = tests.length - count('passed') - count('failed')
    console.log(`\n${count('passed')} passed, ${failed} failed${notRun > 0 ? `, ${notRun} skipped` : ''}`)
  }
}
