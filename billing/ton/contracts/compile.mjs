// Compiles each *.tolk beside this file to a *.boc, and writes HASHES: name, sha256 of the BoC, hash of the code cell.
// "node compile.mjs" writes here, "node compile.mjs DIR" there.
import { getTolkCompilerVersion, runTolkCompiler } from '@ton/tolk-js'
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const out = process.argv[2] ?? here
const lines = [`# Tolk ${await getTolkCompilerVersion()}: name, sha256 of the BoC, code hash`]
let failed = false

for (const file of readdirSync(here).filter(name => name.endsWith('.tolk')).sort()) {
  const result = await runTolkCompiler({
    entrypointFileName: file,
    fsReadCallback: name => readFileSync(join(here, name.endsWith('.tolk') ? name : name + '.tolk'), 'utf8'),
  })
  if (result.status === 'error') {
    console.error(`${file}: ${result.message}`)
    failed = true
    continue
  }
  const name = file.slice(0, -'.tolk'.length)
  const boc = Buffer.from(result.codeBoc64, 'base64')
  const code = result.codeHashHex.toLowerCase()
  writeFileSync(join(out, name + '.boc'), boc)
  lines.push(`${name} ${createHash('sha256').update(boc).digest('hex')} ${code}`)
  console.log(`${file}: ${boc.length} bytes, code ${code}`)
}
if (failed) {
  process.exit(1)
}
writeFileSync(join(out, 'HASHES'), lines.join('\n') + '\n')
