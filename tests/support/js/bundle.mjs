// Prints fal's own client as one script for a page, which gives it the global `fal`.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const modules = {};

function add(file) {
  if (file in modules) return file;
  const text = readFileSync(file, "utf8");
  const source = file.endsWith(".json") ? `module.exports = ${text}` : text;
  const names = {};
  modules[file] = { names, source };
  for (const [, name] of source.matchAll(/\brequire\(["']([^"']+)["']\)/g)) {
    names[name] = add(createRequire(file).resolve(name));
  }
  return file;
}

const entry = add(createRequire(import.meta.url).resolve("@fal-ai/client"));
const parts = Object.entries(modules).map(
  ([file, { names, source }]) =>
    `${JSON.stringify(file)}: [${JSON.stringify(names)}, (module, exports, require) => {${source}\n}]`,
);
console.log(`{
const modules = {${parts.join(",\n")}};
const made = {};
const load = (file) => {
  if (!(file in made)) {
    const module = (made[file] = { exports: {} });
    const [names, make] = modules[file];
    make(module, module.exports, (name) => load(names[name]));
  }
  return made[file].exports;
};
globalThis.fal = load(${JSON.stringify(entry)}).fal;
}`);
