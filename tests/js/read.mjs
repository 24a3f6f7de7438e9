// Reads one URL to its end by fetch, with the target in a header; prints what came of it as JSON.

const [url, target] = process.argv.slice(2);
const outcome = { status: null, bytes: 0, complete: false };
try {
  const response = await fetch(url, { headers: { "x-fal-target-url": target } });
  outcome.status = response.status;
  for await (const piece of response.body) {
    outcome.bytes += piece.length;
  }
  outcome.complete = true;
} catch (error) {
  outcome.error = error.name;
}
console.log(JSON.stringify(outcome));
