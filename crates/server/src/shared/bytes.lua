-- Charges an upload to each key in turn and stops at the first that has too little left; or, if ARGV[1] is 'owed',
-- charges all of them whatever they have left: what is too much is paid by those who come later.
-- KEYS: meters. ARGV[2..], for each: microseconds for one cell, cells at once, cells to charge.
-- Gives for each that was asked: 1 or 0, microseconds to wait.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local owed = ARGV[1] == 'owed'
local answer = {}
for i, key in ipairs(KEYS) do
  local each, most, charge = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  local used, at = string.match(redis.call('GET', key) or '', '^(%S+) (%S+)$')
  used, at = tonumber(used) or 0, tonumber(at) or now
  used = math.max(0, used - math.max(0, now - at) / each)
  local over = used + charge - most
  if over > 0.000001 and not owed then
    answer[#answer + 1] = {0, math.ceil(over * each)}
    break
  end
  used = used + charge
  redis.call('SET', key, string.format('%.17g %.0f', used, now), 'PX', math.ceil(used * each / 1000) + 1000)
  answer[#answer + 1] = {1, 0}
end
return answer
