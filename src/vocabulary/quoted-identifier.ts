/** A name as PostgreSQL reads it in a statement, whatever characters it has. */
export function quotedIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}
