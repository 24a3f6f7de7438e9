// Makes one call each with several versions of fal's own client, all at once, through a proxy.
//
//   PROXY_URL=... node repeats.mjs <fault> <call>...
//
// A call of version 1.5.0's goes to fal-ai/<fault>-1.5.0-<call>. Prints what came of each as JSON.

// The older versions use a proxy only in a browser.
globalThis.window = { document: {} };

const PACKAGES = {
  "1.5.0": "fal-client-1.5.0",
  "1.6.1": "fal-client-1.6.1",
  "1.8.3": "fal-client-1.8.3",
  "1.10.1": "@fal-ai/client",
};
const [fault, ...names] = process.argv.slice(2);
const input = { prompt: "a fox" };

const calls = {
  run: (fal, model) => fal.run(model, { input }),
  get: (fal, model) => fal.run(model, { input, method: "get" }),
  subscribe: (fal, model) => fal.subscribe(model, { input, pollInterval: 10 }),
  stream: async (fal, model) => (await fal.stream(model, { input })).done(),
};

async function outcome(promise) {
  try {
    const resolved = await promise;
    return ["resolved", resolved.data ?? resolved];
  } catch (error) {
    return [error.status ?? error.name, error.body?.reason ?? error.message];
  }
}

const made = Object.entries(PACKAGES).map(async ([version, name]) => {
  const { fal } = await import(name);
  fal.config({ proxyUrl: process.env.PROXY_URL });
  const outcomes = names.map(async (call) => [
    `${version}-${call}`,
    await outcome(calls[call](fal, `fal-ai/${fault}-${version}-${call}`)),
  ]);
  return Promise.all(outcomes);
});

console.log(JSON.stringify(Object.fromEntries((await Promise.all(made)).flat())));
process.exit(0);
