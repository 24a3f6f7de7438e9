// Reads one URL to its end by fetch for each target, named in a header; prints what came of each.

const [url, ...targets] = process.argv.slice(2);

async function read(target) {
  const outcome = { status: null, complete: false };
  try {
    const response = await fetch(url, { headers: { "x-fal-target-url": target } });
    outcome.status = response.status;
    for await (const _ of response.body);
    outcome.complete = true;
  } catch (error) {
    outcome.error = error.name;
  }
  return [target, outcome];
}

console.log(JSON.stringify(Object.fromEntries(await Promise.all(targets.map(read)))));
process.exit(0);
