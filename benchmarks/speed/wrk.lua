-- Arguments: the target and the method. Writes a summary as JSON to standard error.
function init(arguments)
  wrk.method = arguments[2]
  wrk.path = "/api/fal/proxy"
  wrk.headers["x-fal-target-url"] = arguments[1]
  wrk.headers["accept"] = "application/json"
  wrk.headers["user-agent"] = "benchmark"
  if arguments[2] == "POST" then
    wrk.headers["content-type"] = "application/json"
    wrk.body = '{"prompt": "a red fox in the snow, early morning", "image_size": "landscape_4_3"}'
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.stderr:write(string.format(
    '{"requests": %d, "microseconds": %d, "errors": %d, "p50": %d, "p99": %d}\n',
    summary.requests,
    summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50),
    latency:percentile(99)
  ))
end
