// Reads URLs, one JSON string per line; prints what `new URL` makes of each, one JSON per line.

import { createInterface } from "node:readline";

const out = [];
for await (const line of createInterface({ input: process.stdin })) {
  try {
    const { protocol, hostname, port, username, password, hash } = new URL(JSON.parse(line));
    out.push(JSON.stringify([protocol, hostname, port, username, password, hash]));
  } catch {
    out.push("null");
  }
}
process.stdout.write(out.join("\n") + "\n");
