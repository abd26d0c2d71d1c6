-- Sends GET, or with the argument `create` a POST of a user that is new each time; prints what it measured as JSON.
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

function init(arguments)
  if arguments[1] == "create" then
    local count, run = 0, arguments[2]
    request = function()
      count = count + 1
      local body = string.format('{"email": "%s-%d-%d@example.com", "name": "Ada Lovelace"}', run, number, count)
      return wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, body)
    end
  end
end

function done(summary, latency, _)
  local failed = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "failed": %d, "p50": %d, "p99": %d, "slowest": %d}\n',
    summary.requests, summary.duration, failed, latency:percentile(50), latency:percentile(99), latency.max
  ))
end
