-- Counts a request for each key in turn and stops at the first that has none left.
-- KEYS: meters. ARGV, for each: microseconds for one request, requests at once.
-- Gives for each that was asked: 1 or 0, requests left, microseconds to wait.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answer = {}
for i, key in ipairs(KEYS) do
  local each, burst = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local used, at = string.match(redis.call('GET', key) or '', '^(%S+) (%S+)$')
  used, at = tonumber(used) or 0, tonumber(at) or now
  -- A clock that was set back lets nothing flow off and nothing pile up.
  used = math.max(0, used - math.max(0, now - at) / each)
  -- Less than a millionth of a request is rounding.
  local over = used + 1 - burst
  if over > 0.000001 then
    answer[#answer + 1] = {0, 0, math.ceil(over * each)}
    break
  end
  used = used + 1
  redis.call('SET', key, string.format('%.17g %.0f', used, now), 'PX', math.ceil(used * each / 1000) + 1000)
  answer[#answer + 1] = {1, math.floor(burst - used + 0.000001), 0}
end
return answer
