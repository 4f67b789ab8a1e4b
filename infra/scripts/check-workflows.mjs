#!/usr/bin/env node
// What GitHub's own language service has to say of workflows: names that no context has, jobs that do not exist, expressions that do
// not parse. A schema knows none of that. `make infra-files` runs it; it asks nobody.
//
//   infra/scripts/check-workflows.mjs FILE…
import { readFileSync } from "node:fs";
import { register } from "node:module";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const module = (name) => pathToFileURL(resolve(process.env.INFRA_TOOLS, "node_modules", name)).href;

// The package is written for bundlers, which read JSON as it stands.
const hook = `
import { readFile } from "node:fs/promises";
export const load = async (url, context, next) => url.endsWith(".json")
    ? { format: "module", source: "export default " + await readFile(new URL(url), "utf8"), shortCircuit: true }
    : next(url, context);`;
register("data:text/javascript," + encodeURIComponent(hook));

const { validate } = await import(module("@actions/languageservice/dist/index.js"));
const { TextDocument } = await import(module("vscode-languageserver-textdocument/lib/esm/main.js"));

for (const file of process.argv.slice(2)) {
    const document = TextDocument.create(pathToFileURL(resolve(file)).href, "yaml", 1, readFileSync(file, "utf8"));
    for (const { message, range } of await validate(document)) {
        console.error(`${file}:${range.start.line + 1}: ${message}`);
        process.exitCode = 1;
    }
}
