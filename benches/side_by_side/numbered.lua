-- Asks for random numbers at the end of the path; the greatest is the argument. The requests are made beforehand, so that making
-- them costs the driver nothing while it measures.
local requests = {}
local next_one = 0

function init(arguments)
  math.randomseed(os.time())
  for i = 1, 20000 do
    requests[i] = wrk.format("GET", wrk.path .. math.random(1, tonumber(arguments[1])))
  end
end

function request()
  next_one = next_one % #requests + 1
  return requests[next_one]
end

function done(summary, latency)
  local e = summary.errors
  print(string.format("result %d %d %d %d", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(99)))
end
