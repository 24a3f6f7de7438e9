#!/usr/bin/env bash
# One would guess that a client never repeats a POST after its answer has begun: the server has taken
# the call, and the call may cost money.
#
# @fal-ai/client 1.10.1 on Node 20 repeats it. The server here answers 200 and sends part of the
# body. Then it closes the connection. The client takes the broken body for a network failure. It
# sends the same POST three more times, so the server counts four calls for one fal.run. The first
# server announces the length of the body by Content-Length. The second one sends the body by chunked
# transfer coding. The client repeats the POST in both cases.
#
# The client waits about one, two and four seconds between its attempts, so this takes ten seconds.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >npm.log
npm install --silent --no-audit --no-fund @fal-ai/client@1.10.1 >>npm.log 2>&1 || { cat npm.log; exit 1; }

cat >cut.js <<'JS'
const http = require("node:http");
const { createFalClient } = require("@fal-ai/client");
const version = require("./node_modules/@fal-ai/client/package.json").version;

const part = '{"images": [';

async function arrivals(name, headers) {
  let count = 0;
  const bodies = new Set();
  const server = http.createServer((request, response) => {
    let body = "";
    request.on("data", (data) => (body += data));
    request.on("end", () => {
      count += 1;
      bodies.add(`${request.method} ${body}`);
      response.writeHead(200, { "Content-Type": "application/json", ...headers });
      // The pause lets the client see the head and the part before the connection closes.
      response.write(part, () => setTimeout(() => request.socket.end(), 100));
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${server.address().port}/api/fal/proxy`;
  const statuses = [];
  const fal = createFalClient({
    proxyUrl: { url, when: "always" },
    fetch: async (...given) => {
      const response = await fetch(...given);
      statuses.push(response.status);
      return response;
    },
  });
  let outcome = "a result";
  try {
    await fal.run("fal-ai/flux/dev", { input: { prompt: "a cat" } });
  } catch (error) {
    outcome = `${error.name}: ${error.message} (cause: ${error.cause?.code})`;
  }
  server.closeAllConnections();
  server.close();
  console.log(`${name}: one fal.run, ${count} arrivals at the server`);
  console.log(`  the calls: ${[...bodies].join(" | ")}`);
  console.log(`  the statuses that the client saw: ${statuses.join(", ")}`);
  console.log(`  what fal.run gave in the end: ${outcome}`);
  return { count, bodies: bodies.size, statuses };
}

(async () => {
  console.log(`Node ${process.version}, @fal-ai/client ${version}`);
  const results = await Promise.all([
    arrivals("Content-Length", { "Content-Length": 1000 }),
    arrivals("chunked", { "Transfer-Encoding": "chunked" }),
  ]);
  const same = results.every(
    ({ count, bodies, statuses }) =>
      count === 4 && bodies === 1 && statuses.length === 4 && statuses.every((status) => status === 200),
  );
  console.log(same ? "As described: four arrivals each." : "No longer as described.");
  process.exit(same ? 0 : 1);
})();
JS
node cut.js
