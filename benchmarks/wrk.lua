-- Sends what its arguments say, and prints what it measured as JSON. Arguments: the kind of request (get, create, patch
-- or delete), a text that no other run has, how many users there are, and a file with access tokens to send in turn. Users have the ids that `Project.seed` gives.
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

local function address(user)
  return string.format("/users/00000000-0000-7000-8000-%012x", user)
end

function init(arguments)
  local kind, run, users = arguments[1], arguments[2], tonumber(arguments[3])
  local headers = { ["Content-Type"] = "application/json" }
  local count = 0
  local tokens = {}
  if arguments[4] and arguments[4] ~= "" then
    for line in io.lines(arguments[4]) do
      tokens[#tokens + 1] = { ["Authorization"] = "Bearer " .. line }
    end
    request = function()
      count = count + 1
      return wrk.format("GET", nil, tokens[1 + count % #tokens])
    end
  end
  if kind == "create" then
    request = function()
      count = count + 1
      local body = string.format('{"email": "%s-%d-%d@example.com", "name": "Ada Lovelace"}', run, number, count)
      return wrk.format("POST", nil, headers, body)
    end
  elseif kind == "patch" then
    request = function()
      count = count + 1
      -- Far apart, so that two requests at once do not wait for one row.
      local body = string.format('{"name": "%s-%d"}', run, count)
      return wrk.format("PATCH", address(1 + count * 7919 % users), headers, body)
    end
  elseif kind == "delete" then
    request = function()
      count = count + 1
      return wrk.format("DELETE", address(count))
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
